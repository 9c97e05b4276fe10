"""What an IMAP server refuses: for now, which is worth another try, or for good; a made-up server says it."""

from __future__ import annotations

import pytest
from servers.scripted_imap import scripted

from jobs.contracts.errors import AccessError, InputError, MissingInputError, RefrainError, TransientError
from jobs.sources.imap import ImapSource
from jobs.sources.options import ReadOptions

BUSY = "Too many simultaneous connections. (Failure)"


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PASSWORD_FILE", "TOKEN", "TOKEN_FILE"):
        monkeypatch.delenv(f"REFRAIN_IMAP_{name}", raising=False)
    monkeypatch.setenv("REFRAIN_IMAP_PASSWORD", "correct")


def refused(answers: dict[str, str], folder: str = "INBOX") -> RefrainError:
    """What reading a mailbox of a server that answers so raises."""
    with scripted(answers) as port, pytest.raises(RefrainError) as caught:
        list(ImapSource.parse(f"imap://reader@127.0.0.1:{port}/{folder}").mails(ReadOptions()))
    return caught.value


@pytest.mark.parametrize("command", ["LOGIN", "LIST", "EXAMINE", "UID SEARCH", "UID FETCH"])
@pytest.mark.parametrize(
    "answer",
    [
        "NO [UNAVAILABLE] Temporary authentication failure. [mx1:2026-11-29 03:00:01]",
        "NO [INUSE] Mailbox is locked",
        "NO [LIMIT] Maximum number of connections from user+IP exceeded (mail_max_userip_connections=10)",
        "NO [SERVERBUG] Internal error occurred. Refer to server log for more information.",
        "NO [OVERQUOTA] Account exceeded command or bandwidth limits. (Failure)",
        f"NO [ALERT] {BUSY}",
        f"NO {BUSY}",
        "NO [unavailable] The directory does not answer",
        "NO Too many connections",
        "NO Server Unavailable. 15",
        "BAD Request is throttled. Suggested Backoff Time: 299 ms",
    ],
)
def test_what_passes_is_worth_another_try(command: str, answer: str) -> None:
    error = refused({command: answer}, "*" if command == "LIST" else "INBOX")
    assert (type(error), error.exit_code) == (TransientError, 75)
    assert answer.strip().partition(" ")[2].split("] ")[-1] in error.what
    assert error.hint == "nothing was written; run it again later"
    assert error.where.startswith("reader@127.0.0.1:")
    assert "PASSWORD" not in str(error)


@pytest.mark.parametrize(
    "answer",
    [
        "NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)",
        "NO [AUTHENTICATIONFAILED] Too many failed attempts, the service is temporarily closed to you",
        "NO [AUTHORIZATIONFAILED] No such authorization-ID",
        "NO [EXPIRED] That password isn't valid any more",
        "NO [CONTACTADMIN] Ask support",
        "NO [ALERT] Application-specific password required",
        "NO LOGIN failed",
        "NO Invalid user name or password, please try again",
        "BAD LOGIN is disabled",
    ],
)
def test_credentials_that_are_refused(answer: str) -> None:
    error = refused({"LOGIN": answer})
    assert (type(error), error.exit_code) == (AccessError, 77)
    assert error.what.startswith("the server refused the credentials: ")
    assert "REFRAIN_IMAP_PASSWORD" in error.hint


@pytest.mark.parametrize("answer", ["NO [NONEXISTENT] No such mailbox", "NO [NOPERM] Access denied", "NO Unknown"])
def test_a_folder_that_cannot_be_opened_for_good(answer: str) -> None:
    error = refused({"EXAMINE": answer})
    assert (type(error), error.exit_code) == (MissingInputError, 66)
    assert error.what.startswith("cannot be opened: ")
    assert error.where.endswith("/INBOX")


def test_a_folder_whose_name_no_server_may_list() -> None:
    error = refused({"LIST": '* LIST () "/" Entwürfe\r\nOK done'}, "*")
    assert (type(error), error.exit_code) == (MissingInputError, 66)
    assert error.where.endswith("/Entwürfe")


@pytest.mark.parametrize("command", ["LIST", "UID SEARCH", "UID FETCH"])
@pytest.mark.parametrize("answer", ["NO [CORRUPTION] The index is broken", "NO [CANNOT] No", "BAD What is that?"])
def test_what_is_refused_for_good(command: str, answer: str) -> None:
    error = refused({command: answer}, "*" if command == "LIST" else "INBOX")
    assert (type(error), error.exit_code) == (InputError, 65)
    assert error.what.startswith("the server refused: ")


@pytest.mark.parametrize("command", ["greeting", "LOGIN", "AUTHENTICATE", "LIST", "EXAMINE", "UID SEARCH", "UID FETCH"])
@pytest.mark.parametrize("answer", ["", "* BYE [UNAVAILABLE] Down for maintenance", "* BYE Come back another day"])
def test_a_connection_that_the_server_ends(command: str, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if command == "AUTHENTICATE":
        monkeypatch.setenv("REFRAIN_IMAP_TOKEN", "token")
    error = refused({command: answer}, "*" if command == "LIST" else "INBOX")
    assert (type(error), error.exit_code) == (TransientError, 75)
    assert error.what.startswith("the connection failed: ")
    if command != "AUTHENTICATE":  # where imaplib listens for more than a farewell
        assert answer.rpartition("] ")[2].removeprefix("* BYE ") in error.what
    assert "PASSWORD" not in str(error)
