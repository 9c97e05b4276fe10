"""`refrain parse` as users call it."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from parsing import SEPARATOR, box, ids, mail
from servers.dovecot import PASSWORD, Dovecot, cut_after

from jobs.contracts.artifacts import artifact_key
from jobs.contracts.errors import AccessError, InputError, MissingInputError, OutputError, TransientError, UsageError
from jobs.contracts.store import open_store

Refrain = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("STORE", "CYCLE", "IMAP_PASSWORD", "IMAP_PASSWORD_FILE", "IMAP_TOKEN", "IMAP_TOKEN_FILE", "IMAP_CA"):
        monkeypatch.delenv(f"REFRAIN_{name}", raising=False)
    return tmp_path


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _unzstd(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(data).read()


def _json_lines(data: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in data.splitlines()]


def test_an_mbox_to_messages(refrain: Refrain, folder: Path) -> None:
    (folder / "a.mbox").write_bytes(box(1, 2) + SEPARATOR + b"\n")
    done = refrain("parse", "a.mbox")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines()[0].startswith("parse: 2 mails kept in ")
    assert done.stderr.splitlines()[1:] == ["  1 rejected: empty", "  see messages.rejects.jsonl"]
    assert ids(lines(folder / "messages.jsonl")) == ["1", "2"]
    assert lines(folder / "messages.rejects.jsonl") == [
        {
            "source": "a.mbox",
            "offset": len(box(1, 2)) + len(SEPARATOR),
            "length": 0,
            "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "reason": "empty",
        }
    ]


def test_standard_input_and_output(refrain: Refrain, folder: Path) -> None:
    (folder / "a.mbox.gz").write_bytes(gzip.compress(box(1, 2) + SEPARATOR))
    with (folder / "a.mbox.gz").open("rb") as stream:
        done = refrain("parse", "-", "-o", "-", stdin=stream)
    assert done.returncode == 0
    assert [json.loads(line)["source"] for line in done.stdout.splitlines()] == ["-", "-"]
    assert "1 rejected: empty\n  name a file with --rejects" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["a.mbox.gz"]


def test_a_reader_of_the_output_that_goes_away(folder: Path) -> None:
    (folder / "a.mbox").write_bytes(box(*range(500), body=b"text\n" * 1000))
    for rejects in ("", "--rejects r.jsonl"):
        command = f"{Path(sys.executable).with_name('refrain')} parse a.mbox -o - {rejects} | head -c 100"
        done = subprocess.run(["bash", "-o", "pipefail", "-c", command], check=False, capture_output=True)
        assert (done.stderr, len(done.stdout)) == (b"", 100)
        assert done.returncode != 0
    assert [path.name for path in folder.iterdir()] == ["a.mbox"]


def test_a_pipe_by_name(folder: Path) -> None:
    command = f"{Path(sys.executable).with_name('refrain')} parse <(cat a.mbox) -o m.jsonl"
    (folder / "a.mbox").write_bytes(box(1))
    subprocess.run(["bash", "-c", command], check=True, capture_output=True)
    assert ids(lines(folder / "m.jsonl")) == ["1"]


@pytest.mark.parametrize(
    ("name", "rejects", "read"),
    [
        ("split_emails.json", "split_emails.rejects.jsonl", json.loads),
        ("m.jsonl.zst", "m.rejects.jsonl", lambda data: _json_lines(_unzstd(data))),
        ("out/m.json.gz", "out/m.rejects.jsonl", lambda data: json.loads(gzip.decompress(data))),
        ("m", "m.rejects.jsonl", _json_lines),
    ],
)
def test_the_form_of_the_output_by_its_name(
    refrain: Refrain, folder: Path, name: str, rejects: str, read: Callable[[bytes], list[dict[str, object]]]
) -> None:
    (folder / "a.mbox").write_bytes(box(1, 2))
    assert refrain("parse", "a.mbox", "-o", name).returncode == 0
    assert ids(read((folder / name).read_bytes())) == ["1", "2"]
    assert (folder / rejects).read_bytes() == b""


def test_a_device_is_written_to_and_stays_one(refrain: Refrain, folder: Path) -> None:
    (folder / "a.mbox").write_bytes(box(1))
    assert refrain("parse", "a.mbox", "-o", "/dev/null").returncode == 0
    assert Path("/dev/null").is_char_device()
    assert not Path("/dev/null.rejects.jsonl").exists()


def test_filters_are_counted(refrain: Refrain, folder: Path) -> None:
    (folder / "a.mbox").write_bytes(box(1, 2) + SEPARATOR + b"Auto-Submitted: auto-replied\n" + mail(3))
    done = refrain("parse", "a.mbox", "--exclude", "header:Auto-Submitted", "--exclude", "from:*@robots.example")
    assert done.returncode == 0
    assert "1 left out: exclude header:Auto-Submitted" in done.stderr
    assert "robots" not in done.stderr
    assert ids(lines(folder / "messages.jsonl")) == ["1", "2"]


def test_the_dialect_and_the_limits_are_flags(refrain: Refrain, folder: Path) -> None:
    (folder / "a.mbox").write_bytes(box(1, body=b">From here\n") + box(2, body=b"x" * 5000 + b"\n"))
    done = refrain("parse", "a.mbox", "--mbox-format", "mboxrd", "--max-message-size", "2k")
    assert "1 rejected: larger than the limit for one mail" in done.stderr
    (record,) = lines(folder / "messages.jsonl")
    assert str(record["email_message"]).endswith("\n\nFrom here\n")


@pytest.mark.parametrize("size", ["0", "-1", "64 XB", "many", "1.5M", ""])
def test_a_size_that_is_none(refrain: Refrain, size: str) -> None:
    done = refrain("parse", "a.mbox", "--max-message-size", size)
    assert done.returncode == 2
    assert "is not a size" in done.stderr


# ---- one clear message


def failed(done: subprocess.CompletedProcess[str], exit_code: int, *words: str) -> None:
    assert done.returncode == exit_code
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("refrain: error: ")
    assert len(done.stderr.splitlines()) <= 2
    for word in words:
        assert word in done.stderr


def test_what_is_no_mail(refrain: Refrain, folder: Path) -> None:
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n" + bytes(100))
    (folder / "empty.mbox").write_bytes(b"")
    (folder / "cut.mbox.gz").write_bytes(gzip.compress(box(*range(50)))[:-20])
    before = sorted(path.name for path in folder.iterdir())
    failed(refrain("parse", "picture.png"), InputError.exit_code, "picture.png", "neither an mbox")
    failed(refrain("parse", "empty.mbox"), InputError.exit_code, "empty.mbox", "it is empty")
    failed(refrain("parse", "cut.mbox.gz"), InputError.exit_code, "cut.mbox.gz", "cut short", "fetch the file again")
    failed(refrain("parse", "gone.mbox"), MissingInputError.exit_code, "gone.mbox", "no such file")
    failed(refrain("parse"), UsageError.exit_code, "no source")
    failed(refrain("parse", "a.mbox", "--exclude", "everything"), UsageError.exit_code, "not a filter", "KIND:PATTERN")
    assert sorted(path.name for path in folder.iterdir()) == before


def test_where_it_cannot_be_written(refrain: Refrain, folder: Path) -> None:
    (folder / "a.mbox").write_bytes(box(1))
    (folder / "file").write_bytes(b"")
    failed(refrain("parse", "a.mbox", "-o", "file/m.jsonl"), OutputError.exit_code, "file/m.jsonl", "cannot be written")
    failed(refrain("parse", "a.mbox", "-o", "/dev/full"), OutputError.exit_code, "/dev/full", "No space left")
    (folder / "b.mbox").write_bytes(box(*range(500), body=b"text\n" * 1000))
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        command = [Path(sys.executable).with_name("refrain"), "parse", "b.mbox", "-o", "-", "--rejects", "r.jsonl"]
        done = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, text=True)
    failed(done, OutputError.exit_code, "standard output", "No space left")
    assert not (folder / "r.jsonl").exists()


def test_a_store_and_files_together(refrain: Refrain, folder: Path) -> None:
    (folder / "a.mbox").write_bytes(box(1))
    store = ["--store", str(folder / "store")]
    for flag in ("-o", "--rejects", "--cursor"):
        failed(refrain("parse", "a.mbox", *store, flag, "x"), UsageError.exit_code, "both a store")


# ---- over a store


def test_into_a_store(refrain: Refrain, folder: Path) -> None:
    (folder / "a.mbox").write_bytes(box(1, 2) + SEPARATOR)
    store = folder / "store"
    done = refrain("parse", "a.mbox", "--store", store, "--cycle", "week-1")
    assert done.returncode == 0, done.stderr
    assert "2 mails kept" in done.stderr
    assert "see cycles/week-1/parse/rejects.jsonl in the store" in done.stderr
    stored = open_store(str(store), read_only=True)
    written = _unzstd(stored.get(artifact_key("week-1", "parse", "messages")))
    assert ids(_json_lines(written)) == ["1", "2"]
    assert json.loads(stored.get(artifact_key("week-1", "parse", "rejects")))["reason"] == "empty"
    assert json.loads(stored.get(artifact_key("week-1", "parse", "cursor"))) == {}
    nothing_new = refrain("parse", "--store", store, "--cycle", "week-2")
    assert nothing_new.returncode == 0, nothing_new.stderr
    assert "0 mails kept" in nothing_new.stderr


def test_imap_into_a_store_from_cycle_to_cycle(refrain: Refrain, folder: Path, dovecot: Dovecot) -> None:
    env = {
        "REFRAIN_STORE": str(folder / "store"),
        "REFRAIN_IMAP_PASSWORD": PASSWORD,
        "REFRAIN_IMAP_CA": str(dovecot.ca),
    }
    stored = None
    for week, numbers in enumerate(([1, 2], [3], [])):
        client = dovecot.client()
        for number in numbers:
            client.append("INBOX", mail(number).replace(b"\n", b"\r\n"))
        client.logout()
        cycle = f"week-{week}"
        done = refrain("parse", dovecot.url(), "--cycle", cycle, env=env)
        assert done.returncode == 0, done.stderr
        stored = stored or open_store(str(folder / "store"), read_only=True)
        written = _unzstd(stored.get(artifact_key(cycle, "parse", "messages")))
        assert ids(_json_lines(written)) == [str(number) for number in numbers]
        split = refrain("split", "--tokenizer", "whitespace", "--incremental", "--cycle", cycle, env=env)
        assert split.returncode == 0, split.stderr


# ---- IMAP


def test_imap_with_a_cursor(refrain: Refrain, folder: Path, dovecot: Dovecot) -> None:
    (folder / "secret").write_text(f"{PASSWORD}\n")
    env = {"REFRAIN_IMAP_PASSWORD_FILE": str(folder / "secret")}
    command = ["parse", dovecot.url(), "--cursor", "cursor.json", "--imap-ca", dovecot.ca]
    for numbers in ([1], [2, 3], []):
        client = dovecot.client()
        for number in numbers:
            client.append("INBOX", mail(number))
        client.logout()
        done = refrain(*command, env=env)
        assert done.returncode == 0, done.stderr
        assert ids(lines(folder / "messages.jsonl")) == [str(number) for number in numbers]


def test_imap_refused(refrain: Refrain, folder: Path, dovecot: Dovecot) -> None:
    ca = ["--imap-ca", dovecot.ca]
    failed(refrain("parse", dovecot.url(), *ca), AccessError.exit_code, "no password", "REFRAIN_IMAP_PASSWORD")
    wrong = {"REFRAIN_IMAP_PASSWORD": "wrong"}
    failed(refrain("parse", dovecot.url(), *ca, env=wrong), AccessError.exit_code, "refused the credentials")
    right = {"REFRAIN_IMAP_PASSWORD": PASSWORD}
    failed(refrain("parse", dovecot.url(), env=right), AccessError.exit_code, "certificate")
    failed(refrain("parse", dovecot.url("Gone"), *ca, env=right), MissingInputError.exit_code, "Gone")
    failed(refrain("parse", dovecot.url(port=1), *ca, env=right), TransientError.exit_code, "refused")
    in_the_open = f"imaps://me:hunter2@{dovecot.host}/INBOX"
    done = refrain("parse", in_the_open, env=right)
    failed(done, UsageError.exit_code, "a password in the URL")
    assert "hunter2" not in done.stderr
    assert list(folder.iterdir()) == []
    assert "hunter2" not in os.environ.get("REFRAIN_IMAP_PASSWORD", "")


def test_imap_gone_midway(refrain: Refrain, folder: Path, dovecot: Dovecot) -> None:
    client = dovecot.client()
    for number in range(20):
        client.append("INBOX", mail(number, b"line\n" * 5000))
    client.logout()
    (folder / "messages.jsonl").write_text("what was there before\n")
    env = {"REFRAIN_IMAP_PASSWORD": PASSWORD}
    for num_bytes, reset in ((2_000, False), (4_000, True), (200_000, True), (200_000, False)):
        with cut_after(dovecot.imaps_port, num_bytes, reset=reset) as port:
            done = refrain("parse", dovecot.url(port=port), "--cursor", "cursor.json", "--imap-ca", dovecot.ca, env=env)
        failed(done, TransientError.exit_code, "the connection failed", "nothing was written; run it again")
        assert {path.name: path.read_text() for path in folder.iterdir()} == {
            "messages.jsonl": "what was there before\n"
        }
