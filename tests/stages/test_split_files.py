"""Splitting plain files: what stands beside assignments.json, and files of the original's shape."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import children
import orjson
import pytest
from splitting import mail, threads_by_split, write

from jobs.assignments.archive import Archive
from jobs.assignments.export import assignment_entries
from jobs.assignments.log import AssignmentsLog
from jobs.assignments.table import LogTable
from jobs.assignments.verify import verify
from jobs.contracts.errors import (
    ConfigError,
    InputError,
    MissingInputError,
    OutputError,
    RefrainError,
    TransientError,
    UsageError,
)
from jobs.contracts.records import SPLITS, short_digest
from jobs.intake import exports
from jobs.intake.placing import thread_id_of
from jobs.stages.split import Config, split_files

WEEK_1 = [mail("a@x", day="2024-01-02"), mail("b@x", day="2024-01-03", references=("a@x",)), mail("z@x", hour=8)]
WEEK_2 = [mail("c@x", day="2024-01-10", references=("b@x",)), mail("d@x", day="2024-01-11")]


def load(path: Path) -> Any:
    return orjson.loads(path.read_bytes())


def run(folder: Path, mails: list[dict[str, str]], **more: Any) -> dict[str, Any]:
    source = write(folder / "messages.jsonl", mails)
    return split_files(Config(workers=1, window_overlap=1), [source], folder / "assignments.json", **more)


def test_what_stands_beside_the_assignments(tmp_path: Path) -> None:
    run(tmp_path, WEEK_1)
    run(tmp_path, WEEK_2)
    assignments = load(tmp_path / "assignments.json")
    thread = thread_id_of("a@x")
    assert assignments[f"{thread}_window_1"]["window_idx"] == 1
    assert {entry["split"] for entry in assignments.values() if entry["thread_id"] == thread} <= set(SPLITS)
    chunks = load(tmp_path / "chunks.json")
    lengths = load(tmp_path / "length_metadata.json")
    assert [chunk["chunk_id"] for chunk in chunks] == list(assignments) == list(lengths)
    for chunk in chunks:
        length = lengths[chunk["chunk_id"]]
        assert (length["num_tokens"], length["sender"]) == (chunk["num_tokens"], chunk["sender"])
    records = {
        record["message_id"]: (record, name) for name in SPLITS for record in load(tmp_path / f"splits/{name}.json")
    }
    assert set(records) == {"a@x", "b@x", "c@x", "d@x", "z@x"}
    assert all(record["split"] == name for record, name in records.values())
    assert load(tmp_path / "exclusions.json") == []


def test_rows_are_only_added(tmp_path: Path) -> None:
    run(tmp_path, WEEK_1)
    before = load(tmp_path / "assignments.json")
    run(tmp_path, WEEK_2)
    after = load(tmp_path / "assignments.json")
    assert list(after.items())[: len(before)] == list(before.items())
    again = {path.name: path.read_bytes() for path in tmp_path.glob("*.json")}
    run(tmp_path, WEEK_2)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.json")} == again


def test_an_export_that_was_lost_comes_back(tmp_path: Path) -> None:
    run(tmp_path, WEEK_1)
    before = (tmp_path / "chunks.json").read_bytes()
    (tmp_path / "chunks.json").unlink()
    run(tmp_path, WEEK_1)
    assert (tmp_path / "chunks.json").read_bytes() == before


def test_named_files_and_shards(tmp_path: Path) -> None:
    named = [tmp_path / f"{name}.json" for name in SPLITS]
    run(tmp_path, [mail(f"{number}@x") for number in range(40)], named=named, shard_size=10)
    shards = sorted(path.name for path in tmp_path.glob("train-*.json"))
    assert shards == [f"train-{number:05d}.json" for number in range(1, len(shards) + 1)]
    assert [len(load(tmp_path / name)) for name in shards[:-1]] == [10] * (len(shards) - 1)
    assert not (tmp_path / "splits").exists()


def test_shards_of_an_earlier_export_do_not_stay_behind(tmp_path: Path) -> None:
    for shard_size in (4, 20):
        run(tmp_path, [mail(f"{number}@x") for number in range(40)], shard_size=shard_size)
    ids = [record["message_id"] for path in (tmp_path / "splits").glob("*-*.json") for record in load(path)]
    assert sorted(ids) == sorted(f"{number}@x" for number in range(40))


@pytest.mark.parametrize(("first", "then", "left"), [(None, 5, "train.json"), (5, None, "train-00001.json")])
def test_one_folder_has_one_form(tmp_path: Path, first: int | None, then: int | None, left: str) -> None:
    """What reads a whole folder would read each mail of it twice."""
    mails = [mail(f"{number}@x") for number in range(40)]
    run(tmp_path, mails, shard_size=first)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    with pytest.raises(OutputError, match="--shard-size before") as told:
        run(tmp_path, [*mails, mail("one-more@x")], shard_size=then)
    assert left.replace("train", "test") in told.value.what
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before
    run(tmp_path, [*mails, mail("one-more@x")], shard_size=then, output=tmp_path / "elsewhere")
    assert sum(len(load(path)) for path in (tmp_path / "elsewhere").iterdir()) == 41


def original(folder: Path) -> None:
    """Files as the original's splitter left them."""
    assignments = {
        "t1_window_0": {"split": "val", "thread_id": "t1", "window_idx": 3},
        "t2_window_0": {"split": "train", "thread_id": "t2", "window_idx": 4},
    }
    (folder / "assignments.json").write_bytes(orjson.dumps(assignments))
    chunks = [{"chunk_id": "t1_window_0", "message_ids": ["a@x"]}, {"chunk_id": "t2_window_0", "messages": ["z@x"]}]
    (folder / "chunks.json").write_bytes(orjson.dumps(chunks))


