"""The index: opened from its parts, searched exactly, refused where it is not what it should be."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from ml.tiny_embedder import tiny_embedder

from jobs.contracts.errors import ConfigError, IntegrityError, MissingInputError, UsageError
from jobs.contracts.records import Message
from jobs.files import write_json
from jobs.ml import vector_index
from jobs.ml.embedding import Embedder
from jobs.ml.embedding_files import find_embedding_model
from jobs.ml.faiss_file import write_faiss
from jobs.ml.vector_index import Index
from jobs.retrieval.parts import Catalogue, Source, pack, part_key, read_key
from jobs.retrieval.passages import cut, embedded_text
from jobs.retrieval.query import MODES, Mode, Passage, Query

WORDS = ("reshape", "array", "pancake", "plan", "raid", "disk", "meeting", "kernel", "patch", "bug")


def mails() -> list[Message]:
    """Two hundred, two a day at the same minute; every tenth says what the one before it says."""
    found = []
    for number in range(200):
        same = number - (number % 10 == 9)
        words = [WORDS[(same * step + step) % len(WORDS)] for step in range(2, 8)]
        day = f"2024-{1 + number // 56:02d}-{1 + number // 2 % 28:02d}"
        text = " ".join(words) + (". And more of it." * 20 if number % 25 == 0 else "")
        found.append(Message(f"{number}@x", "ann@x", WORDS[same % 7], f"{day}T09:00:00Z", [], [], text, "thread_1"))
    return found


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return Embedder(find_embedding_model(str(tiny_embedder(tmp_path_factory.mktemp("tiny")))))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, model: Embedder) -> Path:
    """An index of two parts."""
    folder = tmp_path_factory.mktemp("index")
    parts = []
    for window_idx, some in enumerate((mails()[:150], mails()[150:])):
        passages = list(cut(some, model))
        data = pack(passages, model.documents(list(map(embedded_text, passages))))
        source = Source(window_idx, "train", "ab" * 32, len(some))
        sha256 = hashlib.sha256(data).hexdigest()
        key = part_key("parts", model.model.digest, source, number=0, num_passages=len(passages), sha256=sha256)
        (folder / key).parent.mkdir(parents=True)
        (folder / key).write_bytes(data)
        part = read_key(key)
        assert part is not None
        parts.append(part)
    catalogue = Catalogue(model.model.name, None, model.model.digest, model.dimension, parts)
    write_json(folder / "index.json", catalogue.as_json())
    return folder


@pytest.fixture(scope="session")
def index(folder: Path) -> Index:
    return Index.open(folder / "index.json")


QUERIES = [
    Query("reshape of the array", before="2024-02-10"),
    Query("pancake plan"),
    Query("kernel bug patch", before="2024-01-05T09:00:00Z", exclude=frozenset({"2@x", "3@x", "no-such@x"})),
    Query("reshape", before="2023"),
    Query("zebra", before="2024-03"),
]


def allowed(index: Index, query: Query) -> list[str]:
    passages = [index.passage(one) for one in index.passage_ids]
    return [
        one.passage_id
        for one in passages
        if (not query.before or one.date < query.before) and one.message_id not in query.exclude
    ]


def test_by_vectors_it_is_the_nearest_of_those_that_may_answer(index: Index, model: Embedder) -> None:
    got = index.search(QUERIES, k=7, mode="dense", one_per_mail=False)
    vectors = {
        one: model.documents([embedded_text(index.passage(one))])[0].astype(np.float16) for one in index.passage_ids
    }
    for query, hits in zip(QUERIES, got, strict=True):
        asked = model.queries([query.text])[0]
        scores = {one: float(vectors[one].astype(np.float64) @ asked) for one in allowed(index, query)}
        best = sorted(scores.values(), reverse=True)[:7]
        assert [hit.score for hit in hits] == pytest.approx(best, abs=2e-3)
        assert {hit.passage_id for hit in hits} <= scores.keys()
        assert [hit.ranks for hit in hits] == [{"dense": rank} for rank in range(1, len(best) + 1)]


@pytest.mark.parametrize("mode", MODES)
def test_the_cut_by_date_and_the_exclusions_hold(index: Index, mode: Mode) -> None:
    for query, hits in zip(QUERIES, index.search(QUERIES, k=500, mode=mode, one_per_mail=False), strict=True):
        may = allowed(index, query)
        assert {hit.passage_id for hit in hits} <= set(may)
        if mode != "bm25":  # there something must be shared
            assert len(hits) == len(may)
    assert index.search([QUERIES[3]], k=5, mode=mode) == [[]]


def test_the_moment_itself_is_not_earlier(index: Index) -> None:
    date = index.passage(index.passage_ids[60]).date
    for at, most in ((date, date), (date.replace("T09", "T10"), date.replace("T09", "T10"))):
        (hits,) = index.search([Query("plan", before=at)], k=500, mode="dense")
        dates = [index.passage(hit.passage_id).date for hit in hits]
        assert max(dates) < most
    assert max(dates) == date


def test_the_two_rankings_are_fused(index: Index) -> None:
    (hybrid,), (dense,), (bm25,) = (index.search([QUERIES[0]], k=20, mode=mode, one_per_mail=False) for mode in MODES)
    ranks = {
        name: {hit.passage_id: rank for rank, hit in enumerate(hits, 1)}
        for name, hits in (("dense", dense), ("bm25", bm25))
    }
    for hit in hybrid:
        assert hit.score == pytest.approx(sum(1 / (60 + rank) for rank in hit.ranks.values()))
        for name, rank in hit.ranks.items():
            assert ranks[name].get(hit.passage_id, rank) == rank
    assert any(len(hit.ranks) == 2 for hit in hybrid)
    assert [hit.score for hit in hybrid] == sorted((hit.score for hit in hybrid), reverse=True)


@pytest.mark.parametrize("mode", MODES)
def test_an_answer_does_not_depend_on_what_else_is_asked(index: Index, mode: Mode) -> None:
    together = index.search(QUERIES, k=9, mode=mode)
    for query, hits in zip(QUERIES, together, strict=True):
        (alone,) = index.search([query], k=9, mode=mode)
        assert alone == hits


def test_equal_texts_come_in_the_order_of_ids(index: Index) -> None:
    (hits,) = index.search([Query("pancake plan")], k=200, mode="dense")
    pairs = [(one, after) for one, after in pairwise(hits) if one.score == after.score]
    same_date = [
        (a.passage_id, b.passage_id)
        for a, b in pairs
        if index.passage(a.passage_id).date == index.passage(b.passage_id).date
    ]
    assert len(same_date) >= 5
    assert all(a < b for a, b in same_date)


def test_more_than_there_is(index: Index) -> None:
    (hits,) = index.search([Query("plan")], k=10_000, one_per_mail=False)
    assert len(hits) == len(index) == len(index.passage_ids)
    assert index.search([], k=5) == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("depth", [1, 3, 100])
def test_of_a_mail_its_best_passage(index: Index, mode: Mode, depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However deep the rankings have to be looked at for so many mails."""
    every = index.search(QUERIES, k=len(index), mode=mode, one_per_mail=False)
    assert any(len({hit.message_id for hit in hits}) < len(hits) for hits in every)
    monkeypatch.setattr(vector_index, "FUSED_DEPTH", depth)
    for hits, all_hits in zip(index.search(QUERIES, k=12, mode=mode), every, strict=True):
        mails = [hit.message_id for hit in hits]
        assert len(set(mails)) == len(mails) == min(12, len({hit.message_id for hit in all_hits}))
        if mode != "hybrid":  # there the sums depend on how deep the rankings are
            best = {hit.message_id: hit for hit in reversed(all_hits)}
            assert hits == [hit for hit in all_hits if best[hit.message_id] == hit][:12]


