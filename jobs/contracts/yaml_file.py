"""YAML as Kubernetes reads it, and JSON, remembering the line of every value.

PyYAML follows YAML 1.1 where `1:4` is the number 64, `2e-4` a string and `2026-01-01` a date, and of
two equal keys it takes the last; `kubectl` does none of that. Neither does this.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jobs.contracts.errors import ConfigError, MissingInputError

MAX_BYTES = 1 << 20
"""No larger file is read: an object of this size does not fit into Kubernetes either."""

VARIABLE = "env:"
"""In front of the name of a variable that holds what otherwise a file does."""
_FILES_SHOWN = 5
Location = Sequence[int | str]
"""Keys and indices from the root of a document to a value."""


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document: its value, and where each part of it stands."""

    value: Any
    root: yaml.Node

    def line(self, location: Location) -> int:
        """The line, from 1, of the value at that location, or of the nearest thing around it that is there."""
        node = self.root
        line = node.start_mark.line
        for step in location:
            found = _child(node, step)
            if found is None:
                break
            line, node = found
        return line + 1


def read_yaml(path: Path) -> Document:
    """The one document of a YAML file, of standard input for `-`, of a variable for `env:NAME`.

    Raises ConfigError and MissingInputError.
    """
    data = _read(path)
    if len(data) > MAX_BYTES:
        raise ConfigError(f"larger than {MAX_BYTES:,} bytes", where=str(path), hint="is this the right file?")
    try:
        text = data.decode()
        return _json(text) or _yaml(text, path)
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 text (byte {error.start})", where=str(path)) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise ConfigError(f"not YAML: {error.problem or error.context}", where=where) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"not YAML: {error}", where=str(path)) from error
    except RecursionError as error:
        raise ConfigError("nested too deeply", where=str(path)) from error


def _yaml(text: str, path: Path) -> Document:
    loader = _Loader(text)
    root = loader.get_single_node()
    if root is None:
        raise ConfigError("empty", where=str(path))
    return Document(loader.construct_document(root), root)


def _json(text: str) -> Document | None:
    """The document where the text is a JSON object; None for what is none, or is to be told of as YAML.

    YAML holds all of JSON, but PyYAML joins no character that is escaped in two halves, and bears no tabs
    between values. Where it cannot tell the lines, all is on the first one.
    """
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except ValueError:
        return None
    try:
        root = _Loader(text).get_single_node()
    except yaml.YAMLError:
        root = None
    return Document(value, root or yaml.MappingNode("", [], yaml.Mark("", 0, 0, 0, None, 0)))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key twice")
    return value


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _variable(name: str) -> bytes:
    if name not in os.environ:
        raise MissingInputError("no such variable", where=f"{VARIABLE}{name}")
    return os.environ[name].encode()


def _read(path: Path) -> bytes:
    try:
        if str(path) == "-":
            return sys.stdin.buffer.read(MAX_BYTES + 1)
        if str(path).startswith(VARIABLE):
            return _variable(str(path).removeprefix(VARIABLE))
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise MissingInputError("no such file", where=str(path)) from error
    except IsADirectoryError as error:
        names = sorted(one.name for one in path.glob("*.yaml"))
        hint = f"name a file in it: {', '.join(names[:_FILES_SHOWN])}" if names else "name a file"
        raise ConfigError("a folder, not a file", where=str(path), hint=hint) from error
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _child(node: yaml.Node, step: int | str) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == step:
                return key.start_mark.line, value
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step].start_mark.line, node.value[step]
    return None


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's numbers, no dates, and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002
        """A dict; ConstructorError where a key comes twice."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_NOT_AS_IN_YAML_1_1 = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NOT_AS_IN_YAML_1_1]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)