def test_assignments_of_the_original_are_taken_over(tmp_path: Path) -> None:
    original(tmp_path)
    result = run(tmp_path, [*WEEK_1, *WEEK_2])
    assert result["num_new"] == 3  # b, c and d; a and z are in it
    assignments = load(tmp_path / "assignments.json")
    assert assignments["t1_window_0"] == {"split": "val", "thread_id": "t1", "window_idx": 3}
    assert assignments["t1_window_1"] == {"split": "val", "thread_id": "t1", "window_idx": 5}
    assert f"{thread_id_of('d@x')}_window_0" in assignments


def test_what_stands_beside_assignments_of_the_original_is_taken_over_with_them(tmp_path: Path) -> None:
    text = " ".join(f"word{number}" for number in range(60))
    assignments = {
        "t1_window_0": {"split": "val", "thread_id": "t1", "window_idx": 3},
        "t2_window_0": {"split": "train", "thread_id": "t2", "window_idx": 4},
    }
    chunks = {  # a map, indented; mails with brackets
        "t1_window_0": {"message_ids": ["<a@x>"], "text": "Old text.", "kind": "theirs"},
        "t2_window_0": {"message_ids": ["<z@x>"], "sender": "zoe@example.org"},
    }
    records = [{"message_id": "<z@x>", "thread_id": "t2", "text": text, "sender": "zoe@example.org"}]
    (tmp_path / "assignments.json").write_bytes(orjson.dumps(assignments))
    (tmp_path / "chunks.json").write_bytes(orjson.dumps(chunks, option=orjson.OPT_INDENT_2))
    (tmp_path / "length_buckets.json").write_text('{"t1_window_0": 700}')
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train.json").write_bytes(orjson.dumps(records))
    assert run(tmp_path, [*WEEK_1, *WEEK_2, mail("copy@x", body=text, references=("a@x",))])["num_new"] == 4
    (old,) = (one for one in load(tmp_path / "chunks.json") if one["chunk_id"] == "t1_window_0")
    place = {"thread_id": "t1", "split": "val", "window_idx": 3}
    assert old == chunks["t1_window_0"] | {"chunk_id": "t1_window_0"} | place
    (z,) = (one for one in load(tmp_path / "splits/train.json") if one["message_id"] == "z@x")
    assert (z["text"], z["window_idx"]) == (text, 4)
    lengths = load(tmp_path / "length_metadata.json")
    assert (lengths["t1_window_0"]["num_tokens"], lengths["t1_window_0"]["length_bucket"]) == (700, 2)
    assert lengths["t2_window_0"]["sender"] == "zoe@example.org"
    (exclusion,) = load(tmp_path / "exclusions.json")  # a new mail of val repeats an old one of train
    assert (exclusion["id"], exclusion["other"]) == (short_digest("copy@x"), short_digest("z@x"))


