"""An IMAP server that answers as it is told: for what a real one says only on a bad day.

    with scripted({"LOGIN": "NO [UNAVAILABLE] The directory is down"}) as port: …

A command that nothing is said of gets a plain answer: one folder, INBOX, with one mail.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

MAIL = b"Subject: x\r\n\r\nHi.\r\n"


def fetched(*items: str) -> str:
    """The answer to what the mail is asked for, with such items besides."""
    also = "".join(f" {item}" for item in items)
    return f"* 1 FETCH (UID 1 RFC822.SIZE {len(MAIL)}{also} BODY[] {{{len(MAIL)}}}\r\n{MAIL.decode()})\r\nOK done"


_ANSWERS = {
    "greeting": "* OK ready",
    "CAPABILITY": "* CAPABILITY IMAP4rev1 AUTH=PLAIN AUTH=OAUTHBEARER\r\nOK done",
    "LIST": '* LIST () "/" INBOX\r\nOK done',
    "EXAMINE": "* 1 EXISTS\r\n* OK [UIDVALIDITY 1] valid\r\n* OK [UIDNEXT 2] next\r\nOK [READ-ONLY] done",
    "UID SEARCH": "* SEARCH 1\r\nOK done",
    "UID FETCH": fetched(),
    "LOGOUT": "* BYE bye\r\nOK done",
}


@contextlib.contextmanager
def scripted(answers: dict[str, str], heard: list[str] | None = None) -> Iterator[int]:
    """The port of such a server, for one connection; the last line of an answer is given the command's tag.

    After `* BYE` as the last line, and for an empty answer, the connection ends. Commands are added to `heard`.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    told = _ANSWERS | answers

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection, connection.makefile("rwb") as stream:
                _converse(stream, told, [] if heard is None else heard)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.close()
    thread.join(timeout=10)


def _converse(stream, told: dict[str, str], heard: list[str]) -> None:
    going_on = _say(stream, "", told["greeting"])
    while going_on and (line := stream.readline()):
        tag, _, command = line.decode().strip().partition(" ")
        heard.append(command)
        name = " ".join(command.split()[: 2 if command.startswith("UID ") else 1])
        if name == "AUTHENTICATE":
            stream.write(b"+ \r\n")
            stream.flush()
            heard.append(stream.readline().decode().strip())
        going_on = _say(stream, f"{tag} ", told.get(name, "OK done"))


def _say(stream, tag: str, answer: str) -> bool:
    """Answer; whether the connection goes on."""
    *before, last = answer.split("\r\n")
    closing = not last or last.startswith("* BYE")
    lines = [*before, last if closing or not tag else tag + last]
    if last:
        stream.write("".join(f"{line}\r\n" for line in lines).encode())
        stream.flush()
    return not closing
