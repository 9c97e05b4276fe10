"""The index of an archive's passages: exact search by vectors, by words, and by both, cut by date."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.contracts.errors import ConfigError, MissingInputError, UsageError
from jobs.contracts.folder_store import FolderStore
from jobs.contracts.store import Store
from jobs.ml.embedding_files import EmbeddingModel, find_embedding_model
from jobs.ml.nearest import nearest
from jobs.retrieval.fusion import fuse
from jobs.retrieval.lexical import WordIndex
from jobs.retrieval.parts import Catalogue, Part, read_catalogue, unpack
from jobs.retrieval.passages import joined
from jobs.retrieval.query import MODES, Hit, Mode, Passage, Query

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from jobs.ml.embedding import Embedder

Ranking = list[tuple[int, float]]
"""Rows and their scores, best first."""

FUSED_DEPTH = 100
"""How much of each ranking is fused; more where more passages are asked for."""


class Index:
    """Passages with their vectors, in memory; what is asked of it is answered exactly.

    Rows are in the order of (date, passage id), so that what is earlier than a date is one run of rows.
    """

    def __init__(
        self, catalogue: Catalogue, parts: list[Part], table: pa.Table, vectors: NDArray[np.float32], embedder: _Lazy
    ) -> None:
        self.catalogue = catalogue
        num_gone = len(catalogue.parts) - len(parts)
        self.notes = [f"{num_gone} parts are left out: their mail has been deleted"] if num_gone else []
        self._parts = parts
        self._embedder = embedder
        order = pc.sort_indices(table, [("date", "ascending"), ("passage_id", "ascending")])
        self._table = table.take(order).combine_chunks()
        self._vectors = np.ascontiguousarray(vectors[order.to_numpy()])
        self._ids: list[str] = self._table.column("passage_id").to_pylist()
        self._dates = self._table.column("date").to_numpy(zero_copy_only=False).astype("U20")

    @classmethod
    def open(
        cls,
        index_json: Path,
        store: Store | None = None,
        *,
        embedding_model: str | None = None,
        embedding_revision: str | None = None,
        device: str | None = None,
    ) -> Index:
        """The index that index.json names, its parts from the archive's store, or from beside it where there is none.

        Questions are embedded by the model that made it, found by its name there or by another one. Parts whose
        mail has been deleted from the archive are left out, and a note says so. Raises MissingInputError where
        a part is not there, IntegrityError where one is damaged, InputError for another file than an index.
        """
        catalogue = read_catalogue(index_json)
        name, revision = catalogue.model, catalogue.revision
        if embedding_model is not None:
            name, revision = embedding_model, embedding_revision
        parts, tables, vectors = _read_parts(catalogue, store or FolderStore(index_json.parent, read_only=True), store)
        table = pa.concat_tables(tables) if tables else _no_passages()
        stacked = (
            np.concatenate(vectors).astype(np.float32) if vectors else np.empty((0, catalogue.dimension), np.float32)
        )
        return cls(catalogue, parts, table, stacked, _Lazy(catalogue, name, revision, device))

    def has_lost_mail(self, archive: Store) -> bool:
        """Whether mail of its passages has been deleted from the archive since it was opened: open it anew."""
        return len(_in_archive(self._parts, archive)) < len(self._parts)

    def __len__(self) -> int:
        """Its passages."""
        return len(self._ids)

    @property
    def passage_ids(self) -> Sequence[str]:
        """The ids of all passages, by (date, id)."""
        return self._ids

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Their vectors, of length 1, in the same order: (passages, dimension)."""
        return self._vectors

    def passage(self, passage_id: str) -> Passage:
        """The passage of that id; UsageError where there is none."""
        row = self._rows.get(passage_id)
        if row is None:
            raise UsageError(f"no such passage: {passage_id}")
        return Passage(**self._table.slice(row, 1).to_pylist()[0])

    def search(
        self, queries: Sequence[Query], *, k: int, mode: Mode = "hybrid", one_per_mail: bool = True
    ) -> list[list[Hit]]:
        """The best passages for each query, best first: at most k, fewer where fewer may answer it.

        Of a mail in several passages the best one alone counts, unless `one_per_mail` is false. The answer to a
        query does not depend on the others. Equal scores are in the order of passage ids. UsageError for an
        empty query or k below 1.
        """
        _check(queries, k, mode)
        answers: list[list[Hit]] = [[] for _ in queries]
        waiting = list(range(len(queries))) if len(self) else []
        depth = max(k, FUSED_DEPTH) if one_per_mail or mode == "hybrid" else k
        while waiting:
            rankings = self._rankings([queries[at] for at in waiting], depth, mode)
            for at, ranking in zip(waiting, rankings, strict=True):
                answers[at] = self._hits(ranking, k, one_per_mail=one_per_mail)
            cut_off = [any(len(found) == depth for found in ranking.values()) for ranking in rankings]
            # Where few mails fill the rankings, more of them lie deeper.
            waiting = [at for at, more in zip(waiting, cut_off, strict=True) if more and len(answers[at]) < k]
            depth *= 4
        return answers

    def _rankings(self, queries: Sequence[Query], depth: int, mode: Mode) -> list[dict[str, Ranking]]:
        """By name, what each ranking finds for each query."""
        found: dict[str, list[Ranking]] = {}
        if mode != "bm25":
            found["dense"] = self._dense(queries, depth)
        if mode != "dense":
            found["bm25"] = self._lexical(queries, depth)
        return [{name: rankings[at] for name, rankings in found.items()} for at in range(len(queries))]

    def _hits(self, rankings: dict[str, Ranking], k: int, *, one_per_mail: bool) -> list[Hit]:
        fused = fuse({name: [self._ids[row] for row, _ in found] for name, found in rankings.items()})
        if len(rankings) == 1:
            (scores,) = ({self._ids[row]: score for row, score in found} for found in rankings.values())
            fused = [(one, scores[one], ranks) for one, _, ranks in fused]
        hits: dict[str, Hit] = {}
        for one, score, ranks in fused:
            message_id = self._message_ids[self._rows[one]]
            hits.setdefault(message_id if one_per_mail else one, Hit(one, message_id, score, ranks))
            if len(hits) == k:
                break
        return list(hits.values())

    def _dense(self, queries: Sequence[Query], k: int) -> list[Ranking]:
        vectors = self._embedder.get().queries([query.text for query in queries])
        ends = np.array([self._end(query) for query in queries])
        return nearest(self._vectors, vectors, ends, [self._excluded(query) for query in queries], k)

    def _lexical(self, queries: Sequence[Query], k: int) -> list[Ranking]:
        return [self._word_index.search(one.text, self._end(one), self._excluded(one), k) for one in queries]

    def _end(self, query: Query) -> int:
        """How many rows are earlier than the query's time."""
        return int(np.searchsorted(self._dates, query.before)) if query.before else len(self)

    def _excluded(self, query: Query) -> NDArray[np.int64]:
        rows = [row for one in query.exclude for row in self._rows_of_message.get(one, ())]
        return np.array(sorted(rows), np.int64)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {one: row for row, one in enumerate(self._ids)}

    @cached_property
    def _message_ids(self) -> list[str]:
        found: list[str] = self._table.column("message_id").to_pylist()
        return found

    @cached_property
    def _rows_of_message(self) -> dict[str, list[int]]:
        rows: dict[str, list[int]] = {}
        for row, one in enumerate(self._message_ids):
            rows.setdefault(one, []).append(row)
        return rows

    @cached_property
    def _word_index(self) -> WordIndex:
        columns = (self._table.column(name).to_pylist() for name in ("subject", "text"))
        return WordIndex(joined(subject, text) for subject, text in zip(*columns, strict=True))


