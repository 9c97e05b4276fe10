"""Real mail through parse and split: nothing lost, threads as they are known to be, the same by month or at once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from splitting import chunks, messages, rows, split

from jobs.assignments.archive import Archive
from jobs.files import read_records
from jobs.ml.tokens import WhitespaceCounter
from jobs.stages import Inputs, Outputs, parse

LINUX_RAID = "linux-raid-2019H2"
SETTINGS: dict[str, Any] = {
    "window_period": "month", "window_size": 100, "window_overlap": 10, "max_tokens": 1024, "workers": 1,
}  # fmt: skip


def parsed(sources: list[Path], output: Path) -> Path:
    """The mail of some sources as records."""
    config = parse.Config(tuple(map(str, sources)), workers=1)
    parse.run(config, Inputs(), Outputs({"messages": output, "rejects": output.with_suffix(".rejects")}))
    return output


@pytest.fixture(scope="module")
def linux_raid(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of the six files."""
    sources = sorted((corpora / LINUX_RAID).glob("*.mbox"))
    assert len(sources) == 6
    return parsed(sources, tmp_path_factory.mktemp("linux-raid") / "messages.jsonl")


@pytest.fixture(scope="module")
def whole(linux_raid: Path) -> Archive:
    """All of it, imported at once."""
    archive = Archive.open(str(linux_raid.parent / "whole"))
    split(archive, linux_raid, linux_raid.parent, **SETTINGS)
    return archive


def test_messages_and_threads(linux_raid: Path, whole: Archive) -> None:
    records = list(read_records(linux_raid))
    assert len(records) == 1242
    assert linux_raid.with_suffix(".rejects").read_bytes() == b""
    threads = Counter(record["thread_id"] for record in messages(whole).values())
    assert len(threads) == 345
    assert sum(count > 1 for count in threads.values()) == 192
    in_chunks = {one["message_id"] for chunk in chunks(whole) for one in chunk["messages"] if not one["context"]}
    assert in_chunks == {record["message_id"] for record in records}


def test_every_body_token_is_a_target_once(whole: Archive) -> None:
    parts: dict[str, list[str]] = {}
    counter = WhitespaceCounter()
    for chunk in chunks(whole):
        assert counter.count([chunk["text"]])[0] + 1 == chunk["num_tokens"] <= SETTINGS["max_tokens"]
        assert len(chunk["messages"]) <= SETTINGS["window_size"]
        bodies = [chunk["text"][one["start"] : one["end"]] for one in chunk["messages"]]
        assert counter.count(bodies) == [one["num_tokens"] for one in chunk["messages"]]
        for one, body in zip(chunk["messages"], bodies, strict=True):
            if not one["context"]:
                parts.setdefault(one["message_id"], []).append(body)
    assert {name: "".join(found) for name, found in parts.items()} == {
        name: record["text"] for name, record in messages(whole).items()
    }


def test_month_by_month_and_at_once_write_equal_rows(linux_raid: Path, whole: Archive, tmp_path: Path) -> None:
    month_of = {name: record["date"][:7] for name, record in messages(whole).items()}
    months: dict[str, list[dict[str, Any]]] = {}
    for record in read_records(linux_raid):
        months.setdefault(month_of[record["message_id"]], []).append(record)
    assert len(months) > 6  # the first file holds mail of the months before it
    archive = Archive.open(str(tmp_path / "monthly"))
    seen: list[Any] = []
    for _, batch in sorted(months.items()):
        assert split(archive, batch, tmp_path, **SETTINGS)["num_new"] == len(batch)
        now = rows(archive)
        assert now[: len(seen)] == seen
        seen = now
    assert seen == rows(whole)
    assert chunks(archive) == chunks(whole)
    split_of: dict[str, str] = {}
    assert all(split_of.setdefault(row.thread_id, row.split) == row.split for row in seen)
    before = archive.log.head()
    assert split(archive, linux_raid, tmp_path, **SETTINGS)["num_new"] == 0
    assert archive.log.head() == before


def test_the_files_as_they_came_lose_nothing(corpora: Path, whole: Archive, tmp_path: Path) -> None:
    archive = Archive.open(str(tmp_path / "files"))
    for source in sorted((corpora / LINUX_RAID).glob("*.mbox")):
        split(archive, parsed([source], tmp_path / "messages.jsonl"), tmp_path, **SETTINGS)
    assert messages(archive).keys() == messages(whole).keys()
    split_of: dict[str, str] = {}
    assert all(split_of.setdefault(row.thread_id, row.split) == row.split for row in rows(archive))


def test_two_reading_orders_write_the_same_bytes(corpora: Path, whole: Archive, tmp_path: Path) -> None:
    sources = sorted((corpora / LINUX_RAID).glob("*.mbox"))
    backward = [parsed([source], tmp_path / f"{source.stem}.jsonl") for source in reversed(sources)]
    archive = Archive.open(str(tmp_path / "archive"))
    from jobs.stages.split import Config, run

    settings = SETTINGS | {"workers": 4}
    run(Config(**settings), Inputs({"messages": backward}, archive), Outputs())
    assert archive.log.head() == whole.log.head()


@pytest.mark.parametrize(
    ("folder", "num_mails", "num_threads"),
    [("notmuch/default", 52, 24), ("notmuch/threading", 12, 3), ("notmuch/duplicate", None, None)],
)
def test_notmuch(corpora: Path, tmp_path: Path, folder: str, num_mails: int | None, num_threads: int | None) -> None:
    records = parsed([corpora / folder], tmp_path / "messages.jsonl")
    archive = Archive.open(str(tmp_path / "archive"))
    result = split(archive, records, tmp_path, workers=1)
    found = messages(archive)
    if num_mails is None:
        assert len({name.partition("#")[0] for name in found}) == 3
        assert result["num_mails"] == 9
    else:
        assert (len(found), len({record["thread_id"] for record in found.values()})) == (num_mails, num_threads)
