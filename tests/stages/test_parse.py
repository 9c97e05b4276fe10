"""The parse stage: the same records whatever the order and the workers, nothing lost, nothing half-written."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import random
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zstandard
from parsing import PEAK, SEPARATOR, box, ids, mail, parsed, peak_bytes

from jobs.contracts.errors import InputError, MissingInputError, OutputError, TransientError, UsageError
from jobs.mail.filters import Filters
from jobs.sources import converting, parts
from jobs.sources.folders import walk
from jobs.sources.named import FileSource
from jobs.sources.options import ReadOptions
from jobs.stages import Inputs, Outputs
from jobs.stages.parse import Config, run

# ---- what is read


def test_every_kind_of_file_by_what_it_begins_with(tmp_path: Path) -> None:
    mails = tmp_path / "mails"
    (mails / "sub").mkdir(parents=True)
    (mails / "a.mbox").write_bytes(box(1, 2))
    (mails / "b").write_bytes(gzip.compress(box(3)))
    (mails / "c.dat").write_bytes(zstandard.compress(mail(4)))
    (mails / "d.eml").write_bytes(b"\n" + mail(5))
    (mails / "e.pdf").write_bytes(b"%PDF-1.7\n\x00\x01")
    (mails / "f.txt").write_bytes(b"Dear Bob,\n\nNote: this is no mail.\n")
    (mails / "g.todo").write_bytes(b"Note: this is no mail.\n")
    (mails / "h").write_bytes(b"")
    (mails / "i.gz").write_bytes(gzip.compress(box(6))[:-9])
    (mails / "j.zst").write_bytes(zstandard.compress(box(6))[:-9])
    (mails / "k").symlink_to(tmp_path / "nowhere")
    (mails / "sub/l").write_bytes(b"From here\n" + mail(7))
    records, rejects, result = parsed(tmp_path, mails)
    assert ids(records) == ["1", "2", "3", "4", "5", "7"]
    assert [record["source"] for record in records] == ["a.mbox", "a.mbox", "b", "c.dat", "d.eml", "sub/l"]
    assert [record["folder"] for record in records] == [None] * 5 + ["sub"]
    assert {reject["source"]: reject["reason"] for reject in rejects} == {
        "e.pdf": "not mail",
        "f.txt": "not mail",
        "g.todo": "not mail",
        "h": "empty",
        "i.gz": "compressed data damaged or cut short",
        "j.zst": "compressed data damaged or cut short",
        "k": "not a regular file",
    }
    assert result == {
        "num_sources": 1,
        "num_kept": 6,
        "num_rejected": {
            "compressed data damaged or cut short": 2,
            "empty": 1,
            "not a regular file": 1,
            "not mail": 3,
        },
        "num_filtered": {},
    }


def test_a_maildir(tmp_path: Path) -> None:
    for place in ("cur/1.a:2,FS", "new/2.b", ".Lists.raid/cur/3.c:2,", "tmp/4.d", ".R&D/cur/5.e:2,"):
        path = tmp_path / "Maildir" / place
        for sub in ("cur", "new", "tmp"):
            (path.parent.parent / sub).mkdir(parents=True, exist_ok=True)
        path.write_bytes(mail(int(path.name[0])))
    records, rejects, _ = parsed(tmp_path, tmp_path / "Maildir")
    assert [(record["source"], record["folder"], record["labels"]) for record in records] == [
        ("1.a", "INBOX", ["Flagged", "Seen"]),
        ("2.b", "INBOX", []),
        ("Lists/raid/3.c", "Lists/raid", []),
        ("R&D/5.e", "R&D", []),
    ]
    assert [(reject["source"], reject["length"]) for reject in rejects] == [("4.d", len(mail(4)))]


def test_a_mail_that_is_flagged_while_its_maildir_is_read(tmp_path: Path) -> None:
    for sub in ("cur", "new"):
        (tmp_path / "Maildir" / sub).mkdir(parents=True)
    for number in (1, 2, 3):
        (tmp_path / f"Maildir/new/{number}.a").write_bytes(mail(number))
    listed = tuple(walk(tmp_path / "Maildir"))
    (tmp_path / "Maildir/new/1.a").rename(tmp_path / "Maildir/cur/1.a:2,S")
    (tmp_path / "Maildir/new/2.a").unlink()
    found = list(parts.Files(listed).mails(ReadOptions()))
    assert [item.raw for item in found] == [mail(1), mail(3)]


def test_a_mail_that_is_flagged_while_its_maildir_is_listed(tmp_path: Path) -> None:
    for sub in ("cur", "new"):
        (tmp_path / "Maildir" / sub).mkdir(parents=True)
    for number in (1, 2, 3):
        (tmp_path / f"Maildir/new/{number}.a").write_bytes(mail(number))
    listing = walk(tmp_path / "Maildir")
    first = next(listing)
    (tmp_path / "Maildir/new/2.a").rename(tmp_path / "Maildir/cur/2.a:2,S")
    (tmp_path / "Maildir/new/3.a").unlink()
    found = list(parts.Files((first, *listing)).mails(ReadOptions()))
    assert [item.raw for item in found] == [mail(1), mail(2)]


def test_a_delivery_that_is_finished_while_its_maildir_is_read(tmp_path: Path) -> None:
    for sub in ("cur", "new", "tmp"):
        (tmp_path / "Maildir" / sub).mkdir(parents=True)
    for number in (1, 2):
        (tmp_path / f"Maildir/tmp/{number}.a").write_bytes(mail(number))
    listed = tuple(walk(tmp_path / "Maildir"))
    (tmp_path / "Maildir/tmp/1.a").rename(tmp_path / "Maildir/new/1.a")
    (tmp_path / "Maildir/tmp/2.a").unlink()
    found = list(parts.Files(listed).mails(ReadOptions()))
    assert [item.raw for item in found] == [mail(1)]


def test_takeout_labels_and_filters_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "All mail.mbox"
    heads = [b"X-Gmail-Labels: Inbox\n", b"X-Gmail-Labels: Spam,Unread\n", b"Auto-Submitted: auto-replied\n", b""]
    lines = b"From 1790000000000000000@xxx Thu Jun 06 12:00:00 +0000 2013\n"
    path.write_bytes(b"".join(lines + head + mail(number) + b"\n" for number, head in enumerate(heads)))
    records, rejects, result = parsed(tmp_path, path, exclude=("label:spam", "header:Auto-Submitted", "label:Trash"))
    assert [(record["message_id"][0], record["labels"]) for record in records] == [("0", ["Inbox"]), ("3", [])]
    assert rejects == []
    assert result["num_filtered"] == {"exclude header:Auto-Submitted": 1, "exclude label:spam": 1}
    _, _, result = parsed(tmp_path, path, include=("label:Inbox",))
    assert (result["num_kept"], result["num_filtered"]) == (1, {"matched no include": 3})


def test_a_file_by_its_url(tmp_path: Path) -> None:
    path = tmp_path / "All mail.mbox"
    path.write_bytes(box(1))
    assert parsed(tmp_path, path.as_uri()) == parsed(tmp_path, path)


def test_outputs_in_a_folder_that_is_read_are_no_mail(tmp_path: Path) -> None:
    (tmp_path / "a.eml").write_bytes(mail(1))
    (tmp_path / "out").mkdir()
    for _ in range(2):
        records, rejects, _ = parsed(tmp_path, tmp_path)
        assert ids(records) == ["1"]
        assert rejects == []


def test_an_array_where_the_name_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.mbox"
    path.write_bytes(box(1, 2, body=b"one\ntwo\n"))
    output = tmp_path / "split_emails.json"
    run(Config((str(path),), workers=1), Inputs(), Outputs({"messages": output}))
    written = json.loads(output.read_text())
    assert [(item["message_id"], item["email_message"]) for item in written] == [
        (f"{number}@example.org", mail(number, b"one\ntwo\n").decode()) for number in (1, 2)
    ]
    run(Config((), workers=1), Inputs(), Outputs({"messages": output}))
    assert json.loads(output.read_text()) == []


# ---- the same bytes


def many(folder: Path) -> list[Path]:
    """Sources of every kind, with ranges that begin within mails."""
    generator = random.Random(5)
    folder.mkdir()
    within = b"A mailbox:\n\n" + box(900, 901) + b"\nend\n"
    counted = b"From: ann@example.org\nMessage-ID: <within@example.org>\nContent-Length: %d\n\n%b"
    pieces = []
    for number in range(400):
        body = b"line %d\n" % number * generator.randrange(60)
        pieces.append(SEPARATOR + mail(number, body) + b"\n")
        if number % 20 == 0:
            pieces.append(SEPARATOR + counted % (len(within), within) + b"\n")
        if number % 150 == 0:
            pieces.append(SEPARATOR + counted % (100 * len(within), 100 * within) + b"\n")
    (folder / "large.mbox").write_bytes(b"".join(pieces))
    (folder / "rd.mbox").write_bytes(b"".join(pieces).replace(b"ann@example.org Mon", b"mboxrd@z Mon"))
    (folder / "b.mbox.gz").write_bytes(gzip.compress(box(*range(500, 600))))
    (folder / "a.mbox").write_bytes(box(1, 2))
    (folder / "eml").mkdir()
    for number in range(50):
        (folder / f"eml/{number:03}.eml").write_bytes(mail(2000 + number))
    return sorted(folder.iterdir())


def test_the_same_bytes_in_any_order_and_with_any_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = many(tmp_path / "mails")
    expected = parsed(tmp_path, *sources)
    whole = (tmp_path / "out/messages.jsonl").read_bytes()
    assert sum(record["source"] == "large.mbox" for record in expected[0]) == 400 + 20 + 3
    monkeypatch.setattr("jobs.sources.named.RANGE_BYTES", 5000)
    monkeypatch.setattr("jobs.sources.named.FILES_AT_ONCE", 7)
    assert parsed(tmp_path, *reversed(sources), workers=2) == expected
    monkeypatch.setattr(converting, "ALONE_BYTES", 0)
    assert parsed(tmp_path, *random.Random(1).sample(sources, len(sources)), workers=4) == expected
    assert (tmp_path / "out/messages.jsonl").read_bytes() == whole
    # A range's first separator may be one that stands within a mail: such ranges are read again.
    spans = []
    original = parts.MboxRange.mails

    def spying(part: parts.MboxRange, options: ReadOptions) -> Any:
        yield from original(part, options)
        spans.append((part.begin, part.exact))

    monkeypatch.setattr(parts.MboxRange, "mails", spying)
    monkeypatch.setattr(converting, "ALONE_BYTES", 1 << 30)
    assert parsed(tmp_path, *sources, workers=2) == expected
    assert sum(exact for _, exact in spans) > 2


def test_ranges_with_a_limit_on_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mbox"
    path.write_bytes(box(1, 2) + box(3, body=b"From afar\n\n" * 5000) + box(4, 5, body=b"x" * 7000 + b"\n") + box(6))
    expected = parsed(tmp_path, path, max_message_bytes=20_000)
    assert ids(expected[0]) == ["1", "2", "4", "5", "6"]
    assert expected[2]["num_rejected"] == {"larger than the limit for one mail": 1}
    for range_bytes in (100, 3000, 40_000):
        monkeypatch.setattr("jobs.sources.named.RANGE_BYTES", range_bytes)
        assert parsed(tmp_path, path, max_message_bytes=20_000, workers=2) == expected


def test_memory_stays_flat_as_the_archive_grows_tenfold(tmp_path: Path) -> None:
    peaks = []
    for number, copies in enumerate((2000, 20_000)):
        path = tmp_path / f"{number}.mbox"
        with path.open("wb") as stream:
            for _ in range(copies // 1000):
                stream.write(box(*range(1000), body=b"x" * 70 + b"\n" + b"y" * 900 + b"\n"))
        peaks.append(peak_bytes(path, tmp_path / "out.jsonl"))
    assert peaks[1] < 1.3 * peaks[0]


# ---- bad input


def test_no_mbox_and_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "picture.mbox").write_bytes(b"\x89PNG\r\n" + bytes(1000))
    (tmp_path / "empty.mbox").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for name, what in (("picture.mbox", "neither an mbox"), ("empty.mbox", "it is empty"), ("empty", "it is empty")):
        with pytest.raises(InputError, match=what) as caught:
            parsed(tmp_path, tmp_path / name)
        assert name in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="gone"):
        parsed(tmp_path, tmp_path / "gone.mbox")
    with pytest.raises(UsageError, match="no such kind"):
        parsed(tmp_path, "ftp://host/archive.mbox")
    assert not (tmp_path / "out").exists()


def test_a_truncated_gzip_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a.mbox.gz").write_bytes(gzip.compress(os.urandom(20_000).hex().encode() + box(*range(100)))[:-100])
    with pytest.raises(InputError, match="damaged or cut short"):
        parsed(tmp_path, tmp_path / "a.mbox.gz")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.mbox"
    path.write_bytes(box(*range(200), body=b"text\n" * 2000))
    program = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); {PEAK}"
    command = [sys.executable, "-c", program, "parse", str(path), "-o", str(tmp_path / "out/m.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == OutputError.exit_code
    assert "m.jsonl: cannot be written: File too large" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(OutputError, match="No space left"):
        run(Config((str(path),), workers=1), Inputs(), Outputs({"messages": Path("/dev/full")}))


def test_a_full_disk_with_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converting, "ALONE_BYTES", 0)
    monkeypatch.setattr("jobs.sources.named.RANGE_BYTES", 1 << 20)
    path = tmp_path / "a.mbox"
    path.write_bytes(box(*range(100), body=b"text\n" * 20_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5 << 20, before[1]))
    try:
        with pytest.raises(OutputError, match="File too large") as caught:
            parsed(tmp_path, path, workers=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "messages.jsonl" in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_scratch_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit_files: Any) -> None:
    monkeypatch.setattr(converting, "ALONE_BYTES", 0)
    monkeypatch.setattr("jobs.sources.named.RANGE_BYTES", 100_000)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    path = tmp_path / "a.mbox"
    path.write_bytes(box(*range(100), body=b"text\n" * 1000))
    limit_files(65_536)  # no part's records fit, and some of their bytes do
    with pytest.raises(OutputError, match="File too large") as caught:
        run(Config((str(path),), workers=2), Inputs(), Outputs({"messages": Path("/dev/null")}))
    assert caught.value.where.startswith(str(tmp_path / "scratch"))
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_process_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converting, "ALONE_BYTES", 0)
    monkeypatch.setattr("jobs.sources.named.RANGE_BYTES", 10_000)
    path = tmp_path / "a.mbox"
    path.write_bytes(box(*range(100), body=b"text\n" * 1000))
    options = ReadOptions(alone=False)
    convert = converting.Convert(options, Filters(), b"\n")
    done = converting.convert_all(FileSource(path).parts(options), convert, 2)
    assert [next(done).num_records > 0 for _ in range(2)] == [True, True]
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(TransientError, match="a process was killed"):
        list(done)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "a.mbox").write_bytes(box(1))
    (tmp_path / "out").write_bytes(b"a file in its place")
    with pytest.raises(OutputError, match="cannot be written"):
        parsed(tmp_path, tmp_path / "a.mbox")