class _Lazy:
    """The embedding model of an index, loaded when it is first needed: search by words goes without."""

    def __init__(self, catalogue: Catalogue, name: str, revision: str | None, device: str | None) -> None:
        self._catalogue = catalogue
        self._name = name
        self._revision = revision
        self._device = device
        self._embedder: Embedder | None = None

    def get(self) -> Embedder:
        """The model; ConfigError where it is not the one that made the index."""
        if self._embedder is None:
            from jobs.ml.embedding import Embedder

            model = find_embedding_model(self._name, self._revision)
            require_same_model(self._catalogue, model)
            self._embedder = Embedder(model, self._device)
        return self._embedder


def require_same_model(catalogue: Catalogue, model: EmbeddingModel) -> None:
    """ConfigError where an index was made by another embedding model."""
    if catalogue.model_digest != model.digest:
        raise ConfigError(
            f"the index was made by another embedding model: its digest is {catalogue.model_digest[:16]}… "
            f"({catalogue.model}), that of {model.name} is {model.digest[:16]}…",
            where="embedding model",
            hint="name the model that made it, or index anew with this one",
        )


def _read_parts(
    catalogue: Catalogue, store: Store, archive: Store | None
) -> tuple[list[Part], list[pa.Table], list[NDArray[np.float16]]]:
    """The parts of an index that are to be searched; of an archive, those whose mail is still there."""
    parts = catalogue.parts
    if archive is not None:
        parts = _in_archive(parts, archive)
    tables, vectors = [], []
    for part in parts:
        try:
            data = store.get(part.key)
        except MissingInputError as error:
            raise MissingInputError(
                "a part of the index is not there", where=f"{store.url}/{part.key}", hint="run `refrain index` again"
            ) from error
        table, matrix = unpack(data, part, catalogue.dimension, store.url)
        tables.append(table)
        vectors.append(matrix)
    return parts, tables, vectors


def _in_archive(parts: list[Part], archive: Store) -> list[Part]:
    """Those of them whose mail is there."""
    there = {_source_of(key) for key in archive.list("messages/")}
    return [part for part in parts if (part.window_idx, part.split, part.source) in there]


def _source_of(key: str) -> tuple[int, str, str]:
    """Window, split and digest of a file of messages, from its key."""
    _, window, name = key.split("/")
    split, _, digest = name.partition(".")[0].partition("-")
    return int(window), split, digest


def _no_passages() -> pa.Table:
    return pa.table({name: pa.array([], pa.string()) for name in Passage.__dataclass_fields__})


def _check(queries: Sequence[Query], k: int, mode: str) -> None:
    if k < 1:
        raise UsageError(f"{k} passages are asked for", hint="ask for 1 at least")
    if mode not in MODES:
        raise UsageError(f"no such mode of search: {mode}", hint=f"one of {', '.join(MODES)}")
    for query in queries:
        if not query.text.strip():
            raise UsageError("a question is empty", hint="write what is looked for")