def test_what_mail_that_is_taken_over_quotes_is_compared_with_new_mail(tmp_path: Path) -> None:
    lines = [" ".join(f"word{number}" for number in range(start, start + 10)) for start in range(0, 60, 10)]
    answer = mail("answer@x", body="\n".join(["Ann wrote:", *(f"> {line}" for line in lines), "", "No."]))
    run(tmp_path, [answer])
    assert load(tmp_path / "splits/train.json")[0]["text_unquoted"] == "No."
    shutil.rmtree(tmp_path / "assignments.archive")
    val = threads_by_split()["val"][0]
    assert run(tmp_path, [answer, mail(val, body="\n".join(lines))])["num_exclusions"] == 1
    (exclusion,) = load(tmp_path / "exclusions.json")
    assert (exclusion["id"], exclusion["other"]) == (short_digest(val), short_digest("answer@x"))


def test_a_taking_over_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original(tmp_path)
    append, seen = AssignmentsLog.append, []

    def once(log: AssignmentsLog, build: Any) -> Any:
        if seen:
            raise TransientError("stopped")
        seen.append(True)
        return append(log, build)

    with monkeypatch.context() as patch:
        patch.setattr(AssignmentsLog, "append", once)
        with pytest.raises(TransientError):
            run(tmp_path, WEEK_1)
    run(tmp_path, WEEK_1)
    assert {"t1_window_0", "t2_window_0"} <= load(tmp_path / "assignments.json").keys()


def test_assignments_whose_chunks_are_lost_are_taken_over_by_the_splits(tmp_path: Path) -> None:
    original(tmp_path)
    (tmp_path / "chunks.json").unlink()
    (tmp_path / "splits").mkdir()
    records = [{"message_id": "a@x", "thread_id": "t1"}, {"message_id": "z@x", "thread_id": "t2"}]
    (tmp_path / "splits/train.json").write_bytes(orjson.dumps(records))
    assert run(tmp_path, [*WEEK_1, *WEEK_2])["num_new"] == 3


def test_our_own_export_is_taken_over_without_its_archive(tmp_path: Path) -> None:
    run(tmp_path, WEEK_1)
    before = load(tmp_path / "assignments.json")
    shutil.rmtree(tmp_path / "assignments.archive")
    assert run(tmp_path, [*WEEK_1, *WEEK_2])["num_new"] == 2
    after = load(tmp_path / "assignments.json")
    assert {name: after[name] for name in before} == before
    assert f"{thread_id_of('a@x')}_window_1" in after
    grown = next(one for one in load(tmp_path / "chunks.json") if one["chunk_id"] == f"{thread_id_of('a@x')}_window_1")
    assert [(one["message_id"], one["context"]) for one in grown["messages"]] == [("b@x", True), ("c@x", False)]
    assert {one["message_id"] for name in SPLITS for one in load(tmp_path / f"splits/{name}.json")} >= {"a@x", "b@x"}


