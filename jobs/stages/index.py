"""index: the passages of all mail, embedded once, in parts that are written once."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

import orjson

from jobs.assignments.archive import Archive
from jobs.assignments.segment import DataFile
from jobs.contracts.errors import ConfigError
from jobs.contracts.folder_store import FolderStore
from jobs.contracts.records import Message
from jobs.contracts.store import Store
from jobs.corpus.reading import as_record, open_corpus
from jobs.files import write_json
from jobs.intake.reading import read_file
from jobs.ml.embedding_files import EmbeddingModel, find_embedding_model
from jobs.progress import bar
from jobs.retrieval.parts import Catalogue, Part, Source, dimension_of, pack, part_key, read_catalogue, read_key
from jobs.retrieval.passages import cut, embedded_text
from jobs.stages import Inputs, Outputs, how

MESSAGES_PER_PART = 4096
"""A killed run goes on behind its last whole part."""


@dataclass(frozen=True)
class Config:
    """Settings of `index`."""

    embedding_model: str = "sentence-transformers/all-MiniLM-L6-v2"
    """A name on the hub, a folder, or `package:NAME` of a Python package that carries one."""
    embedding_revision: str | None = None
    device: str | None = how(None)
    workers: int | None = how(None)
    """Threads of the CPU."""
    tells: bool = how(default=True)
    """Whether what was done goes to standard error."""


def run(config: Config, inputs: Inputs, outputs: Outputs) -> dict[str, Any]:
    """Embed what is not embedded yet by this model, and write `vector_index`, the list of all parts.

    Parts go into the archive's `index/`, or into `parts/` beside index.json where there is none. Those whose
    mail has been deleted are deleted. Raises what finding and loading the model raises, and ConfigError where
    the folder holds an index of another model.
    """
    model = find_embedding_model(config.embedding_model, config.embedding_revision)
    place = _FilesPlace(inputs, outputs["vector_index"]) if inputs.archive is None else _ArchivePlace(inputs)
    place.require_model(model.digest, model.name)
    wanted = place.sources()
    before = _Parts(place.store, place.prefix)
    missing = [(source, number) for source in wanted for number in before.missing(model.digest, source)]
    if missing:
        _embed(place, missing, model, config)
    now = _Parts(place.store, place.prefix)
    parts = [part for source in wanted for part in now.of(model.digest, source)]
    dimension = dimension_of(place.store.get(parts[0].key)) if parts else 0
    catalogue = Catalogue(model.name, model.revision, model.digest, dimension, parts)
    write_json(outputs["vector_index"], catalogue.as_json())
    stale = now.stale(place.live())
    for part in stale:
        place.store.delete(part.key)
    if config.tells:
        _tell(parts, {(source.sha256[:16], number) for source, number in missing}, stale)
    windows = {"window_idx": max((source.window_idx for source in wanted), default=0)}
    return windows | _result(parts, wanted, place.new_windows()) | {"model_digest": model.digest}


class _Place(Protocol):
    """Where mail comes from and parts go to."""

    store: Store
    prefix: str

    def require_model(self, digest: str, name: str) -> None:
        """ConfigError where only parts of another model may stand there."""

    def sources(self) -> list[Source]:
        """What is to be in the index, in the order of windows."""

    def live(self) -> set[tuple[int, str, str]]:
        """Window, split and digest (16 digits) of all mail that is there: parts of other mail are to go."""

    def messages(self, source: Source) -> Iterator[Message]:
        """The mails of a source, in their fixed order."""

    def new_windows(self) -> set[int]:
        """The windows that came with this cycle; of plain files, the newest."""


class _ArchivePlace:
    """See `_Place`: the archive's files of messages, up to the cycle's window; parts in `index/`."""

    prefix = "index"

    def __init__(self, inputs: Inputs) -> None:
        assert inputs.archive is not None
        self._archive: Archive = inputs.archive
        self.store = inputs.archive.store
        self._headers = inputs.archive.headers()
        self._own = {header.window_idx for header in self._headers if header.cycle == inputs.cycle}
        self._files: dict[Source, DataFile] = {}

    def require_model(self, digest: str, name: str) -> None:
        """See `_Place`: every model has parts of its own."""

    def sources(self) -> list[Source]:
        """See `_Place`."""
        upto = max(self._own or self.new_windows(), default=0)
        self._files = {source: file for source, file in self._there() if source.window_idx <= upto}
        return list(self._files)

    def live(self) -> set[tuple[int, str, str]]:
        """See `_Place`: of later windows too."""
        return {(source.window_idx, source.split, source.sha256[:16]) for source, _ in self._there()}

    def messages(self, source: Source) -> Iterator[Message]:
        """See `_Place`."""
        where = f"{self.store.url}/{self._files[source].key}"
        return (as_record(Message, record, where) for record in read_file(self._archive, self._files[source]))

    def new_windows(self) -> set[int]:
        """See `_Place`."""
        return self._own or {header.window_idx for header in self._headers[-1:]}

    def _there(self) -> Iterator[tuple[Source, DataFile]]:
        keys = set(self.store.list("messages/"))
        for header in self._headers:
            for file in header.files.get("messages", ()):
                if file.key in keys:
                    split = file.key.rpartition("/")[2].partition("-")[0]
                    yield Source(header.window_idx, split, file.sha256, file.num_rows), file


class _FilesPlace:
    """See `_Place`: the mails that `splits/` holds; parts beside index.json."""

    prefix = "parts"

    def __init__(self, inputs: Inputs, index_json: Path) -> None:
        self._index_json = index_json
        self._groups: dict[tuple[int, str], list[Message]] = {}
        for message in open_corpus(inputs.paths, None).messages():
            self._groups.setdefault((message.window_idx, message.split), []).append(message)
        self.store: Store = FolderStore(index_json.parent)
        self._sources = [
            Source(window_idx, split, _digest(messages), len(messages))
            for (window_idx, split), messages in sorted(self._groups.items())
        ]

    def require_model(self, digest: str, name: str) -> None:
        """See `_Place`."""
        if self._index_json.exists():
            there = read_catalogue(self._index_json)
            if there.model_digest != digest:
                raise ConfigError(
                    f"the index is of another embedding model: its digest is {there.model_digest[:16]}… "
                    f"({there.model}), that of {name} is {digest[:16]}…",
                    where=str(self._index_json),
                    hint="name another folder, or delete this one",
                )

    def sources(self) -> list[Source]:
        """See `_Place`."""
        return self._sources

    def live(self) -> set[tuple[int, str, str]]:
        """See `_Place`."""
        return {(source.window_idx, source.split, source.sha256[:16]) for source in self._sources}

    def messages(self, source: Source) -> Iterator[Message]:
        """See `_Place`."""
        return iter(self._groups[source.window_idx, source.split])

    def new_windows(self) -> set[int]:
        """See `_Place`."""
        return {source.window_idx for source in self._sources[-1:]}


def _digest(messages: Iterable[Message]) -> str:
    digest = hashlib.sha256()
    for message in messages:
        digest.update(orjson.dumps(message, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE))
    return digest.hexdigest()


class _Parts:
    """The parts that are there, of any model, as a listing tells."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._parts = [part for key in store.list(f"{prefix}/") if (part := read_key(key)) is not None]

    def of(self, digest: str, source: Source) -> list[Part]:
        """The parts of a source by a model, by their numbers."""
        found: dict[int, Part] = {}
        for part in self._parts:  # in the order of keys: of two that racing writers left, the first
            if part.model == digest[:16] and part.is_of(source):
                found.setdefault(part.number, part)
        return [found[number] for number in sorted(found)]

    def missing(self, digest: str, source: Source) -> list[int]:
        """The numbers of the parts of a source that are not there."""
        there = {part.number for part in self.of(digest, source)}
        return [number for number in range(-(-source.num_messages // MESSAGES_PER_PART)) if number not in there]

    def stale(self, live: set[tuple[int, str, str]]) -> list[Part]:
        """The parts of mail that is not there any more."""
        return [part for part in self._parts if (part.window_idx, part.split, part.source) not in live]


def _embed(place: _Place, missing: Sequence[tuple[Source, int]], model: EmbeddingModel, config: Config) -> None:
    """Make the missing parts and write each where it belongs."""
    from jobs.ml.embedding import Embedder, use_threads

    use_threads(config.workers)
    embedder = Embedder(model, config.device)
    total = sum(min(MESSAGES_PER_PART, source.num_messages - number * MESSAGES_PER_PART) for source, number in missing)
    with bar("index", unit="mail", total=total) as shown:
        for source, number, messages in _missing_mails(place, missing):
            passages = list(cut(messages, embedder))
            tell = _Told(shown, len(messages), len(passages))
            vectors = embedder.documents(list(map(embedded_text, passages)), tell)
            data = pack(passages, vectors)
            digest = hashlib.sha256(data).hexdigest()
            key = part_key(place.prefix, model.digest, source, number=number, num_passages=len(passages), sha256=digest)
            place.store.put_if_absent(key, data)


def _missing_mails(place: _Place, missing: Sequence[tuple[Source, int]]) -> Iterator[tuple[Source, int, list[Message]]]:
    """The mails of each missing part; every source is gone through once, past the parts that are there."""
    for source, group in groupby(missing, itemgetter(0)):
        messages, position = place.messages(source), 0
        for _, number in group:
            past = (number - position) * MESSAGES_PER_PART
            yield source, number, list(islice(messages, past, past + MESSAGES_PER_PART))
            position = number + 1


class _Told:
    """Tells a progress bar of mails how many passages more are done."""

    def __init__(self, shown: Any, num_messages: int, num_passages: int) -> None:
        self._shown = shown
        self._ratio = num_messages / max(1, num_passages)
        self._num_passages = 0

    def __call__(self, num_passages: int) -> None:
        before = int(self._num_passages * self._ratio)
        self._num_passages += num_passages
        self._shown.update(int(self._num_passages * self._ratio) - before)


def _result(parts: Sequence[Part], sources: Sequence[Source], new: set[int]) -> dict[str, Any]:
    """Counts that are the same however often the stage was stopped on the way."""
    return {
        "num_messages": sum(source.num_messages for source in sources),
        "num_passages": sum(part.num_passages for part in parts),
        "num_new_passages": sum(part.num_passages for part in parts if part.window_idx in new),
        "num_parts": len(parts),
    }


def _tell(parts: Sequence[Part], made: set[tuple[str, int]], stale: Sequence[Part]) -> None:
    """Say what was done just now, which need not be all that a stopped run and this one did together."""
    embedded = sum(part.num_passages for part in parts if (part.source, part.number) in made)
    there = sum(part.num_passages for part in parts) - embedded
    sys.stderr.write(f"{embedded:,} passages embedded now, {there:,} were there\n")
    if stale:
        sys.stderr.write(f"{len(stale):,} parts deleted: their mail has been deleted\n")
