"""Counting and finding tokens: by the base model's tokenizer, or by white space where there is no model yet.

Segments of the template are tokenised one by one, without special tokens. Training must tokenise with
the very same tokenizer, so its digest is fixed for the life of an archive.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from jobs.contracts.errors import ConfigError, InputError, MissingInputError
from jobs.contracts.records import short_digest
from jobs.contracts.store import StoreOptions, open_store
from jobs.files import input_error

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WHITESPACE = "whitespace"

_BATCH_CHARS = 4_000_000  # of text at a time: encodings are some fifty times as large

_REVISION = re.compile(r"[0-9a-f]{40}")


class TokenCounter(Protocol):
    """How long a text is to a model. Deterministic; `digest` tells one tokenizer from another."""

    @property
    def name(self) -> str:
        """What the user called it."""

    @property
    def digest(self) -> str:
        """Equal for equal tokenizers."""

    def count(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text by itself."""

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Where each token stands in the text: (start, end) in characters, ascending."""


class WhitespaceCounter:
    """A token is a run of characters that are not white space: for use without a model."""

    name = WHITESPACE
    digest = "whitespace-1"

    def count(self, texts: Sequence[str]) -> list[int]:
        """The number of words of each text."""
        return [len(text.split()) for text in texts]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Where each word stands."""
        return [match.span() for match in re.finditer(r"\S+", text)]


class ModelCounter:
    """A model's own tokenizer. The `tokenizers` library works in parallel and answers in order."""

    def __init__(self, name: str, tokenizer: Tokenizer, definition: str) -> None:
        # A file may ask for these, for a model's fixed input; they would miscount.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # A mail that spells a special token, such as the end of a text, has these letters and not that token.
        tokenizer.encode_special_tokens = True
        self.name = name
        self.digest = tokenizer_digest(definition)
        self._tokenizer = tokenizer

    def count(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text, special tokens not added."""
        return [len(ids) for ids in self.encode(texts)]

    def encode(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """The tokens of each text, special tokens not added."""
        for batch in _batches(texts):
            for encoding in self._tokenizer.encode_batch_fast(batch, add_special_tokens=False):
                yield encoding.ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Where each token stands; tokens that share a character overlap."""
        offsets: list[tuple[int, int]] = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return offsets


def tokenizer_digest(definition: str) -> str:
    """Short digest of a tokenizer.json, whatever its layout, and whatever it says of truncation and padding."""
    fields = orjson.loads(definition)
    fields.pop("truncation", None)
    fields.pop("padding", None)
    return short_digest(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS))


def load_token_counter(name: str) -> TokenCounter:
    """The counter that a user named.

    `whitespace`; a tokenizer.json, or a folder with one, there or in a store (`s3://bucket/model`), or a name on
    the Hub with its revision (`org/model@<commit>`). A folder or a model on the Hub without a tokenizer.json is
    read through `transformers`; code that comes with it never runs. Raises MissingInputError, InputError for a
    file that is no tokenizer, ConfigError for a name without a revision and for a tokenizer that needs code of
    its own, and what the store and the Hub raise.
    """
    if name == WHITESPACE:
        return WhitespaceCounter()
    if "://" in name:
        return _from_store(name)
    path = Path(name)
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.is_file():
        return _from_file(name, file)
    if path.is_dir():
        return _from_transformers(name, name, revision=None)
    repository, separator, revision = name.rpartition("@")
    if path.suffix == ".json" or path.is_absolute() or name.startswith("."):
        raise MissingInputError("no such tokenizer", where=name, hint="give a tokenizer.json, or its folder")
    if not separator or not _REVISION.fullmatch(revision):
        raise ConfigError(
            f"no file of that name, and a tokenizer on the Hub needs its revision: {name!r}",
            where="tokenizer",
            hint="write org/model@<commit, 40 hex digits>, give a tokenizer.json, or use 'whitespace'",
        )
    return _from_hub(name, repository, revision)


def _from_hub(name: str, repository: str, commit: str) -> ModelCounter:
    """By its tokenizer.json alone, which a light install can read, and as `find_base` reads it."""
    from jobs.ml.fetching import file_from_hub

    file = file_from_hub(repository, commit, "tokenizer.json")
    return _from_file(name, file) if file else _from_transformers(name, repository, revision=commit)


def _from_file(name: str, path: Path) -> ModelCounter:
    try:
        return _from_bytes(name, path.read_bytes(), str(path))
    except OSError as error:
        raise input_error(path, error) from error


def _from_store(url: str) -> ModelCounter:
    folder = url.removesuffix("/").removesuffix("/tokenizer.json")
    store = open_store(folder, StoreOptions.from_environment(), read_only=True)
    return _from_bytes(url, store.get("tokenizer.json"), f"{folder}/tokenizer.json")


def _from_bytes(name: str, data: bytes, where: str) -> ModelCounter:
    from tokenizers import Tokenizer

    try:
        definition = data.decode("utf-8")
        return ModelCounter(name, Tokenizer.from_str(definition), definition)
    except Exception as error:  # the library raises Exception itself
        raise InputError(f"not a tokenizer: {error}", where=where) from error


def _from_transformers(name: str, source: str, *, revision: str | None) -> ModelCounter:
    try:
        from transformers import AutoTokenizer  # heavy, and no part of the light core
    except ImportError as error:
        raise MissingInputError(
            f"there is no tokenizer.json, and without `transformers` nothing else can be read: {source}",
            where="tokenizer",
            hint="pip install 'refrain[train]', or give the model's tokenizer.json",
        ) from error
    try:
        # Left open, it would ask on standard input whether to run a model's own code.
        loaded: Any = AutoTokenizer.from_pretrained(source, revision=revision or "main", trust_remote_code=False)
    except (ImportError, OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise needs_own_code(source) from error
        raise MissingInputError(f"cannot be loaded: {error}", where=source) from error
    backend: Tokenizer | None = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError(
            "this tokenizer has no fast version, and so no offsets", where=source, hint="convert it to a tokenizer.json"
        )
    return ModelCounter(name, backend, backend.to_str())


def needs_own_code(where: str) -> ConfigError:
    """What a user is told of a model or a tokenizer that nothing but code of its own can load."""
    return ConfigError(
        "it needs code of its own, and such code is never run",
        where=where,
        hint="take a model that transformers itself knows",
    )


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in runs of a bounded number of characters."""
    batch: list[str] = []
    length = 0
    for text in texts:
        if batch and length + len(text) > _BATCH_CHARS:
            yield batch
            batch, length = [], 0
        batch.append(text)
        length += len(text)
    if batch:
        yield batch