@pytest.mark.parametrize("are_forgotten", [False, True])
def test_of_an_export_that_is_taken_over_an_absent_root_is_known(tmp_path: Path, *, are_forgotten: bool) -> None:
    """Both answer a mail that is not there; so does, in between, one whose records may have been deleted."""
    run(tmp_path, [mail("one@x", references=("root@x", "middle@x"))])
    shutil.rmtree(tmp_path / "assignments.archive")
    if are_forgotten:
        shutil.rmtree(tmp_path / "splits")
    run(tmp_path, [mail("two@x", day="2024-01-09", references=("root@x",))])
    run(tmp_path, [mail("three@x", day="2024-01-17", references=("middle@x",))])
    thread = thread_id_of("root@x")
    apart = [f"{thread_id_of('middle@x')}_window_0"] if are_forgotten else [f"{thread}_window_2"]
    assert list(load(tmp_path / "assignments.json")) == [f"{thread}_window_0", f"{thread}_window_1", *apart]
    assert verify(Archive.open((tmp_path / "assignments.archive").as_uri()), deep=True).problems == []


def test_assignments_that_nothing_explains_are_refused(tmp_path: Path) -> None:
    original(tmp_path)
    (tmp_path / "chunks.json").unlink()
    before = (tmp_path / "assignments.json").read_bytes()
    with pytest.raises(ConfigError, match="nothing tells which mail"):
        run(tmp_path, WEEK_1)
    assert (tmp_path / "assignments.json").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "not a map"),
        ('{"c": {"split": "train"}}', "'c' lacks"),
        ("{", "not JSON"),
        ('{"c": {"split": "dev", "thread_id": "t", "window_idx": 1}}', "the split 'dev'"),
    ],
)
def test_assignments_of_no_known_shape_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "assignments.json").write_text(text)
    (tmp_path / "chunks.json").write_text('[{"chunk_id": "c", "messages": ["a@x"]}]')
    with pytest.raises(InputError, match=words):
        run(tmp_path, WEEK_1)


@pytest.mark.parametrize("name", ["/dev/full", "/dev/zero", "/dev"])
def test_assignments_that_are_no_file_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="not a file"):
        split_files(Config(workers=1), [write(tmp_path / "messages.jsonl", WEEK_1)], Path(name))
    assert not Path(f"{name}.archive").exists()


def test_a_folder_of_parsed_mail(tmp_path: Path) -> None:
    parsed = tmp_path / "parsed"
    parsed.mkdir()
    write(parsed / "1.jsonl", WEEK_1)
    (parsed / "2.json").write_bytes(orjson.dumps(WEEK_2))
    (parsed / "1.rejects.jsonl").write_text('{"reason": "no mail"}\n')
    result = split_files(Config(workers=1), [parsed], tmp_path / "assignments.json")
    assert result["num_new"] == 5
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingInputError, match="no parsed mail"):
        split_files(Config(workers=1), [tmp_path / "empty"], tmp_path / "assignments.json")


def test_a_record_without_mail_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="without `email_message`") as caught:
        run(tmp_path, [*WEEK_1, {"message_id": "a@x"}])
    assert caught.value.where.endswith(f"record {len(WEEK_1) + 1}")
    assert [path.name for path in tmp_path.iterdir()] == ["messages.jsonl"]


@pytest.mark.parametrize("text", ["", "[]"])
def test_input_without_a_record_is_refused_and_leaves_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "none.json").write_text(text)
    with pytest.raises(InputError, match="no records in it"):
        split_files(Config(workers=1), [tmp_path / "none.json"], tmp_path / "assignments.json")
    assert [path.name for path in tmp_path.iterdir()] == ["none.json"]


@pytest.mark.parametrize(
    "config", [Config(window_size=2, window_overlap=2), Config(tokenizer="none.json"), Config(ratios=(1, -1, 1))]
)
def test_refused_settings_leave_nothing_behind(tmp_path: Path, config: Config) -> None:
    source = write(tmp_path / "messages.jsonl", WEEK_1)
    with pytest.raises(RefrainError):
        split_files(config, [source], tmp_path / "assignments.json")
    assert [path.name for path in tmp_path.iterdir()] == ["messages.jsonl"]