@pytest.mark.parametrize(
    ("queries", "k", "mode", "message"),
    [
        ([Query(" \n")], 5, "hybrid", "a question is empty"),
        ([Query("plan")], 0, "hybrid", "0 passages are asked for"),
        ([Query("plan")], 5, "magic", "no such mode of search: magic"),
    ],
)
def test_what_cannot_be_asked(index: Index, queries: list[Query], k: int, mode: Mode, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        index.search(queries, k=k, mode=mode)


def test_no_such_passage(index: Index) -> None:
    with pytest.raises(UsageError, match="no such passage: nobody#0"):
        index.passage("nobody#0")


def test_an_index_of_another_model_is_refused_with_both_digests(folder: Path, tmp_path: Path, model: Embedder) -> None:
    other = tiny_embedder(tmp_path / "other", seed=1)
    index = Index.open(folder / "index.json", embedding_model=str(other))
    assert index.search([Query("plan")], k=1, mode="bm25")[0]  # no model is needed for words
    with pytest.raises(ConfigError) as caught:
        index.search([Query("plan")], k=1)
    for digest in (model.model.digest, find_embedding_model(str(other)).digest):
        assert digest[:16] in str(caught.value)


def test_a_part_that_is_gone_or_damaged(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    part = sorted((copy / "parts").rglob("*.parquet"))[0]
    data = part.read_bytes()
    part.write_bytes(data[:100] + b"?" + data[101:])
    with pytest.raises(IntegrityError, match="its digest is"):
        Index.open(copy / "index.json")
    part.unlink()
    with pytest.raises(MissingInputError, match="a part of the index is not there"):
        Index.open(copy / "index.json")
    with pytest.raises(MissingInputError):
        Index.open(tmp_path / "none" / "index.json")


def test_an_index_without_passages_finds_nothing(folder: Path, tmp_path: Path, model: Embedder) -> None:
    write_json(tmp_path / "index.json", Catalogue(model.model.name, None, model.model.digest, 0, []).as_json())
    index = Index.open(tmp_path / "index.json")
    assert len(index) == 0
    assert index.search([Query("plan"), replace(Query("x"), before="2024")], k=5) == [[], []]


def test_as_faiss_s_own_file(index: Index, model: Embedder, tmp_path: Path) -> None:
    import faiss

    beside = write_faiss(index, tmp_path / "index.faiss")
    passages = [Passage(**json.loads(line)) for line in beside.read_text().splitlines()]
    assert passages == [index.passage(one) for one in index.passage_ids]
    flat = faiss.read_index(str(tmp_path / "index.faiss"))
    scores, rows = flat.search(model.queries(["pancake plan"]), 5)
    (hits,) = index.search([Query("pancake plan")], k=5, mode="dense", one_per_mail=False)
    assert scores[0].tolist() == pytest.approx([hit.score for hit in hits], abs=1e-6)
    assert {passages[row].text for row in rows[0]} == {index.passage(hit.passage_id).text for hit in hits}
