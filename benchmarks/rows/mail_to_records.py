"""Mail to records: an mbox in, one JSON record a mail out; beside the standard library and two indexers."""

from __future__ import annotations

import email
import email.policy
import json
import mailbox
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path


def _as_people_write_it(policy: email.policy.Policy) -> None:
    """Every message of the mbox parsed, and written as text again."""
    parse = partial(email.message_from_binary_file, policy=policy)
    with Path("stdlib.jsonl").open("w") as output:
        for message in mailbox.mbox("archive.mbox", factory=parse, create=False):
            record = {"message_id": message["Message-ID"], "email_message": message.as_bytes().decode("latin-1")}
            output.write(json.dumps(record) + "\n")


def _without_writing_again() -> None:
    """Parsed too, but the record takes the bytes as they are: the best that the standard library can do."""
    box = mailbox.mbox("archive.mbox", create=False)
    with Path("stdlib.jsonl").open("w") as output:
        for key in box.iterkeys():
            raw = box.get_bytes(key)
            message = email.message_from_bytes(raw)
            record = {"message_id": message["Message-ID"], "email_message": raw.decode("latin-1")}
            output.write(json.dumps(record) + "\n")


PROGRAMS: dict[str, Callable[[], None]] = {
    "compat32": lambda: _as_people_write_it(email.policy.compat32),
    "default": lambda: _as_people_write_it(email.policy.default),
    "bytes": _without_writing_again,
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]]()
    sys.exit()

import mailgen  # noqa: E402

from rows import AtLeast, Contestant, GrowsAtMost, Row  # noqa: E402

INDEXED_SHARE = 0.25


def prepare(folder: Path, num_mails: int) -> None:
    """An mbox, and for what is no mbox reader a Maildir with the same mails."""
    mailgen.write_mbox(folder / "archive.mbox", num_mails)
    if num_mails <= INDEXED_SHARE * ROW.size:
        mailgen.write_maildir(folder / "maildir", num_mails)


def _stdlib(program: str, folder: Path) -> list[str]:
    del folder
    return [sys.executable, __file__, program]


def _refrain(workers: int, folder: Path) -> list[str]:
    del folder
    command = str(Path(sys.executable).with_name("refrain"))
    return [command, "parse", "archive.mbox", "-o", "messages.jsonl", "--workers", str(workers)]


def _notmuch(folder: Path) -> list[str]:
    return ["notmuch", f"--config={folder / 'notmuch-config'}", "new", "--quiet"]


def _forget_notmuch(folder: Path) -> None:
    shutil.rmtree(folder / "maildir" / ".notmuch", ignore_errors=True)
    (folder / "notmuch-config").write_text(f"[database]\npath={folder / 'maildir'}\n[new]\ntags=new\n")


def _mu(folder: Path) -> list[str]:
    return ["mu", "index", "--quiet", f"--muhome={folder / 'mu'}"]


def _forget_mu(folder: Path) -> None:
    shutil.rmtree(folder / "mu", ignore_errors=True)
    subprocess.run(
        ["mu", "init", "--quiet", f"--maildir={folder / 'maildir'}", f"--muhome={folder / 'mu'}"],
        check=True,
        capture_output=True,
    )


def _versions() -> str:
    """Of the indexers."""
    found = []
    for program in ("notmuch", "mu"):
        if shutil.which(program):
            printed = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
            found.append(f"{program} {next(word for word in printed.split() if word[0].isdigit())}")
    return ", ".join(found)


_INDEXERS = {
    "notmuch": Contestant("`notmuch new`", _notmuch, _forget_notmuch, share=INDEXED_SHARE, upto=1),
    "mu": Contestant("`mu index`", _mu, _forget_mu, share=INDEXED_SHARE, upto=1),
}
_FOUND = tuple(contestant for program, contestant in _INDEXERS.items() if shutil.which(program))

ROW = Row(
    title="Mail to records",
    unit="mails",
    size=20_000,
    prepare=prepare,
    contestants=(
        Contestant("`refrain parse`, one CPU", partial(_refrain, 1)),
        Contestant("`refrain parse`, all CPUs", partial(_refrain, 2), num_cpus=None),
        Contestant("`mailbox.mbox` + `email` (compat32)", partial(_stdlib, "compat32"), share=0.5),
        Contestant("`mailbox.mbox` + `email` (policy.default)", partial(_stdlib, "default"), share=0.1, upto=1),
        Contestant("`mailbox.mbox` + `email` (compat32), not written again", partial(_stdlib, "bytes")),
        *_FOUND,
    ),
    goals=(
        AtLeast(9, "`mailbox.mbox` + `email` (compat32)"),
        AtLeast(8, "`mailbox.mbox` + `email` (policy.default)"),
        *(AtLeast(1, contestant.name) for contestant in _FOUND),
        GrowsAtMost(1.1),
    ),
    versions=_versions,
    note=(
        "Made-up mail of 2.2 KB on average (`tests/mailgen.py`), from a warm cache. `notmuch` and `mu` do more: they "
        "index every word. The last line of the standard library's parses each mail but copies its bytes instead of "
        "writing them again, which is nobody's first program and the fairest one."
    ),
)