def test_splits_that_cannot_be_written_are_told_before_anything_is_committed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        run(tmp_path, WEEK_1, output=tmp_path / "file" / "splits")
    assert {path.name for path in tmp_path.iterdir()} == {"messages.jsonl", "file"}


def test_an_export_that_fails_says_that_the_mail_is_in_the_archive(tmp_path: Path) -> None:
    (tmp_path / "chunks.json").mkdir()
    with pytest.raises(OutputError, match="it is a folder") as caught:
        run(tmp_path, WEEK_1)
    assert "the mail is in the archive, and the same command again" in caught.value.hint
    (tmp_path / "chunks.json").rmdir()
    assert run(tmp_path, WEEK_1)["num_new"] == len(WEEK_1)
    assert len(load(tmp_path / "chunks.json")) > 0


def test_mail_that_was_not_parsed_is_refused_with_what_to_do(tmp_path: Path) -> None:
    mbox = tmp_path / "archive.mbox"
    mbox.write_text("From ann@example.org Mon Jan  1 09:00:00 2024\nFrom: ann@example.org\n\ntext\n")
    with pytest.raises(InputError, match="not JSON") as caught:
        split_files(Config(workers=1), [mbox], tmp_path / "assignments.json")
    assert "refrain parse" in caught.value.hint


def test_ids_that_the_original_left_out_or_wrote_in_brackets(tmp_path: Path) -> None:
    def raw(own_id: str, extra: str = "") -> str:
        return f"From: ann@example.org\n{own_id}{extra}\nText of {own_id or 'no id'}.\n"

    without_id = raw("", "Subject: no id\n")
    result = run(
        tmp_path,
        [
            {"message_id": "<a@x>", "email_message": raw("Message-ID: <a@x>\n")},
            {"message_id": None, "email_message": raw("Message-ID: <b@x>\n", "References: <a@x>\n")},
            {"message_id": "", "email_message": without_id},
        ],
    )
    assert result["num_threads"] == 2
    records = [one for split in ("train", "val", "test") for one in load(tmp_path / "splits" / f"{split}.json")]
    assert {one["message_id"] for one in records} == {"a@x", "b@x", f"sha256:{short_digest(without_id)}"}


@pytest.mark.parametrize("encoding", ["latin-1", "no-such-encoding", 5])
def test_a_mail_that_is_not_in_its_encoding_is_refused(tmp_path: Path, encoding: object) -> None:
    with pytest.raises(InputError, match="encoding") as caught:
        run(tmp_path, [{"message_id": "a@x", "email_message": "Subject: \u4e2d\n\ntext\n", "encoding": encoding}])
    assert "a@x" in caught.value.where


def _second(begin: Any, folder: Path) -> None:
    begin.wait(60)
    run(folder, WEEK_2)


def test_two_at_once_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one commits while the first one writes assignments.json from what it has read before."""
    begin = children.forked.Event()
    other = children.begun(_second, begin, tmp_path)
    waited = []

    def entries_read(table: LogTable) -> Iterator[tuple[str, Any]]:
        entries = list(assignment_entries(table))
        if not waited:
            begin.set()
            other.join(2)
            waited.append(other.is_alive())
        return iter(entries)

    monkeypatch.setattr(exports, "assignment_entries", entries_read)
    write(tmp_path / "messages.jsonl", WEEK_1)
    split_files(Config(workers=1, window_overlap=1), [tmp_path / "messages.jsonl"], tmp_path / "assignments.json")
    assert (children.ended(other), waited) == (0, [True])
    assert len(load(tmp_path / "assignments.json")) == 4
    assert len(load(tmp_path / "chunks.json")) == 4
