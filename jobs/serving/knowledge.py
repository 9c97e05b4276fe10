"""The index that answers draw on: searched by one question at a time, read anew for a newer one and for erased mail."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.contracts.artifacts import artifact_key
from jobs.contracts.errors import MissingInputError
from jobs.contracts.markers import cycles_of, newest_indexed_cycle, read_marker
from jobs.contracts.store import Store
from jobs.retrieval.query import Query
from jobs.serving.prompting import Asked, Source
from jobs.serving.wanted import Wanted

if TYPE_CHECKING:
    from jobs.ml.vector_index import Index

_CYCLES_SHOWN = 12


class Knowledge:
    """The wanted index, or the archive's newest. Safe to be asked by several threads."""

    def __init__(self, wanted: Wanted, store: Store | None, scratch: Path) -> None:
        self._wanted = wanted
        self._store = store
        self._scratch = scratch
        self._searching = threading.Lock()
        self._index: Index | None = None
        self.cycle: str | None = None
        """Whose index it is; None with plain files, and where there is none."""
        self._use(self._newest(), is_tried=False)

    @property
    def is_there(self) -> bool:
        """Whether there is an index at all."""
        return self._index is not None

    @property
    def notes(self) -> list[str]:
        """What a user is told about it."""
        if self._index is None:
            return ["there is no index: the answer draws on no mail"]
        empty = [] if len(self._index) else ["the index holds no passage: the answer draws on no mail"]
        return [*self._index.notes, *empty]

    @property
    def num_passages(self) -> int:
        """How many may be found."""
        return 0 if self._index is None else len(self._index)

    def search(self, asked: Asked) -> list[Source]:
        """What is found, the best first."""
        with self._searching:
            index = self._index
            if index is None or asked.top_k == 0:
                return []
            (hits,) = index.search([Query(asked.text, before=asked.before)], k=asked.top_k, mode=asked.mode)
        return [(hit, index.passage(hit.passage_id)) for hit in hits]

    def refresh(self) -> bool:
        """Read the newest index where it is another one, or mail of this one has been deleted; and whether that was so.

        Searches go on in the old one until the new one has answered. Where there is none any more, they find nothing.
        """
        if self._store is None:
            return False
        newest = self._newest()
        is_same = newest in (None, self.cycle)
        if is_same and not (self._index is not None and self._index.has_lost_mail(self._store)):
            return False
        self._use(newest, is_tried=True)
        return True

    def _newest(self) -> str | None:
        if self._store is None:
            return None
        return self._wanted.cycle or newest_indexed_cycle(self._store)

    def _use(self, cycle: str | None, *, is_tried: bool) -> None:
        from jobs.ml.vector_index import Index

        path = self._index_json(cycle)
        if path is None:
            self._index = self.cycle = None
            return
        wanted = self._wanted
        index = Index.open(path, self._store, embedding_model=wanted.embedding_model, device=wanted.device)
        if is_tried:
            index.search([Query("mail")], k=1)  # its embedding model is loaded by that, and each ranking made
        self._index, self.cycle = index, cycle

    def _index_json(self, cycle: str | None) -> Path | None:
        if self._store is None:
            path = (self._wanted.vector_db or Path("vector_db")) / "index.json"
            if self._wanted.vector_db is not None and not path.exists():
                raise MissingInputError("no such index", where=str(path), hint="run `refrain index` first")
            return path if path.exists() else None
        if cycle is None:
            return None
        if read_marker(self._store, "index", cycle) is None:
            raise _not_indexed(self._store, cycle)
        path = self._scratch / "index.json"
        path.write_bytes(self._store.get(artifact_key(cycle, "index", "vector_index")))
        return path


def _not_indexed(store: Store, cycle: str) -> MissingInputError:
    """The error for a cycle without an index, or without anything."""
    known = cycles_of(store)
    if cycle in known:
        hint = "run `refrain index` first"
        return MissingInputError(f"index of cycle {cycle} has not finished", where=store.url, hint=hint)
    hint = f"there are {', '.join(known[-_CYCLES_SHOWN:])}" if known else "there is none yet"
    if len(known) > _CYCLES_SHOWN:
        hint += f", and {len(known) - _CYCLES_SHOWN} before them"
    return MissingInputError(f"there is no cycle {cycle}", where=store.url, hint=hint)
