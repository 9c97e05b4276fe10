"""Base model, adapter and index joined: what answers questions, and goes over to another adapter under load."""

from __future__ import annotations

import logging
import queue
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from jobs.contracts.errors import MissingInputError, UsageError
from jobs.contracts.records import Json
from jobs.contracts.store import Store, StoreOptions, open_archive
from jobs.files import scratch_folder
from jobs.mail.template import NEXT_MAIL
from jobs.production import NO_ADAPTER
from jobs.serving.engine import Answering, Ended, Engine, Event, Failed, Piece, Task
from jobs.serving.knowledge import Knowledge
from jobs.serving.prompting import Asked, Prompt, Source, fit_prompt
from jobs.serving.wanted import (
    ALIAS,
    DIGEST_DIGITS,
    InStore,
    Wanted,
    bring,
    find_wanted_base,
    in_service,
    parse_served,
    versioned_name,
)

if TYPE_CHECKING:
    from jobs.ml.adapter_set import Adapter
    from jobs.ml.base_model import Base
    from jobs.ml.decoding import Decoder, Sampling
    from jobs.serving.vllm import VllmDecoder

logger = logging.getLogger("refrain.serve")

_MAX_PROBE_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Version:
    """One adapter, loaded, under a name that no other adapter will ever have; or the bare base model."""

    name: str
    digest: str
    adapter: Adapter
    seq: int = 0
    """The newest production record that it goes back to, or that it was told in spite of."""


