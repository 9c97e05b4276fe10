"""Parts of an index as files, and the list of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from jobs.contracts.errors import InputError, IntegrityError
from jobs.retrieval.parts import Catalogue, Part, Source, dimension_of, pack, part_key, read_catalogue, read_key, unpack
from jobs.retrieval.query import Passage

SOURCE = Source(7, "val", "ab" * 32, 3)
PASSAGES = [
    Passage(f"{n}#0", f"{n}@x", "thread_1", "val", 7, "2024-01-01T09:00:00Z", "ann", "plan", "Größe\n" * n)
    for n in range(3)
]
VECTORS = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)


def part(data: bytes) -> Part:
    sha256 = hashlib.sha256(data).hexdigest()
    found = read_key(part_key("index", "cd" * 32, SOURCE, number=2, num_passages=3, sha256=sha256))
    assert found is not None
    return found


def test_what_is_written_is_read() -> None:
    data = pack(PASSAGES, VECTORS)
    assert data == pack(PASSAGES, VECTORS)
    table, vectors = unpack(data, part(data), 8, "here")
    assert [Passage(**row) for row in table.to_pylist()] == PASSAGES
    assert (vectors == VECTORS.astype(np.float16)).all()
    assert dimension_of(data) == 8


def test_a_key_tells_what_the_part_is() -> None:
    found = part(b"")
    assert (found.model, found.window_idx, found.split, found.number, found.num_passages) == ("cd" * 8, 7, "val", 2, 3)
    assert found.is_of(SOURCE)
    assert not found.is_of(Source(7, "val", "ba" * 32, 3))
    assert not found.is_of(Source(7, "test", "ab" * 32, 3))
    for other in (
        "index/x.parquet",
        "messages/000007/val-abababababababab.jsonl.zst",
        found.key.replace("val-", "all-"),
    ):
        assert read_key(other) is None


def test_a_part_that_is_damaged_is_refused() -> None:
    data = pack(PASSAGES, VECTORS)
    good = part(data)
    with pytest.raises(IntegrityError, match=r"its digest is .*, the index says"):
        unpack(data[:-1] + b"x", good, 8, "here")
    with pytest.raises(IntegrityError, match="does not hold what its name says"):
        unpack(data, good, 9, "here")


def test_the_list_of_parts(tmp_path: Path) -> None:
    catalogue = Catalogue("org/model", "abc", "cd" * 32, 8, [part(pack(PASSAGES, VECTORS))])
    path = tmp_path / "index.json"
    path.write_text(json.dumps(catalogue.as_json()))
    assert read_catalogue(path) == catalogue
    assert json.loads(path.read_text())["num_passages"] == 3


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": 9}', '{"format": 1, "model_digest": "a", "parts": [1]}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "index.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"index\.json"):
        read_catalogue(path)
