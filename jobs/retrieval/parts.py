"""Parts of an index: passages with their vectors, in one immutable file each; and the list of them, index.json.

A part is made of the mails of one window and split as they were committed. Its key tells of which, and
holds its own digest, so that a listing of keys says what is embedded already:

    <prefix>/<model, 16 digits>/<window>/<split>-<source, 16>.<number>.<passages>.<SHA-256>.parquet

Two writers that compute a little differently make two keys; readers take the smaller one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.contracts.errors import InputError, IntegrityError
from jobs.contracts.records import SPLITS, Json
from jobs.files import read_json
from jobs.retrieval.query import Passage

if TYPE_CHECKING:
    from numpy.typing import NDArray

INDEX_FORMAT = 1
VECTOR = "vector"
"""Name of the column of vectors: half precision, of length 1."""

_KEY = re.compile(
    r"(?P<model>[0-9a-f]{16})/(?P<window>\d{6})/(?P<split>[a-z]+)-(?P<source>[0-9a-f]{16})"
    r"\.(?P<number>\d+)\.(?P<rows>\d+)\.(?P<sha256>[0-9a-f]{64})\.parquet$"
)
_COLUMNS = {one.name: pa.int32() if one.name == "window_idx" else pa.string() for one in fields(Passage)}


@dataclass(frozen=True, slots=True)
class Source:
    """What parts are made of: the mails of one window and split."""

    window_idx: int
    split: str
    sha256: str
    """Of an archive's data file; of plain files, of the mails themselves."""
    num_messages: int


@dataclass(frozen=True, slots=True)
class Part:
    """A part that is there."""

    key: str
    model: str
    window_idx: int
    split: str
    source: str
    """The first 16 digits of its source's digest."""
    number: int
    num_passages: int
    sha256: str

    def is_of(self, source: Source) -> bool:
        """Whether it was made of that source."""
        return (self.window_idx, self.split) == (source.window_idx, source.split) and (
            self.source == source.sha256[:16]
        )


def part_key(prefix: str, model: str, source: Source, *, number: int, num_passages: int, sha256: str) -> str:
    """The key of a part; `model` is the digest of the embedding model."""
    name = f"{source.split}-{source.sha256[:16]}.{number}.{num_passages}.{sha256}.parquet"
    return f"{prefix}/{model[:16]}/{source.window_idx:06d}/{name}"


def read_key(key: str) -> Part | None:
    """The part of a key; None for any other key."""
    match = _KEY.search(key)
    if match is None or match["split"] not in SPLITS:
        return None
    return Part(
        key=key,
        model=match["model"],
        window_idx=int(match["window"]),
        split=match["split"],
        source=match["source"],
        number=int(match["number"]),
        num_passages=int(match["rows"]),
        sha256=match["sha256"],
    )


def pack(passages: Sequence[Passage], vectors: NDArray[np.float32]) -> bytes:
    """Passages and their vectors, (number of passages, dimension), as a file; the same bytes for the same."""
    columns = {name: pa.array([getattr(one, name) for one in passages], kind) for name, kind in _COLUMNS.items()}
    dimension = vectors.shape[1]
    flat = pa.array(vectors.astype(np.float16).ravel(), pa.float16())
    columns[VECTOR] = pa.FixedSizeListArray.from_arrays(flat, dimension)
    sink = pa.BufferOutputStream()
    plain = [VECTOR, "passage_id", "text"]
    pq.write_table(
        pa.table(columns),
        sink,
        compression={name: "none" if name == VECTOR else "zstd" for name in _paths(columns)},
        use_dictionary=[name for name in _COLUMNS if name not in plain],
        write_statistics=False,
    )
    return bytes(sink.getvalue())


def _paths(columns: Iterable[str]) -> list[str]:
    """Names of columns as Parquet has them."""
    return [f"{name}.list.element" if name == VECTOR else name for name in columns]


def unpack(data: bytes, part: Part, dimension: int, where: str) -> tuple[pa.Table, NDArray[np.float16]]:
    """The passages of a part as columns, and its vectors; IntegrityError where they are not what was written."""
    found = hashlib.sha256(data).hexdigest()
    if found != part.sha256:
        raise IntegrityError(
            f"its digest is {found[:16]}…, the index says {part.sha256[:16]}…",
            where=f"{where}/{part.key}",
            hint="delete it and run `refrain index` again",
        )
    table = pq.read_table(pa.BufferReader(data))
    flat = pa.concat_arrays(table.column(VECTOR).chunks).flatten().to_numpy(zero_copy_only=False)
    if table.num_rows != part.num_passages or len(flat) != table.num_rows * dimension:
        raise IntegrityError("it does not hold what its name says", where=f"{where}/{part.key}")
    return table.drop_columns([VECTOR]), flat.reshape(table.num_rows, dimension)


def dimension_of(data: bytes) -> int:
    """How many numbers a part's vectors have."""
    return int(pq.read_schema(pa.BufferReader(data)).field(VECTOR).type.list_size)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What index.json says: the model, and the parts of the index."""

    model: str
    """The embedding model as the user called it."""
    revision: str | None
    model_digest: str
    dimension: int
    parts: list[Part]

    def as_json(self) -> Json:
        """What index.json holds."""
        shown = [{name: value for name, value in asdict(part).items() if name != "model"} for part in self.parts]
        return {
            "format": INDEX_FORMAT,
            "model": self.model,
            "revision": self.revision,
            "model_digest": self.model_digest,
            "dimension": self.dimension,
            "num_passages": sum(part.num_passages for part in self.parts),
            "num_parts": len(self.parts),
            "parts": shown,
        }


def read_catalogue(path: Path) -> Catalogue:
    """An index.json; MissingInputError, InputError."""
    value = read_json(path)
    try:
        if value["format"] != INDEX_FORMAT:
            raise InputError(
                f"an index of format {value['format']!r}; this version reads {INDEX_FORMAT}",
                where=str(path),
                hint="run `refrain index` again",
            )
        digest = str(value["model_digest"])
        parts = [Part(model=digest[:16], **part) for part in value["parts"]]
        return Catalogue(value["model"], value["revision"], digest, int(value["dimension"]), parts)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"not an index: {error!r}", where=str(path), hint="give the index.json that `refrain index` wrote"
        ) from error