class Assistant(AbstractContextManager["Assistant"]):
    """What answers. To be used in a `with` block: scratch files and the engine's thread go with it.

    `open_knowledge` and `open_model` come first. All else may be called by any thread.
    """

    def __init__(self, wanted: Wanted, *, max_active: int = 32) -> None:
        self.wanted = wanted
        self.options = StoreOptions.from_environment()
        self.store: Store | None = open_archive(wanted.store_url, self.options) if wanted.store_url else None
        self._served = parse_served(wanted.served) if wanted.served else None
        self.notes: list[str] = []
        """What a user is told of what was found and what was not."""
        self._max_active = max_active
        self._swapping = threading.Lock()
        self._knowledge: Knowledge | None = None
        self._decoder: Decoder | VllmDecoder | None = None
        self._engine: Engine | None = None
        self._version: Version | None = None

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._scratch = self._stack.enter_context(scratch_folder("refrain-serving-"))
        return self

    def __exit__(self, *_error: object) -> None:
        if self._engine is not None:
            self._engine.close()
        self._stack.close()

    # ---- what is there

    def open_knowledge(self) -> Knowledge:
        """Read the index. Raises what `jobs.ml.vector_index.Index.open` does."""
        self._knowledge = Knowledge(self.wanted, self.store, self._scratch)
        return self._knowledge

    def open_model(self) -> Decoder | VllmDecoder | None:
        """Load base model and adapter; None, with a note, where no base model is named anywhere."""
        base = find_wanted_base(self.wanted, self.store, self.options)
        if base is None:
            self.notes.append("there is no base model yet: these are the sources alone")
            return None
        self._decoder = self._decoder_of(base)
        self._version = self._first_version(base)
        self._engine = Engine(self._decoder, max_active=self._max_active)
        return self._decoder

    def _decoder_of(self, base: Base) -> Decoder | VllmDecoder:
        if self.wanted.vllm:
            from jobs.serving.vllm import VllmDecoder

            return VllmDecoder(base, self.wanted.vllm)
        from jobs.ml.decoding import Decoder

        decoder = Decoder(base, device=self.wanted.device, precision=self.wanted.precision)
        self.notes += [decoder.note] if decoder.note else []
        return decoder

    @property
    def knowledge(self) -> Knowledge:
        """The index; `open_knowledge` has been called."""
        assert self._knowledge is not None
        return self._knowledge

    @property
    def decoder(self) -> Decoder | VllmDecoder:
        """The model; `open_model` has found one."""
        assert self._decoder is not None
        return self._decoder

    @property
    def engine(self) -> Engine:
        """Its engine."""
        assert self._engine is not None
        return self._engine

    @property
    def version(self) -> Version:
        """What is in service here."""
        assert self._version is not None
        return self._version

    @property
    def base_name(self) -> str:
        """What clients call the bare base model: its name on the hub, or its folder's without where that lies."""
        name = self.decoder.base.name
        is_place = "://" in name or Path(name).is_dir()
        return name.rstrip("/").rpartition("/")[2] or ALIAS if is_place else name

    def named(self, name: str) -> Version | None:
        """The version that a client means: what is in service, also by its own name, or the bare base model."""
        version = self.version
        if name in (ALIAS, version.name):
            return version
        return self._bare() if name == self.base_name else None

    def names(self) -> dict[str, str]:
        """The names that a client may use, each with its adapter's digest."""
        version = self.version
        return {ALIAS: version.digest, version.name: version.digest, self.base_name: NO_ADAPTER}

    # ---- answers

    def prompt(self, asked: Asked, *, most_tokens: int | None = None) -> Prompt:
        """Search for sources, and make the prompt of as many as have room. NoRoomError where the question has none."""
        return self.prompt_of(asked, self.knowledge.search(asked), most_tokens=most_tokens)

    def prompt_of(self, asked: Asked, sources: Sequence[Source], *, most_tokens: int | None = None) -> Prompt:
        """As `prompt`, of sources that have been found."""
        return fit_prompt(self.decoder.encoder, asked, sources, self.room(asked.max_new_tokens, most_tokens))

    def room(self, max_new_tokens: int, most_tokens: int | None = None) -> int | None:
        """How many tokens a prompt may have; None: as many as it likes."""
        positions = self.decoder.num_positions
        limits = [most_tokens] if most_tokens is not None else []
        limits += [max(0, positions - max_new_tokens)] if positions is not None else []
        return min(limits, default=None)

    def begin(
        self,
        ids: Sequence[int],
        version: Version,
        sampling: Sampling,
        *,
        max_new_tokens: int,
        tell: Callable[[Event], object],
        stops: Sequence[str] = (),
        is_mail: bool = True,
        seconds: float | None = None,
    ) -> Answering:
        """Begin an answer; `tell` hears of its pieces and its end, in the engine's thread."""
        ends = [*stops, NEXT_MAIL] if is_mail else stops
        return self.engine.submit(
            Task(ids, version.adapter, sampling, max_new_tokens, tell, stops=ends, is_mail=is_mail, seconds=seconds)
        )

    def events(self, ids: Sequence[int], version: Version, *, max_new_tokens: int) -> Iterator[Event]:
        """The most likely answer, waited for: its pieces, and how it ended. Raises what the model's work raises."""
        from jobs.ml.decoding import Sampling

        heard: queue.SimpleQueue[Event] = queue.SimpleQueue()
        answering = self.begin(ids, version, Sampling(), max_new_tokens=max_new_tokens, tell=heard.put)
        try:
            while True:
                event = heard.get()
                if isinstance(event, Failed):
                    raise event.error
                yield event
                if isinstance(event, Ended):
                    return
        finally:
            answering.cancel()

    def probe(self, question: str, version: Version | None = None) -> None:
        """Ask a question, sources and all, as a client would; raises what goes wrong.

        An empty answer counts, and is told of: a model may end at once, and what it is worth was evaluation's to say.
        """
        version, asked = version or self.version, Asked(question, max_new_tokens=_MAX_PROBE_TOKENS)
        events = self.events(self.prompt(asked).ids, version, max_new_tokens=_MAX_PROBE_TOKENS)
        if not any(isinstance(event, Piece) for event in list(events)):
            logger.warning("%s has nothing to say to %r: its answer is empty", version.name, question)

    # ---- adapters

    def swap(self, target: InStore, question: str) -> bool:
        """Load an adapter beside the one in service, ask it a question, and go over to it; False: it was there.

        Answers under way end with the adapter that they began with. Whatever goes wrong (see `bring`,
        `AdapterSet.load`), what is in service stays.
        """
        with self._swapping:
            is_new = target.digest != self.version.digest
            version = self._load(target) if is_new else self.version
            if is_new:
                self.probe(question, version)
            self._version = replace(version, seq=max(target.seq, self.version.seq))
            return is_new

    def follow(self, question: str) -> bool:
        """Go over to what a newer production record says, and whether there was one."""
        newest = in_service(self.store) if self.store is not None and not self.wanted.served else None
        if newest is None or newest.seq <= self.version.seq or self.wanted.adapter or self.wanted.base_only:
            return False
        return self.swap(newest, question)

    def _first_version(self, base: Base) -> Version:
        wanted, store = self.wanted, self.store
        if wanted.base_only:
            return self._bare()
        if wanted.adapter is not None:
            return self._of_folder(wanted.adapter, base)
        if self._served is not None:
            return self._load(self._served)
        newest = in_service(store) if store is not None else None
        if newest is None or not newest.key:
            self.notes.append("no adapter is in service: the bare base model answers")
        return self._load(newest or InStore())

    def _bare(self) -> Version:
        return Version(self.base_name, NO_ADAPTER, self.decoder.load(None))

    def _of_folder(self, path: Path, base: Base) -> Version:
        from jobs.ml.adapter_files import adapter_digest
        from jobs.ml.checkpoint_files import as_adapter

        own, note = as_adapter(path, base, self._scratch)
        self.notes += [f"{path}: {note}"] if note else []
        digest = adapter_digest(own)
        return Version(versioned_name(digest), digest, self.decoder.load(own))

    def _load(self, adapter: InStore) -> Version:
        if not adapter.key:
            return Version(self.base_name, NO_ADAPTER, self.decoder.load(None), adapter.seq)
        if self.store is None:
            raise UsageError("an adapter is named by its key, but there is no store", hint="name it: --store")
        scratch = self._scratch / "adapters" / adapter.digest[:DIGEST_DIGITS]
        try:
            loaded = self.decoder.load(bring(self.store, adapter, scratch))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return Version(versioned_name(adapter.digest), adapter.digest, loaded, adapter.seq)


