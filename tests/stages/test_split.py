"""The split stage on made mails: what goes where, and that nothing that was written ever changes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import mailgen
import pytest
from splitting import chunks, mail, messages, rows, split, tree

from jobs.assignments.archive import Archive
from jobs.contracts.records import MailRecord, short_digest
from jobs.intake.placing import SplitRule, thread_id_of
from jobs.intake.reading import read_data
from jobs.mail.decode import content_digest
from jobs.mail.limits import Limits
from jobs.mail.mbox import RawMail
from jobs.mail.record import to_record
from jobs.mail.template import segments
from jobs.ml.tokens import WhitespaceCounter, load_token_counter

WINDOWS = {"window_size": 100, "window_overlap": 10, "max_tokens": 512}


def generated(num_messages: int, seed: int = 1, days: int = 60) -> list[dict[str, str]]:
    """Mails of the generator as records."""
    return [
        asdict(to_record(RawMail(one.raw, "generated", 0, _iso(one.epoch_seconds)), Limits()))
        for one in mailgen.mails(num_messages, seed=seed, days=days)
    ]


def byte_tokenizer(path: Path) -> Path:
    """A tokenizer that knows some dates as one token, and has a token for every other character."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    vocabulary = {chr(code): code for code in range(256)} | {"1970": 256}
    tokenizer = Tokenizer(models.BPE(vocabulary | {"19": 257, "70": 258}, [("1", "9"), ("7", "0"), ("19", "70")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s|\S+"), "isolated")
    tokenizer.save(str(path))
    return path


def _iso(epoch_seconds: int) -> str:
    return datetime.fromtimestamp(epoch_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_a_thread_is_named_after_its_root_and_split_by_its_hash(archive: Archive, tmp_path: Path) -> None:
    split(archive, [mail("b@x", references=("ghost@x", "a@x"), hour=10), mail("a@x")], tmp_path)
    (row,) = rows(archive)
    assert row.thread_id == thread_id_of("a@x")  # its earliest message refers to nothing
    assert row.split == SplitRule(42, (80, 10, 10)).split_of(row.thread_id)
    assert row.messages == [short_digest("a@x"), short_digest("b@x")]
    assert row.ghosts == [short_digest("ghost@x")]


def test_a_ghost_can_be_the_root(archive: Archive, tmp_path: Path) -> None:
    split(
        archive, [mail("b@x", references=("ghost@x", "a@x")), mail("c@x", references=("ghost@x",), hour=11)], tmp_path
    )
    assert {row.thread_id for row in rows(archive)} == {thread_id_of("ghost@x")}


def test_in_reply_to_joins_beside_references_but_not_by_the_addresses_in_it(archive: Archive, tmp_path: Path) -> None:
    mails = [
        mail("a@x"),
        mail("b@x", references=("gone@x",), extra="In-Reply-To: <a@x>", hour=10),
        mail("c@x", extra="In-Reply-To: <a@x> <ann@example.org>", hour=11),
        mail("d@x", extra="In-Reply-To: <other@x> <ann@example.org>", hour=12),
    ]
    split(archive, mails, tmp_path)
    threads = {name: record["thread_id"] for name, record in messages(archive).items()}
    assert threads == dict.fromkeys(["a@x", "b@x", "c@x"], thread_id_of("a@x")) | {"d@x": thread_id_of("other@x")}


def test_records_hold_what_the_original_s_hold(archive: Archive, tmp_path: Path) -> None:
    split(archive, [mail("a@x", subject="hello", sender="Bea <bea@example.org>")], tmp_path)
    record = messages(archive)["a@x"]
    assert record["sender"] == "bea@example.org"
    assert record["date"] == "2024-01-01T09:00:00Z"
    assert {"message_id", "sender", "subject", "date", "references", "in_reply_to", "text", "thread_id"} <= set(record)


def test_the_same_mail_again_adds_nothing(archive: Archive, tmp_path: Path) -> None:
    mails = generated(200)
    first = split(archive, mails, tmp_path, **WINDOWS)
    before = tree(tmp_path / "archive")
    assert split(archive, mails, tmp_path, **WINDOWS) == first  # also: it finds its own segment
    assert split(archive, mails[:50], tmp_path, **WINDOWS)["num_new"] == 0
    assert tree(tmp_path / "archive") == before


def test_every_body_token_is_a_target_once(archive: Archive, tmp_path: Path) -> None:
    split(archive, generated(400), tmp_path, max_tokens=128, window_overlap=3, window_size=8)
    parts: dict[str, list[str]] = {}
    for chunk in chunks(archive):
        assert chunk["num_tokens"] <= 128
        assert chunk["num_tokens"] == WhitespaceCounter().count([chunk["text"]])[0] + 1
        for message in chunk["messages"]:
            if not message["context"]:
                parts.setdefault(message["message_id"], []).append(chunk["text"][message["start"] : message["end"]])
    texts = {message_id: record["text"] for message_id, record in messages(archive).items()}
    assert {message_id: "".join(found) for message_id, found in parts.items()} == texts
    assert any(len(found) > 1 for found in parts.values())  # some were longer than a chunk


def test_weekly_imports_and_one_by_period_write_equal_rows(tmp_path: Path) -> None:
    mails = generated(600, days=70)
    weeks: dict[str, list[dict[str, str]]] = {}
    whole = Archive.open(str(tmp_path / "whole"))
    split(whole, list(reversed(mails)), tmp_path, window_period="week", **WINDOWS)
    weekly = Archive.open(str(tmp_path / "weekly"))
    dates = {message_id: record["date"] for message_id, record in messages(whole).items()}
    for one in mails:
        from jobs.mail.windows import period_of

        weeks.setdefault(period_of(dates[one["message_id"]], "week"), []).append(one)
    seen: list[object] = []
    for _, batch in sorted(weeks.items()):
        assert split(weekly, batch, tmp_path, window_period="week", **WINDOWS)["num_new"] == len(batch)
        now = rows(weekly)
        assert now[: len(seen)] == seen  # no row changes
        seen = list(now)
    assert rows(weekly) == rows(whole)
    assert chunks(weekly) == chunks(whole)
    for kind in ("messages", "exclusions", "links"):
        assert list(read_data(weekly, kind)) == list(read_data(whole, kind))
    assert {row.window_idx for row in rows(whole)} == set(range(len(weeks)))
    split_of: dict[str, str] = {}
    assert all(split_of.setdefault(row.thread_id, row.split) == row.split for row in rows(whole))
    assert split(weekly, mails, tmp_path, window_period="week", **WINDOWS)["num_new"] == 0


def test_one_message_id_with_two_bodies_keeps_both(archive: Archive, tmp_path: Path) -> None:
    mails = [mail("a@x", body="first body"), mail("a@x", hour=10, body="second body"), mail("a@x", body="first body")]
    result = split(archive, mails, tmp_path)
    assert (result["num_new"], result["num_in_archive_or_twice"]) == (2, 1)
    first, second = messages(archive).values()
    assert (first["message_id"], first["text"], first["flags"]) == ("a@x", "first body", [])
    assert second["message_id"].startswith("a@x#")
    assert (second["text"], second["flags"]) == ("second body", ["duplicate-message-id"])
    assert second["thread_id"] == first["thread_id"]
    split(archive, [mail("a@x", hour=11, body="third body")], tmp_path)
    assert {record["thread_id"] for record in messages(archive).values()} == {first["thread_id"]}
    assert split(archive, mails, tmp_path)["num_new"] == 2  # found in its own segment, not added again
    assert len(messages(archive)) == 3


def test_one_mail_by_two_routes_is_one(archive: Archive, tmp_path: Path) -> None:
    again = mail("a@x", extra="Received: from elsewhere by here; 1 Jan 2024 09:00:05 +0000")
    assert split(archive, [mail("a@x"), again], tmp_path)["num_new"] == 1


def test_quotes_of_mail_in_the_archive_are_dropped_others_kept(archive: Archive, tmp_path: Path) -> None:
    quoting = "On Monday, Ann wrote:\n> the plan\n\nI agree."
    split(
        archive,
        [
            mail("a@x", body="the plan"),
            mail("b@x", references=("a@x",), hour=10, body=quoting),
            mail("c@y", references=("gone@y",), body=quoting),
        ],
        tmp_path,
    )
    found = messages(archive)
    assert found["b@x"]["text"] == "I agree."
    assert "> the plan" in found["c@y"]["text"]
    assert found["c@y"]["text_unquoted"] == "I agree."


def test_undated_mail_takes_its_neighbour_s_date(archive: Archive, tmp_path: Path) -> None:
    undated = {"message_id": "b@x", "email_message": "From: ann@example.org\nMessage-ID: <b@x>\n\ntext\n"}
    first = {"message_id": "c@x", "email_message": "From: ann@example.org\nMessage-ID: <c@x>\n\ntext\n"}
    split(archive, [first, mail("a@x", day="2024-03-05"), undated, mail("d@x", day="2024-03-09")], tmp_path)
    assert messages(archive)["b@x"]["date"] == messages(archive)["c@x"]["date"] == "2024-03-05T09:00:00Z"
    assert "date-from-neighbour" in messages(archive)["b@x"]["flags"]


def test_a_date_that_is_the_neighbour_s_is_counted_as_it_stands(archive: Archive, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(tmp_path / "tokenizer.json")
    undated = {"message_id": "b@x", "email_message": "From: ann@example.org\nMessage-ID: <b@x>\n\ntext\n"}
    split(archive, [mail("a@x", day="2024-03-05"), undated], tmp_path, tokenizer=str(tokenizer))
    counter = load_token_counter(str(tokenizer))
    for chunk in chunks(archive):
        pieces = segments(chunk["text"], [(one["start"], one["end"]) for one in chunk["messages"]])
        counts = counter.count([chunk["text"][piece.start : piece.end] for piece in pieces])
        assert sum(counts) + 1 == chunk["num_tokens"]


def test_a_record_of_parse_is_read_back_to_its_bytes() -> None:
    raw = b"Subject: caf\xe9\n\nbody"
    assert MailRecord("a", raw.decode("latin-1"), "latin-1").raw == raw


SPLIT_SCRIPT = """
import sys
from pathlib import Path
from splitting import split
from jobs.assignments.archive import Archive
if __name__ == "__main__":
    archive = Archive.open(sys.argv[1])
    split(archive, Path(sys.argv[2]), Path(sys.argv[2]).parent, workers=int(sys.argv[3]), window_period="week")
"""


def test_same_bytes_whatever_the_order_the_workers_and_the_hash_seed(tmp_path: Path) -> None:
    from splitting import write

    mails = generated(1500)
    script = tmp_path / "script.py"
    script.write_text(SPLIT_SCRIPT)
    forward = write(tmp_path / "forward.jsonl", mails)
    backward = write(tmp_path / "backward.jsonl", mails[::-1])
    trees = []
    for number, (source, workers, hash_seed) in enumerate([(forward, 1, "0"), (backward, 4, "1")]):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[1])}
        folder = tmp_path / f"archive{number}"
        subprocess.run([sys.executable, script, folder, source, str(workers)], check=True, env=environment)
        trees.append(tree(folder))
    assert trees[0] == trees[1]
    assert len(trees[0]) > 20


@pytest.mark.parametrize("at_once", [True, False])
def test_a_mail_whose_id_is_another_ones_own_id(archive: Archive, tmp_path: Path, at_once: bool) -> None:
    again = mail("x@x", day="2024-01-02", body="second")
    content = content_digest(again["email_message"].encode())
    first = [mail("x@x"), mail(f"x@x#{content[:8]}", hour=10, body="a third")]
    for batch in [[*first, again]] if at_once else [first, [again]]:
        split(archive, batch, tmp_path)
    assert set(messages(archive)) == {"x@x", f"x@x#{content[:8]}", f"x@x#{content}"}
    assert split(archive, [again, *first], tmp_path, cycle="again")["num_new"] == 0


def test_a_mail_that_refers_to_itself_keeps_its_quotes(archive: Archive, tmp_path: Path) -> None:
    split(archive, [mail("s@x", references=("s@x",), body="> what nobody else has\nan answer")], tmp_path)
    assert "what nobody else has" in messages(archive)["s@x"]["text"]


def test_an_undated_mail_takes_the_date_of_a_neighbour_that_is_in_the_archive(archive: Archive, tmp_path: Path) -> None:
    undated = {"message_id": "u@x", "email_message": "From: a@x\nMessage-ID: <u@x>\n\nno date\n"}
    before = [mail("1@x", day="2024-02-01"), mail("2@x", day="2024-03-01")]
    split(archive, before, tmp_path)
    split(archive, [*before, undated], tmp_path)
    record = messages(archive)["u@x"]
    assert (record["date"], record["flags"]) == ("2024-03-01T09:00:00Z", ["date-from-neighbour"])
