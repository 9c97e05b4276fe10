"""From parts to records, in one process or several; the order is that of the parts.

What another process made comes back in a file: through a pipe it would take several times as long.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson

from jobs.contracts.records import MailRecord, Reject
from jobs.files import output_error
from jobs.mail.filters import Filters
from jobs.mail.mbox import RawMail
from jobs.mail.record import to_record
from jobs.processes import shared
from jobs.sources.options import ReadOptions
from jobs.sources.parts import MboxRange, Part, Span

ALONE_BYTES = 128 << 20
"""So much is read before other processes are started. They cost half a second of processor time to start,
and half as much again for what they read, so that less is done sooner alone."""


@dataclass(slots=True)
class Converted:
    """What became of one part."""

    records: bytes | mmap.mmap = b""
    """JSON, with `between` between one record and the next."""
    num_records: int = 0
    rejects: list[Reject] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """How many mails each rule of the filters left out."""
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Convert:
    """Reads a part and makes records of it."""

    options: ReadOptions
    filters: Filters
    between: bytes

    def __call__(self, part: Part) -> Converted:
        """What became of the part; what reading it raises."""
        limits, filters = self.options.limits, self.filters
        lines: list[bytes] = []
        done = Converted()
        for mail in part.mails(self.options):
            taken = to_record(mail, limits, filters) if isinstance(mail, RawMail) else mail
            if isinstance(taken, MailRecord):
                lines.append(orjson.dumps(taken))
            elif isinstance(taken, Reject):
                done.rejects.append(taken)
            else:
                done.left_out[taken] += 1
        done.records, done.num_records = self.between.join(lines), len(lines)
        done.span = part.span if isinstance(part, MboxRange) else None
        return done


def convert_all(parts: Iterable[Part], convert: Convert, workers: int) -> Iterator[Converted]:
    """What became of the parts, in their order. Ranges of an mbox that do not meet are read again."""
    expected = 0
    for part, done in _in_order(iter(parts), convert, workers):
        if not isinstance(part, MboxRange):
            yield done
        elif part.exact or expected < part.end:  # else all of it belongs to a mail that began before
            assert done.span is not None
            meets = part.exact or done.span[0] == expected
            taken = done if meets else convert(replace(part, begin=expected, exact=True))
            assert taken.span is not None
            expected = taken.span[1]
            yield taken


def _in_order(parts: Iterator[Part], convert: Convert, workers: int) -> Iterator[tuple[Part, Converted]]:
    num_bytes = 0
    for part in parts:
        yield part, convert(part)
        num_bytes += part.num_bytes
        if workers > 1 and num_bytes > ALONE_BYTES:
            yield from _shared(parts, convert, workers)


def _shared(parts: Iterator[Part], convert: Convert, workers: int) -> Iterator[tuple[Part, Converted]]:
    """The rest of the parts, converted by other processes, a few of them ahead of what is taken."""
    with tempfile.TemporaryDirectory(prefix="refrain-parse-") as folder:
        for part, (done, path) in shared(_work, parts, workers=workers, start=_start, told=(convert, folder)):
            if done.num_records:
                with path.open("rb") as stream:
                    done.records = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            path.unlink()
            yield part, done


# ---- in a worker

_state: tuple[Convert, str] | None = None


def _start(convert: Convert, folder: str) -> None:
    global _state  # noqa: PLW0603 - one per process, set when it starts
    _state = (convert, folder)


def _work(part: Part) -> tuple[Converted, Path]:
    assert _state is not None
    convert, folder = _state
    done = convert(part)
    try:
        descriptor, name = tempfile.mkstemp(dir=folder)
        with os.fdopen(descriptor, "wb") as stream:  # without a buffer a full disk would take a part, and raise nothing
            stream.write(done.records)
    except OSError as error:
        raise output_error(folder, error) from error
    done.records = b""
    return done, Path(name)
