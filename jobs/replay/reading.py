"""Reading lists of chunks in whatever shape they come, in bounded memory where the shape allows it.

Taken alike: an array of chunk ids, an array of objects, a map from chunk id to object or number,
JSON lines, and a map from length bucket to chunk ids. A file with one element a line, or
indented regularly, is parsed block by block; any other is read whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from jobs.contracts.errors import InputError
from jobs.files import open_input

_BLOCK_BYTES = 1 << 22
_CLOSING = {b"[": b"]", b"{": b"}"}
_BOM = b"\xef\xbb\xbf"

Fields = dict[str, Any]


def read_chunks(path: Path) -> Iterator[list[tuple[str, Fields]]]:
    """Blocks of (chunk id, its fields); InputError with file and line where the file is not such a list."""
    for values in read_values(path):
        yield [pair for value in values for pair in _pairs(value, path)]


def read_values(path: Path) -> Iterator[list[Any]]:
    """Blocks of a file's elements: of its array or lines as they are, of its map as a smaller map."""
    with open_input(path) as stream:
        first, number = _first_line(stream)
        if not first:
            raise InputError("empty; not JSON", where=str(path), hint="an empty list is written []")
        opening = first.lstrip()[:1]
        if opening in _CLOSING and not _is_json(first):
            yield from _bracketed(stream, first, number, path)
        else:
            yield from _lines(stream, first, number, path)


def _first_line(stream: BinaryIO) -> tuple[bytes, int]:
    number = 1
    line = stream.readline().removeprefix(_BOM)
    while line and line.isspace():
        line = stream.readline()
        number += 1
    return line, number


def _is_json(data: bytes) -> bool:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True


def _lines(stream: BinaryIO, first: bytes, number: int, path: Path) -> Iterator[list[Any]]:
    """JSON lines; a file of one line may be a whole array."""
    lines, size = [first], len(first)
    while lines:
        for line in stream:
            lines.append(line)
            size += len(line)
            if size >= _BLOCK_BYTES:
                break
        values = []
        for at, line in enumerate(lines, number):
            if not line.isspace():
                values.append(_loads(line, path, at))
        if number == 1 and len(values) == 1 and isinstance(values[0], list):
            values = values[0]
        yield values
        number += len(lines)
        first = stream.readline()
        lines, size = [first] if first else [], len(first)


def _bracketed(stream: BinaryIO, first: bytes, number: int, path: Path) -> Iterator[list[Any]]:
    """An array or a map that spans lines, cut where a line closes an element of the outermost level."""
    opening = first.lstrip()[:1]
    pending = [first.lstrip()[1:]]
    size, indent, ended = 0, None, False
    while not ended:
        for line in stream:
            pending.append(line)
            size += len(line)
            if indent is None and not line.isspace():
                indent = line[: len(line) - len(line.lstrip())]
            if size >= _BLOCK_BYTES and _closes(line, indent):
                break
        else:
            ended = True
        try:
            elements = _elements(b"".join(pending), opening, path, number, last=ended)
        except InputError:
            if ended:
                raise
            # Not indented regularly after all: what is left is read whole.
            ended = True
            elements = _elements(b"".join([*pending, *stream]), opening, path, number, last=True)
        yield elements
        number += len(pending)
        pending, size = [], 0


def _closes(line: bytes, indent: bytes | None) -> bool:
    """Whether an element ends with this line: it stands as far in as the first one and ends with a comma."""
    return (
        indent is not None
        and line.startswith(indent)
        and not line[len(indent) : len(indent) + 1].isspace()
        and line.rstrip().endswith(b",")
    )


def _elements(block: bytes, opening: bytes, path: Path, number: int, *, last: bool) -> list[Any]:
    text = block.rstrip()
    if not last:
        text = text[:-1] + _CLOSING[opening]
    value = _loads(opening + text, path, number)
    return value if isinstance(value, list) else [value]


def _loads(data: bytes, path: Path, number: int) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        where = f"{path}, line {number + error.lineno - 1}"
        raise InputError(f"not JSON: {error.msg}", where=where) from error


def _pairs(value: Any, path: Path) -> Iterator[tuple[str, Fields]]:
    """What one element says of which chunks."""
    if isinstance(value, str):
        yield value, {}
    elif not isinstance(value, dict):
        raise InputError(f"not a chunk: {_excerpt(value)}", where=str(path), hint="expected a chunk id or an object")
    elif isinstance(own := value.get("chunk_id"), str):
        yield own, value
    else:
        for key, item in value.items():
            yield from _entry(key, item, path)


def _entry(key: str, item: Any, path: Path) -> Iterator[tuple[str, Fields]]:
    if isinstance(item, dict):
        yield key, item
    elif isinstance(item, int) and not isinstance(item, bool):
        yield key, {"num_tokens": item}
    elif isinstance(item, list) and key.isdecimal() and all(isinstance(name, str) for name in item):
        for name in item:
            yield name, {"length_bucket": int(key)}
    else:
        raise InputError(
            f"not a chunk: {_excerpt({key: item})}",
            where=str(path),
            hint="expected chunk ids, objects with a chunk_id, or a map from chunk id to object",
        )


def _excerpt(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 80 else f"{text[:77]}..."
