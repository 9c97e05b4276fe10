"""parse: mail sources in, raw mail records out.

Records come in a fixed order whatever the order in which the sources were named and the number of
workers: by name of the source, then as they stand in it. What is no mail, or over a limit, goes
to the rejects with its reason; nothing is dropped without one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from jobs.contracts.errors import InputError
from jobs.files import STANDARD, atomic_output, output_error, write_json
from jobs.mail.filters import Filters
from jobs.mail.limits import EMPTY, MAX_HEADER_BYTES, MAX_HEADER_LINES, MAX_MESSAGE_BYTES, NO_MAILS, Limits
from jobs.mail.mbox import MboxFormat
from jobs.processes import num_cpus
from jobs.progress import bar
from jobs.sources.converting import Convert, Converted, convert_all
from jobs.sources.cursors import read_cursors
from jobs.sources.named import parse_sources
from jobs.sources.options import ReadOptions
from jobs.stages import Inputs, Outputs, how


@dataclass(frozen=True, slots=True)
class Config:
    """What parse is told."""

    sources: tuple[str, ...]
    """As a user writes them, see `jobs.sources.named`."""
    mbox_format: MboxFormat = "auto"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    """Filters, see `jobs.mail.filters`."""
    max_message_bytes: int = MAX_MESSAGE_BYTES
    max_header_bytes: int = MAX_HEADER_BYTES
    max_header_lines: int = MAX_HEADER_LINES
    imap_ca: str | None = None
    """File with the certificates of a private CA."""
    workers: int | None = how(None)
    """Processes; None for one per CPU."""


def run(config: Config, inputs: Inputs, outputs: Outputs) -> dict[str, Any]:
    """Write `messages` and `rejects`, and then `cursor` where it is wanted; the counts.

    Raises InputError where there is no mail in any source (IMAP folders may have nothing new),
    and whatever the sources and the outputs raise; then nothing is written.
    """
    cursors = _cursors(inputs)
    limits = Limits(config.max_message_bytes, config.max_header_bytes, config.max_header_lines)
    workers = config.workers or num_cpus()
    own = tuple(path.resolve() for path in outputs.paths.values())
    options = ReadOptions(limits, config.mbox_format, cursors, config.imap_ca, alone=workers == 1, outputs=own)
    filters = Filters.parse(config.include, config.exclude)
    sources = parse_sources(config.sources)
    counts = _Counts()
    with ExitStack() as stack:
        messages = _Records(stack.enter_context(atomic_output(outputs["messages"])), outputs["messages"])
        rejects = stack.enter_context(atomic_output(outputs["rejects"])) if "rejects" in outputs else None
        progress = stack.enter_context(bar("parse", unit=" mails"))
        parts = (part for source in sources for part in source.parts(options))
        for done in convert_all(parts, Convert(options, filters, messages.between), workers):
            messages.write(done.records)
            counts.add(done)
            progress.update(done.num_records)
            if rejects is not None:
                rejects.writelines(orjson.dumps(r, option=orjson.OPT_APPEND_NEWLINE) for r in done.rejects)
        if sources and not counts.num_mails and not any(source.may_be_empty for source in sources):
            raise _no_mail(config.sources, counts)
        messages.end()
    if "cursor" in outputs:
        write_json(outputs["cursor"], dict(sorted((cursors | options.reached).items())))
    return counts.result(len(sources)) | ({"notes": options.notes} if options.notes else {})


def reads_again(config: Config) -> bool:
    """Whether a finished run is to be done again: local mail may have changed, and reading it twice costs little.

    Not so for remote mail: a folder whose mail has been committed would seem empty the second time.
    """
    return not any("://" in source and not source.startswith("file://") for source in config.sources)


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


# ---- results


class _Records:
    """Writes records as JSON lines, or as one array where the file's name ends in `.json`."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream = stream
        self._path = path
        name = path.name.removesuffix(".gz").removesuffix(".zst")
        self._array = name.endswith(".json")
        self.between = b",\n" if self._array else b"\n"
        self._empty = True

    def write(self, records: bytes | mmap) -> None:
        """Write records that have `between` between them."""
        if records:
            self._write((b"[\n" if self._array else b"") if self._empty else self.between)
            self._write(records)
            self._empty = False

    def end(self) -> None:
        """Write what closes the file."""
        ending = b"" if self._empty else b"\n"
        if self._array:
            ending = b"[]\n" if self._empty else b"\n]\n"
        self._write(ending)

    def _write(self, data: bytes | mmap) -> None:
        try:
            self._stream.write(data)
        except BrokenPipeError:
            raise
        except OSError as error:  # told of this file, not of the one that was opened last
            raise output_error("standard output" if self._path == STANDARD else self._path, error) from error


class _Counts:
    """What the stage's result is made of."""

    def __init__(self) -> None:
        self.kept = 0
        self.rejected: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()

    def add(self, done: Converted) -> None:
        self.kept += done.num_records
        self.rejected.update(reject.reason for reject in done.rejects)
        self.left_out.update(done.left_out)

    @property
    def num_mails(self) -> int:
        """Mails seen: kept, left out, or rejected for what they are."""
        return self.kept + self.left_out.total() + self.rejected.total() - sum(self.rejected[r] for r in NO_MAILS)

    def result(self, num_sources: int) -> dict[str, Any]:
        return {
            "num_sources": num_sources,
            "num_kept": self.kept,
            "num_rejected": dict(sorted(self.rejected.items())),
            "num_filtered": dict(sorted(self.left_out.items())),
        }
