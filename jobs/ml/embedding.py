"""Embedding models of sentence-transformers, run without wasting work on padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from jobs.contracts.errors import ConfigError, InputError
from jobs.ml.batching import token_batches
from jobs.ml.devices import choose_device
from jobs.ml.embedding_files import EmbeddingModel
from jobs.ml.quiet import quiet_libraries
from jobs.retrieval.passages import Offsets

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH_TOKENS = 8192
"""Tokens, padding included, that go through the model at once."""

_DOCUMENT_PROMPTS = ("document", "passage", "corpus")
_QUERY_PROMPTS = ("query",)
_TOKENIZED_TEXTS = 4096
_LONGEST = 8192
"""Tokens of a passage at most, also for models that read more."""
_LEAST_BUDGET = 16
_SLACK = 2
"""Tokens left free: a piece of a text need not have the tokens that it had within the text."""


class Embedder:
    """A loaded embedding model. Vectors are of length 1, so that their products are cosines.

    Batches are a pure function of the texts that one call is given, so the same texts give the same bits on
    the same machine and number of threads; on others they differ by rounding. On CPUs that compute in
    bfloat16 and on GPUs the transformer runs in it, and pooling in fp32; elsewhere all is fp32.
    """

    def __init__(self, model: EmbeddingModel, device: str | None = None) -> None:
        self.model = model
        self.device = choose_device(device)
        self._model = _load(model, str(self.device))
        self._tokenizer: Any = self._model.tokenizer
        self._query, self._document = (_prompt(self._model, names) for names in (_QUERY_PROMPTS, _DOCUMENT_PROMPTS))
        if computes_in_bfloat16(self.device):
            self._model[0].to(torch.bfloat16)

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""
        return int(self._model.get_embedding_dimension())

    @cached_property
    def budget(self) -> int:
        """See `jobs.retrieval.passages.Tokens`: the model's limit without special tokens and the prompt."""
        return max(_LEAST_BUDGET, self._limit - len(self._tokenizer(self._document)["input_ids"]) - _SLACK)

    @cached_property
    def _limit(self) -> int:
        limit = self._model.max_seq_length or self._tokenizer.model_max_length
        return min(int(limit), _LONGEST)

    def offsets(self, texts: list[str]) -> list[Offsets]:
        """See `jobs.retrieval.passages.Tokens`."""
        encoded = self._tokenizer(
            texts, add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False
        )
        found: list[Offsets] = encoded["offset_mapping"]
        return found

    def documents(self, texts: Sequence[str], tell: Callable[[int], object] = lambda _: None) -> NDArray[np.float32]:
        """A vector for each text that is to be found, (texts, dimension); `tell` hears how many more are done."""
        with torch.inference_mode():
            return self._vectors([self._document + text for text in texts], tell)

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A vector for each question, (texts, dimension): the same bits whatever else is asked, for each goes alone."""
        vectors = np.empty((len(texts), self.dimension), np.float32)
        with torch.inference_mode():
            for row, text in enumerate(texts):
                vectors[row] = self._vectors([self._query + text], lambda _: None)[0]
        return vectors

    def _vectors(self, texts: Sequence[str], tell: Callable[[int], object]) -> NDArray[np.float32]:
        vectors = np.empty((len(texts), self.dimension), np.float32)
        for start in range(0, len(texts), _TOKENIZED_TEXTS):
            some = texts[start : start + _TOKENIZED_TEXTS]
            ids = self._tokenizer(list(some), truncation=True, max_length=self._limit)["input_ids"]
            for batch in token_batches([len(one) for one in ids], BATCH_TOKENS):
                vectors[[start + index for index in batch]] = self._forward([ids[index] for index in batch])
                tell(len(batch))
        return vectors

    def _forward(self, ids: list[list[int]]) -> NDArray[np.float32]:
        """The vectors of one batch, padded on the right; (texts, dimension)."""
        padded = torch.full((len(ids), max(map(len, ids))), self._tokenizer.pad_token_id or 0, dtype=torch.long)
        mask = torch.zeros_like(padded)
        for row, one in enumerate(ids):
            padded[row, : len(one)] = torch.tensor(one)
            mask[row, : len(one)] = 1
        features: dict[str, Any] = {"input_ids": padded.to(self.device), "attention_mask": mask.to(self.device)}
        features = self._model[0](features)
        features["token_embeddings"] = features["token_embeddings"].float()
        for module in list(self._model)[1:]:
            features = module(features)
        vectors = torch.nn.functional.normalize(features["sentence_embedding"].float(), dim=1)
        found: NDArray[np.float32] = vectors.cpu().numpy()
        return found


def use_threads(number: int | None) -> None:
    """Compute with so many threads of the CPU from now on; None leaves it as it is."""
    if number is not None:
        torch.set_num_threads(number)


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are quicker there; a CPU that only emulates them is slower with them."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    flags = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, flag, bool)() for flag in flags)


def _load(model: EmbeddingModel, device: str) -> Any:
    """The model on its device; InputError where it cannot be loaded, ConfigError where it is no transformer."""
    from sentence_transformers import SentenceTransformer

    try:
        with quiet_libraries():
            loaded = SentenceTransformer(
                str(model.folder),
                device=device,
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            )
    except Exception as error:  # whatever damaged files make the libraries raise
        raise InputError(f"the embedding model cannot be loaded: {error}", where=str(model.folder)) from error
    if not hasattr(loaded[0], "auto_model") or not getattr(loaded.tokenizer, "is_fast", False):
        raise ConfigError(
            "an embedding model must be a transformer with a fast tokenizer",
            where=model.name,
            hint="such as sentence-transformers/all-MiniLM-L6-v2",
        )
    loaded.eval()
    loaded.requires_grad_(requires_grad=False)
    return loaded


def _prompt(model: Any, names: Sequence[str]) -> str:
    """What the model wants before a text of that kind; most want nothing."""
    return next((str(model.prompts[name]) for name in names if model.prompts.get(name)), "")
