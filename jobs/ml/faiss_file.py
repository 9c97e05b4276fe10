"""An index as FAISS's own file, for other programs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.files import atomic_output, write_json_lines
from jobs.ml.vector_index import Index


def write_faiss(index: Index, path: Path) -> Path:
    """Write an IndexFlatIP of all vectors, and beside it the passages of its rows, a JSON object a line.

    The path of the passages: `index.faiss` has `index.jsonl`. OutputError where they cannot be written.
    """
    import faiss

    flat = faiss.IndexFlatIP(max(1, index.vectors.shape[1]))
    flat.add(index.vectors)
    with atomic_output(path) as stream:
        stream.write(faiss.serialize_index(flat).tobytes())
    beside = path.with_suffix(".jsonl")
    write_json_lines(beside, _passages(index))
    return beside


def _passages(index: Index) -> Iterator[Any]:
    return (index.passage(one) for one in index.passage_ids)
