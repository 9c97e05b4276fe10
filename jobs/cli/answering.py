"""What `refrain ask` answers from: the newest index, the model in service, and the prompt that joins them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import orjson

from jobs.contracts.artifacts import BASE_KEY, artifact_key
from jobs.contracts.errors import ConfigError, MissingInputError, UsageError
from jobs.contracts.markers import cycles_of, newest_indexed_cycle, read_marker
from jobs.contracts.records import Json
from jobs.contracts.store import Store, StoreOptions, open_archive
from jobs.files import scratch_folder
from jobs.production import bring_adapter, records
from jobs.retrieval.query import Hit, Mode, Passage, Query

if TYPE_CHECKING:
    from jobs.ml.base_model import Base
    from jobs.ml.vector_index import Index

Source = tuple[Hit, Passage]

ASKER = "asker@localhost"
"""Whose mail a question is."""
_SUBJECT_CHARS = 100
_CYCLES_SHOWN = 12
_MIDNIGHT = "0000-01-01T00:00:00Z"
"""What is added to the beginning of a time."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked, and what limits the answer."""

    text: str
    before: str = ""
    top_k: int = 5
    mode: Mode = "hybrid"
    persona: str = ""
    max_new_tokens: int = 256


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which index and which model are to answer; what is empty is taken from the archive, where there is one."""

    store_url: str | None = None
    cycle: str | None = None
    vector_db: Path | None = None
    base: str | None = None
    revision: str | None = None
    adapter: Path | None = None
    base_only: bool = False
    sources_only: bool = False
    embedding_model: str | None = None
    device: str | None = None


@dataclass(slots=True)
class Answer:
    """The mail that the model wrote, and those that it was given."""

    text: str | None
    sources: list[Source]
    model: Json = field(default_factory=dict)
    """Base model and adapter; empty where none has answered."""
    notes: list[str] = field(default_factory=list)


class Answerer(AbstractContextManager["Answerer"]):
    """Brings what is there, and answers. To be used in a `with` block: scratch files go with it."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._store: Store | None = None
        self._options = StoreOptions.from_environment()
        if wanted.store_url:
            self._store = open_archive(wanted.store_url, self._options)
        self._notes: list[str] = []

    def __enter__(self) -> Self:
        self._scratch_folder = scratch_folder("refrain-ask-")
        self._scratch = self._scratch_folder.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scratch_folder.__exit__(kind, error, trace)

    def answer(self, asked: Asked) -> Answer:
        """The sources, and the model's mail unless sources alone are wanted, or no model is there.

        Raises MissingInputError where there is neither an index nor a model, and what opening and loading raise.
        """
        if not asked.text.strip():
            raise UsageError("the question is empty", hint='refrain ask "who broke the reshape code?"')
        index = self._index()
        sources = self._sources(index, asked) if index is not None else []
        base = None if self._wanted.sources_only else self._base()
        if base is None:
            if index is None:
                raise MissingInputError(
                    "there is neither an index nor a model to answer from",
                    where=self._wanted.store_url or str(self._wanted.vector_db or ""),
                    hint="run `refrain index`, and `refrain train`, first",
                )
            return Answer(None, sources, notes=self._notes)
        text, model = self._generate(base, asked, sources)
        return Answer(text, sources, model, self._notes)

    # ---- sources

    def _index(self) -> Index | None:
        """The index that is wanted, or the archive's newest; None, with a note, where there is none."""
        from jobs.ml.vector_index import Index

        path = self._index_json()
        if path is None:
            self._notes.append("there is no index: the answer draws on no mail")
            return None
        wanted = self._wanted
        index = Index.open(path, self._store, embedding_model=wanted.embedding_model, device=wanted.device)
        self._notes += index.notes
        return index

    def _index_json(self) -> Path | None:
        if self._store is None:
            path = (self._wanted.vector_db or Path("vector_db")) / "index.json"
            if self._wanted.vector_db is not None and not path.exists():
                raise MissingInputError("no such index", where=str(path), hint="run `refrain index` first")
            return path if path.exists() else None
        cycle = self._wanted.cycle or newest_indexed_cycle(self._store)
        if cycle is None:
            return None
        marker = read_marker(self._store, "index", cycle)
        if marker is None:
            raise _not_indexed(self._store, cycle)
        path = self._scratch / "index.json"
        path.write_bytes(self._store.get(artifact_key(cycle, "index", "vector_index")))
        return path

    def _sources(self, index: Index, asked: Asked) -> list[Source]:
        if not len(index):
            self._notes.append("the index holds no passage: the answer draws on no mail")
        (hits,) = index.search([Query(asked.text, before=asked.before)], k=asked.top_k, mode=asked.mode)
        if len(index) and not hits:
            memory = "" if self._wanted.sources_only else ": the model answers from memory alone"
            self._notes.append(f"no mail was found{memory}")
        return [(hit, index.passage(hit.passage_id)) for hit in hits]

    # ---- the model

    def _base(self) -> Base | None:
        """The base model that is wanted, the archive's, or the adapter's; None, with a note, where there is none."""
        from jobs.ml.base_model import find_base
        from jobs.ml.checkpoint_files import base_of

        wanted = self._wanted
        settled: Json = {}
        if self._store is not None and self._store.exists(BASE_KEY):
            settled = orjson.loads(self._store.get(BASE_KEY))
        name = wanted.base or settled.get("base")
        known = settled.get("revision") if name and name == settled.get("base") else None
        revision = wanted.revision or known
        if wanted.adapter is not None:
            base = base_of(wanted.adapter, name, revision, options=self._options)
        elif name:
            base = find_base(name, revision, options=self._options)
        else:
            self._notes.append("there is no base model yet: these are the sources alone")
            return None
        if settled and base.digest != settled["digest"]:
            raise ConfigError(
                f"the archive's adapters are of another base model: its digest is {settled['digest']} "
                f"({settled['base']}), that of {name} is {base.digest}",
                where="base model",
                hint="name the archive's own by --base",
            )
        return base

    def _generate(self, base: Base, asked: Asked, sources: Sequence[Source]) -> tuple[str, Json]:
        from jobs.ml.adapter_switch import AdapterSwitch
        from jobs.ml.base_model import load_encoder, load_model, num_positions
        from jobs.ml.devices import choose_device
        from jobs.ml.generation import generate

        folder, digest = self._adapter(base)
        model = load_model(base, device=choose_device(self._wanted.device), precision="bf16")
        model = AdapterSwitch(model, base).use(folder)
        encoder = load_encoder(base)
        limit = num_positions(model)
        prompt = self._prompt(encoder, asked, sources, None if limit is None else limit - asked.max_new_tokens)
        (text,) = generate(model, encoder, [prompt], max_new_tokens=asked.max_new_tokens)
        return text, {"base": base.name, "base_digest": base.digest, "adapter": digest}

    def _adapter(self, base: Base) -> tuple[Path | None, str | None]:
        """The adapter that is wanted, or in service, and its digest; None for the bare base model."""
        from jobs.ml.adapter_files import adapter_digest
        from jobs.ml.checkpoint_files import as_adapter

        if self._wanted.base_only:
            return None, None
        if self._wanted.adapter is not None:
            own, note = as_adapter(self._wanted.adapter, base, self._scratch)
            self._notes += [f"{self._wanted.adapter}: {note}"] if note else []
            return own, adapter_digest(own)
        newest = None
        for record in records(self._store) if self._store is not None else ():
            newest = record
        folder = bring_adapter(self._store, newest, self._scratch / "adapter") if self._store and newest else None
        if newest is None or folder is None:
            self._notes.append("no adapter is in service: the bare base model answers")
            return None, None
        return folder, newest.sha256

    def _prompt(self, encoder: Any, asked: Asked, sources: Sequence[Source], limit: int | None) -> list[int]:
        """The prompt with as many of the sources, the best first, as the model can read."""
        for number in range(len(sources), -1, -1):
            ids: list[int] = encoder.prompt(*prompt_parts(asked, sources[:number]))
            if limit is None or len(ids) <= limit:
                if number < len(sources):
                    self._notes.append(f"the model reads the best {number} of the {len(sources)} sources: no more fit")
                return ids
        return ids


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


def prompt_parts(asked: Asked, sources: Sequence[Source]) -> tuple[str, list[tuple[str, str, str]], str, str]:
    """What the template's prompt is made of: subject, earlier mails, and the reply's sender and date.

    The sources stand as earlier mails, oldest first, then the question as a mail of its own. The reply is the
    persona's, or that of who wrote the best source. Its date is `before`, else that of the newest source, so that
    the same question has the same answer; it is today's where there is neither.
    """
    passages = [passage for _, passage in sources]
    date = asked.before or max((one.date for one in passages), default="") or f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    date += _MIDNIGHT[len(date) :]
    earlier = sorted(passages, key=lambda one: (one.date, one.passage_id))
    messages = [(one.sender, one.date, one.text) for one in earlier]
    question = " ".join(asked.text.split())
    sender = asked.persona or (passages[0].sender if passages else "")
    return question[:_SUBJECT_CHARS], [*messages, (ASKER, date, asked.text.strip())], sender, date
