"""Parsing real mail, and mail that is odd."""

from __future__ import annotations

import mailbox
import time
from pathlib import Path

from parsing import parsed, peak_bytes

from jobs.contracts.errors import InputError


def test_linux_raid(corpora: Path, tmp_path: Path) -> None:
    files = sorted((corpora / "linux-raid-2019H2").iterdir())
    records, rejects, result = parsed(tmp_path, *files)
    assert (len(records), rejects, result["num_sources"]) == (1242, [], 6)
    assert all(record["envelope_date"] for record in records)
    for path in files:
        data = path.read_bytes()
        mine = [record for record in records if record["source"] == path.name]
        starts = [data.index(b"\n", 0) + 1, *(item["offset"] for item in mine[1:])]
        assert [item["offset"] for item in mine] == starts
        for record in mine:
            raw = record["email_message"].encode(record["encoding"])
            found = data[record["offset"] : record["offset"] + len(raw)]
            assert found == raw or b"\n>From " in found


def test_every_odd_mail_is_kept_or_counted(corpora: Path, tmp_path: Path) -> None:
    root = corpora / "odd-mail"
    rows = (root / "FEATURES.tsv").read_text().splitlines()[1:]
    names = [row.split("\t")[0] for row in rows]
    assert len(names) == 275
    folder = tmp_path / "odd"
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(root / name)
    records, rejects, result = parsed(tmp_path, folder)
    assert result["num_kept"] == len(records)
    accounted = {record["source"] for record in records} | {reject["source"] for reject in rejects}
    # A Maildir's files are named by their folders and unique names, without the flags.
    assert len(accounted) == 275
    assert len(records) >= 265
    assert {reject["reason"] for reject in rejects} <= {"not mail", "no header", "empty"}
    slowest = 0.0
    for name in names:
        started = time.perf_counter()
        try:
            parsed(tmp_path, root / name)
        except InputError:
            assert any(reject["source"] == name for reject in rejects), name
        slowest = max(slowest, time.perf_counter() - started)
    assert slowest < 2
    assert peak_bytes(folder, tmp_path / "out.jsonl") < 256 << 20


def test_notmuchs_mail_is_all_there(corpora: Path, tmp_path: Path) -> None:
    records, rejects, _ = parsed(tmp_path, corpora / "notmuch" / "default")
    assert len(records) == 53
    assert len({record["message_id"] for record in records}) == 52
    assert rejects == []


def test_the_standard_library_agrees_on_message_ids(corpora: Path, tmp_path: Path) -> None:
    path = sorted((corpora / "linux-raid-2019H2").iterdir())[0]
    records, _, _ = parsed(tmp_path, path)
    theirs = [message["Message-ID"].strip().strip("<>") for message in mailbox.mbox(path) if message["Message-ID"]]
    assert [record["message_id"] for record in records] == theirs