@dataclass(slots=True)
class Answer:
    """The mail that the model wrote, and those that were found for it."""

    text: str | None
    sources: list[Source]
    model: Json
    """Base model and adapter; empty where none has answered."""
    notes: list[str]


def answer_once(wanted: Wanted, asked: Asked, *, sources_only: bool = False) -> Answer:
    """One question answered with what is there: sources, and the model's mail unless sources alone are wanted.

    Raises MissingInputError where there is neither an index nor a model, and what opening and loading raise.
    """
    if not asked.text.strip():
        raise UsageError("the question is empty", hint='refrain ask "who broke the reshape code?"')
    with Assistant(wanted, max_active=1) as assistant:
        knowledge = assistant.open_knowledge()
        sources = knowledge.search(asked)
        notes = knowledge.notes
        if knowledge.num_passages and not sources:
            notes.append("no mail was found" + ("" if sources_only else ": the model answers from memory alone"))
        has_model = not sources_only and assistant.open_model() is not None
        if not has_model and not knowledge.is_there:
            raise MissingInputError(
                "there is neither an index nor a model to answer from",
                where=wanted.store_url or str(wanted.vector_db or ""),
                hint="run `refrain index`, and `refrain train`, first",
            )
        if not has_model:
            return Answer(None, sources, {}, notes + assistant.notes)
        prompt = assistant.prompt_of(asked, sources)
        events = assistant.events(prompt.ids, assistant.version, max_new_tokens=asked.max_new_tokens)
        text = "".join(event.text for event in events if not isinstance(event, Ended | Failed))
        return Answer(text, sources, describe(assistant), notes + assistant.notes + prompt.notes)


def describe(assistant: Assistant) -> Json:
    """Base model and adapter that answer."""
    base, digest = assistant.decoder.base, assistant.version.digest
    return {"base": base.name, "base_digest": base.digest, "adapter": digest or None}
