"""The format of a log segment: JSON lines, a header and then one row per chunk. Pure.

A segment's bytes are a function of its contents alone, so that equal work gives equal bytes:
keys stand in a fixed order, there is no time and no writer's name, and nothing is compressed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import orjson

from jobs.contracts.errors import InputError, IntegrityError
from jobs.contracts.records import Assignment

FORMAT = 1
"""Version of the format; a reader refuses a higher one."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that was written before the segment that names it."""

    key: str
    sha256: str
    """Digest of the file's bytes."""
    num_bytes: int
    num_rows: int


@dataclass(frozen=True, slots=True)
class Head:
    """How far a log goes: its newest segment's number, -1 for an empty log, and that segment's digest."""

    seq: int = -1
    sha256: str = ""

    def __str__(self) -> str:
        return f"{self.seq}:{self.sha256}"


@dataclass(frozen=True, slots=True)
class Draft:
    """What a writer wants to commit; the log adds where it stands."""

    rows: Sequence[Assignment]
    window_idx: int
    parameters: Mapping[str, Any]
    """Settings that hold for the archive's lifetime: seed, ratios, window size, template digest …"""
    cycle: str = ""
    period: str = ""
    """The newest period of the mail's dates (`2019-W27`, `2019-07`) where mail is bucketed by it, else empty."""
    files: Mapping[str, Sequence[DataFile]] = field(default_factory=dict)
    """Data files by kind."""
    cursors: Mapping[str, Any] = field(default_factory=dict)
    """How far each mailbox had been read, by mailbox."""


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """A segment's first line."""

    format: int
    seq: int
    prev_sha256: str
    """Digest of the segment before; empty in the first."""
    num_rows: int
    cycle: str
    window_idx: int
    period: str
    parameters: dict[str, Any]
    files: dict[str, list[DataFile]]
    cursors: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment as it was read: its digest, its header, and its rows, still encoded."""

    sha256: str
    header: SegmentHeader
    rows_data: memoryview
    """The rows, one a line: a part of the segment's bytes, not copied."""

    @property
    def body(self) -> bytes:
        """A copy of the rows, one a line."""
        return self.rows_data.tobytes()

    @property
    def head(self) -> Head:
        """The log's head while this is its newest segment."""
        return Head(self.header.seq, self.sha256)

    def rows(self) -> list[Assignment]:
        """The rows, decoded; IntegrityError names the line that is not one."""
        return [_row(line, self.header, number) for number, line in enumerate(self.body.splitlines(), 2)]


_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
_ROW_FIELDS = frozenset(f.name for f in fields(Assignment))
_HEADER_FIELDS = frozenset(f.name for f in fields(SegmentHeader))


def encode(draft: Draft, after: Head) -> tuple[SegmentHeader, bytes]:
    """A draft as the segment that follows `after`: its header and its bytes.

    Raises InputError for a row of another window, or one that JSON cannot hold.
    """
    header = SegmentHeader(
        format=FORMAT,
        seq=after.seq + 1,
        prev_sha256=after.sha256,
        num_rows=len(draft.rows),
        cycle=draft.cycle,
        window_idx=draft.window_idx,
        period=draft.period,
        parameters=_plain(draft.parameters),
        files={kind: list(draft.files[kind]) for kind in sorted(draft.files)},
        cursors=_plain(draft.cursors),
    )
    for row in draft.rows:
        if row.window_idx != draft.window_idx:
            raise InputError(
                f"a row of window {row.window_idx} in a segment of window {draft.window_idx}", where=row.chunk_id
            )
    return header, b"".join([_line(header), *map(_line, draft.rows)])


def decode(data: bytes) -> Segment:
    """A segment from its bytes. Raises IntegrityError where the header or the row count is wrong.

    Rows are decoded by `Segment.rows`, not here.
    """
    end = data.find(b"\n")
    header = _header(data if end < 0 else data[:end])
    if end < 0 or not data.endswith(b"\n"):
        raise IntegrityError("the last line is cut short")
    num_lines = int(np.count_nonzero(np.frombuffer(data, np.uint8) == ord("\n"))) - 1
    if num_lines != header.num_rows:
        raise IntegrityError(f"the header tells of {header.num_rows} rows, there are {num_lines}")
    return Segment(sha256=digest(data), header=header, rows_data=memoryview(data)[end + 1 :])


def digest(data: bytes) -> str:
    """SHA-256 as lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def _line(value: Any) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError as error:
        raise InputError(f"cannot be written to the log: {error}", where=getattr(value, "chunk_id", "")) from error


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping as JSON gives it back, keys sorted throughout: what a reader of the segment will see."""
    try:
        plain: dict[str, Any] = orjson.loads(orjson.dumps(dict(value), option=_OPTIONS))
    except TypeError as error:
        raise InputError(f"cannot be written to the log: {error}") from error
    return plain


def _header(line: bytes) -> SegmentHeader:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise IntegrityError(f"the header is not JSON: {error}") from error
    return header_from_json(value)


def header_from_json(value: Any) -> SegmentHeader:
    """A header from its JSON object; IntegrityError where it is not one of a format that we read."""
    version = value.get("format") if isinstance(value, dict) else None
    if version != FORMAT:
        raise IntegrityError(
            f"the header is of format {version!r}, not {FORMAT}", hint="a newer refrain may have written it"
        )
    if value.keys() != _HEADER_FIELDS:
        odd = sorted(value.keys() ^ _HEADER_FIELDS)
        raise IntegrityError(f"the header's fields are not those of format {FORMAT}: {', '.join(odd)}")
    try:
        files = {kind: [DataFile(**file) for file in listed] for kind, listed in value["files"].items()}
    except (TypeError, AttributeError) as error:
        raise IntegrityError("the header's list of files is malformed") from error
    return SegmentHeader(**(value | {"files": files}))


def _row(line: bytes, header: SegmentHeader, number: int) -> Assignment:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise IntegrityError(f"line {number} is not JSON: {error}") from error
    if not isinstance(value, dict) or value.keys() != _ROW_FIELDS:
        raise IntegrityError(f"line {number} is not an assignment")
    row = Assignment(**value)
    if row.window_idx != header.window_idx:
        raise IntegrityError(f"line {number} is of window {row.window_idx}, its segment of {header.window_idx}")
    return row
