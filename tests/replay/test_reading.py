"""Lists of chunks in every shape, and what is none."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contracts.errors import InputError, MissingInputError
from jobs.replay import reading
from jobs.replay.reading import read_chunks


def read(path: Path) -> list[tuple[str, Any]]:
    return [pair for block in read_chunks(path) for pair in block]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "list.json"
    path.write_text(text, encoding="utf-8")
    return path


PAIRS = [("a", {"split": "train", "window_idx": 1}), ("b", {"split": "val", "window_idx": 2})]
OBJECTS = [{"chunk_id": name, **fields} for name, fields in PAIRS]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(dict(PAIRS)),
        json.dumps(dict(PAIRS), indent=2),
        json.dumps(dict(PAIRS), indent=0),
        "\ufeff" + json.dumps(dict(PAIRS)),
        "\n\n " + json.dumps(dict(PAIRS)) + "\n",
        '{"a": {"split": "train", "window_idx": 1},\n"b": {"split": "val", "window_idx": 2}}',
        '{"a": {"split": "train", "window_idx": 1}}\n{"b": {"split": "val", "window_idx": 2}}\n',
    ],
)
def test_maps(tmp_path: Path, text: str) -> None:
    assert read(written(tmp_path, text)) == PAIRS


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(OBJECTS),
        json.dumps(OBJECTS, indent=4),
        "[" + ",\n".join(json.dumps(one) for one in OBJECTS) + "]",
        "[\n" + "\n,".join(json.dumps(one) for one in OBJECTS) + "\n]\n",
        "\n".join(json.dumps(one) for one in OBJECTS),
        "\n\n".join(json.dumps(one) for one in OBJECTS) + "\n\n",
    ],
)
def test_objects(tmp_path: Path, text: str) -> None:
    assert read(written(tmp_path, text)) == [(one["chunk_id"], one) for one in OBJECTS]


@pytest.mark.parametrize("text", ['["a", "b"]', '[\n"a",\n"b"\n]\n', '"a"\n"b"\n'])
def test_bare_ids(tmp_path: Path, text: str) -> None:
    assert read(written(tmp_path, text)) == [("a", {}), ("b", {})]


def test_lengths(tmp_path: Path) -> None:
    assert read(written(tmp_path, '{"a": 17, "b": 300}')) == [("a", {"num_tokens": 17}), ("b", {"num_tokens": 300})]
    assert read(written(tmp_path, '{"0": ["a"], "2": ["b"]}')) == [
        ("a", {"length_bucket": 0}),
        ("b", {"length_bucket": 2}),
    ]


@pytest.mark.parametrize("text", ["[]", "{}", "[\n]\n", "{\n}\n"])
def test_empty_lists(tmp_path: Path, text: str) -> None:
    assert read(written(tmp_path, text)) == []


def test_gzip(tmp_path: Path) -> None:
    path = tmp_path / "list.json.gz"
    path.write_bytes(gzip.compress(b'["a"]'))
    assert read(path) == [("a", {})]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "list.json: empty; not JSON"),
        ("\n", "list.json: empty; not JSON"),
        ("hello", "list.json, line 1: not JSON"),
        ('["a",', "list.json, line 1: not JSON"),
        ('[\n"a",\n"b"', "list.json, line 3: not JSON"),
        ('["a",]', "list.json, line 1: not JSON"),
        ('{"chunk_id": "a"}\n{"chunk_id": }', "list.json, line 2: not JSON"),
        ("[17]", "list.json: not a chunk: 17"),
        ('{"a": null}', 'list.json: not a chunk: {"a":null}'),
        ('{"a": ["b"]}', 'list.json: not a chunk: {"a":["b"]}'),
        ('{"a": true}', 'list.json: not a chunk: {"a":true}'),
    ],
)
def test_bad_files(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(InputError) as caught:
        read(written(tmp_path, text))
    assert what in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        read(tmp_path / "none.json")


values = st.dictionaries(
    st.text(min_size=1, max_size=5),
    st.fixed_dictionaries(
        {"split": st.sampled_from(["train", "val"]), "nested": st.lists(st.lists(st.integers(-9, 9)))}
    ),
    max_size=8,
)


@given(values, st.sampled_from([None, 0, 1, 2]), st.integers(1, 60), st.booleans())
def test_blocks_of_any_size_give_the_same(
    tmp_path_factory: pytest.TempPathFactory, mapping: dict[str, Any], indent: int | None, block: int, as_array: bool
) -> None:
    """The file is cut where elements end, or, where the form does not show it, not at all."""
    expected = list(mapping.items())
    value: Any = mapping
    if as_array:
        value = [{"chunk_id": name, **fields} for name, fields in expected]
        expected = [(one["chunk_id"], one) for one in value]
    path = written(tmp_path_factory.mktemp("blocks"), json.dumps(value, indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_BLOCK_BYTES", block)
        assert read(path) == expected


def test_lines_are_counted_over_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_BLOCK_BYTES", 10)
    path = written(tmp_path, "[\n" + '"abcdefgh",\n' * 20 + "oops\n]")
    with pytest.raises(InputError, match="line 22"):
        read(path)
    path = written(tmp_path, '"abcdefgh"\n' * 20 + "oops\n")
    with pytest.raises(InputError, match="line 21"):
        read(path)
