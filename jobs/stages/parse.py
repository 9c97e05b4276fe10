"""parse: mail sources in, raw mail records out.

Records come in a fixed order whatever the order in which the sources were named and the number of
workers: by name of the source, then as they stand in it. What is no mail, or over a limit, goes
to the rejects with its reason; nothing is dropped without one.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from jobs.contracts.errors import InputError
from jobs.contracts.records import MailRecord, Reject
from jobs.files import atomic_output, write_json
from jobs.mail.cursors import read_cursors
from jobs.mail.filters import Filters
from jobs.mail.limits import EMPTY, MAX_HEADER_BYTES, MAX_HEADER_LINES, MAX_MESSAGE_BYTES, NO_MAILS, Limits
from jobs.mail.mbox import MboxFormat, RawMail
from jobs.mail.read_options import ReadOptions
from jobs.mail.record import to_record
from jobs.mail.sources import parse_sources
from jobs.progress import bar
from jobs.stages import Inputs, Outputs

BATCH_BYTES = 1 << 20
BATCH_MAILS = 1000
MIN_BATCHES_TO_SHARE = 8
"""Fewer are done before a process has started."""


@dataclass(frozen=True, slots=True)
class Config:
    """What parse is told."""

    sources: tuple[str, ...]
    """As a user writes them, see `jobs.mail.sources`."""
    mbox_format: MboxFormat = "auto"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    """Filters, see `jobs.mail.filters`."""
    max_message_bytes: int = MAX_MESSAGE_BYTES
    max_header_bytes: int = MAX_HEADER_BYTES
    max_header_lines: int = MAX_HEADER_LINES
    imap_ca: str | None = None
    """File with the certificates of a private CA."""
    workers: int | None = None
    """Processes; None for one per CPU."""


def run(config: Config, inputs: Inputs, outputs: Outputs) -> dict[str, Any]:
    """Write `messages` and `rejects`, and then `cursor` where it is wanted; the counts.

    Raises InputError where there is no mail in any source (IMAP folders may have nothing new),
    and whatever the sources and the outputs raise; then nothing is written.
    """
    cursors = _cursors(inputs)
    limits = Limits(config.max_message_bytes, config.max_header_bytes, config.max_header_lines)
    options = ReadOptions(limits, config.mbox_format, cursors, config.imap_ca)
    filters = Filters.parse(config.include, config.exclude)
    sources = parse_sources(config.sources)
    convert = partial(_convert, limits=limits, filters=filters)
    counts = _Counts()
    with ExitStack() as stack:
        # The rejects are opened first, so that a full disk is reported of the file that fills it.
        rejects = stack.enter_context(atomic_output(outputs["rejects"])) if "rejects" in outputs else None
        messages = _Records(stack.enter_context(atomic_output(outputs["messages"])), outputs["messages"])
        progress = stack.enter_context(bar("parse", unit=" mails"))
        found = (mail for source in sources for mail in source.mails(options))
        for done in _in_order(convert, _batches(found), config.workers or os.cpu_count() or 1):
            messages.write(done.lines)
            counts.add(done)
            progress.update(len(done.lines))
            if rejects is not None:
                rejects.writelines(orjson.dumps(r, option=orjson.OPT_APPEND_NEWLINE) for r in done.rejects)
        if not counts.num_mails and not any(source.may_be_empty for source in sources):
            raise _no_mail(config.sources, counts)
        messages.end()
    if "cursor" in outputs:
        write_json(outputs["cursor"], dict(sorted((cursors | options.reached).items())))
    return counts.result(len(sources)) | ({"notes": options.notes} if options.notes else {})


def _cursors(inputs: Inputs) -> dict[str, Any]:
    if inputs.archive is not None:
        return inputs.archive.cursors()
    return read_cursors(inputs.one("cursor")) if inputs.paths.get("cursor") else {}


def _no_mail(sources: Iterable[str], counts: _Counts) -> InputError:
    names = ", ".join(sorted(sources))
    if not set(counts.rejected) - {EMPTY}:
        return InputError("no mail in it, it is empty", where=names)
    return InputError(
        "no mail in it: neither an mbox, a Maildir nor a single mail",
        where=names,
        hint="an mbox begins with a `From ` line with a date, a mail with its header",
    )


# ---- from raw mails to lines


@dataclass(slots=True)
class _Done:
    """What became of one batch."""

    lines: list[bytes] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """For each mail that a filter left out, the rule."""


def _convert(batch: list[RawMail | Reject], limits: Limits, filters: Filters) -> _Done:
    done = _Done()
    for mail in batch:
        taken = to_record(mail, limits, filters) if isinstance(mail, RawMail) else mail
        if isinstance(taken, MailRecord):
            done.lines.append(orjson.dumps(taken))
        elif isinstance(taken, Reject):
            done.rejects.append(taken)
        else:
            done.left_out.append(taken)
    return done


def _batches(mails: Iterable[RawMail | Reject]) -> Iterator[list[RawMail | Reject]]:
    batch: list[RawMail | Reject] = []
    num_bytes = 0
    for mail in mails:
        batch.append(mail)
        num_bytes += len(mail.raw) if isinstance(mail, RawMail) else 0
        if num_bytes >= BATCH_BYTES or len(batch) == BATCH_MAILS:
            yield batch
            batch, num_bytes = [], 0
    yield batch


def _in_order(
    convert: Callable[[list[RawMail | Reject]], _Done], batches: Iterator[list[RawMail | Reject]], workers: int
) -> Iterator[_Done]:
    """The batches converted, in their order, with a few of them under way at once."""
    first = list(islice(batches, MIN_BATCHES_TO_SHARE))
    if workers == 1 or len(first) < MIN_BATCHES_TO_SHARE:
        yield from map(convert, chain(first, batches))
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        pending: deque[Future[_Done]] = deque()
        for batch in chain(first, batches):
            pending.append(pool.submit(convert, batch))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


# ---- results


class _Records:
    """Writes records as JSON lines, or as one array where the file's name ends in `.json`."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream = stream
        name = path.name.removesuffix(".gz").removesuffix(".zst")
        self._array = name.endswith(".json")
        self._between = b",\n" if self._array else b"\n"
        self._empty = True

    def write(self, lines: list[bytes]) -> None:
        if lines:
            start = (b"[\n" if self._array else b"") if self._empty else self._between
            self._stream.write(start + self._between.join(lines))
            self._empty = False

    def end(self) -> None:
        ending = b"" if self._empty else b"\n"
        if self._array:
            ending = b"[]\n" if self._empty else b"\n]\n"
        self._stream.write(ending)


class _Counts:
    """What the stage's result is made of."""

    def __init__(self) -> None:
        self.kept = 0
        self.rejected: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()

    def add(self, done: _Done) -> None:
        self.kept += len(done.lines)
        self.rejected.update(reject.reason for reject in done.rejects)
        self.left_out.update(done.left_out)

    @property
    def num_mails(self) -> int:
        """Mails seen: kept, left out, or rejected for what they are."""
        return self.kept + self.left_out.total() + self.rejected.total() - sum(self.rejected[r] for r in NO_MAILS)

    def result(self, num_sources: int) -> dict[str, Any]:
        return {
            "sources": num_sources,
            "kept": self.kept,
            "rejected": dict(sorted(self.rejected.items())),
            "filtered": dict(sorted(self.left_out.items())),
        }
