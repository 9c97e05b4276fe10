"""The base model: found by a hub name, a folder or a store's URL; safetensors alone, no code of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from jobs.contracts.errors import ConfigError, InputError, MissingInputError, RefrainError, TransientError
from jobs.contracts.records import short_digest
from jobs.contracts.store import StoreOptions, open_store
from jobs.files import read_json
from jobs.items import file_digest
from jobs.ml.encoding import Encoder
from jobs.ml.tokens import tokenizer_digest

_WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl")


@dataclass(frozen=True, slots=True)
class Base:
    """A base model on this machine, and what tells it from others."""

    name: str
    """As the user called it."""
    revision: str | None
    """Commit on the hub; None elsewhere."""
    folder: Path
    digest: str
    """Short digest of its configuration and weights."""
    tokenizer_digest: str
    """As of `jobs.ml.tokens`: what split fixed for the archive."""


def find_base(name: str, revision: str | None = None, *, options: StoreOptions | None = None) -> Base:
    """The base model of that name: a folder, `s3://…` or `file://…`, or a name on the hub at a revision.

    Nothing is loaded but small files. Raises MissingInputError where there is none, ConfigError for one
    with pickled weights alone, InputError for files that are not what they should be.
    """
    if "://" in name:
        folder = _from_store(name, options)
    elif Path(name).is_dir():
        folder = Path(name)
    else:
        folder, revision = _from_hub(name, revision)
    _require_safetensors(folder, name)
    return Base(name, revision, folder, _digest(folder), _tokenizer_digest(folder, name))


def load_encoder(base: Base) -> Encoder:
    """The base model's tokenizer."""
    from transformers import AutoTokenizer

    with _loading(base):
        return Encoder(AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False), base.name)


def load_model(base: Base, *, device: Any, precision: str = "fp32", quantization: str | None = None) -> Any:
    """The causal language model, frozen, in evaluation mode, on a device. See `find_base` for errors."""
    import torch
    from transformers import AutoModelForCausalLM

    from jobs.ml.devices import dtype_for

    options: dict[str, Any] = {"dtype": dtype_for(precision, device)}
    if quantization is not None:
        if device.type != "cuda":
            raise ConfigError("4-bit base models need an NVIDIA GPU", where="quantization", hint="leave it out")
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
        options["device_map"] = {"": device}
    with _loading(base):
        model = AutoModelForCausalLM.from_pretrained(
            base.folder, use_safetensors=True, trust_remote_code=False, attn_implementation="sdpa", **options
        )
    model.requires_grad_(requires_grad=False)
    model.eval()
    return model if quantization else model.to(device)


class _loading:  # noqa: N801 - used like a function
    """Turns what transformers raises for a model that cannot be read into one of our errors."""

    def __init__(self, base: Base) -> None:
        self._base = base

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, RefrainError | MemoryError):
            return
        raise InputError(f"the model cannot be loaded: {error}", where=str(self._base.folder)) from error


def _from_hub(name: str, revision: str | None) -> tuple[Path, str | None]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(_WANTED)))
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise MissingInputError(
            "no such model, neither a folder nor on the hub", where=name, hint="a private one needs HF_TOKEN"
        ) from error
    except LocalEntryNotFoundError as error:
        raise TransientError(
            "no such folder, and the model hub cannot be reached", where=name, hint="name a folder, or try again"
        ) from error
    except OSError as error:
        raise TransientError(f"the model hub does not answer: {error}", where=name) from error
    return folder, folder.name


def _from_store(url: str, options: StoreOptions | None) -> Path:
    from huggingface_hub.constants import HF_HOME

    store = open_store(url, options, read_only=True)
    folder = Path(HF_HOME) / "refrain" / short_digest(url)
    for key in store.list():
        target = folder / key
        target.parent.mkdir(parents=True, exist_ok=True)
        with store.open(key) as source, target.open("wb") as stream:
            while block := source.read(1 << 20):
                stream.write(block)
    if not folder.is_dir():
        raise MissingInputError("there is no model", where=url)
    return folder


def _require_safetensors(folder: Path, name: str) -> None:
    if not (folder / "config.json").is_file():
        raise MissingInputError("no config.json: not a model of Hugging Face's layout", where=str(folder))
    if any(folder.glob("*.safetensors")):
        return
    if any(path for pattern in _PICKLES for path in folder.glob(pattern)):
        raise ConfigError(
            "its weights are pickled, and pickles are never loaded", where=name, hint="convert them to safetensors"
        )
    raise MissingInputError("no *.safetensors: the model has no weights", where=str(folder))


def _digest(folder: Path) -> str:
    digests = {path.name: file_digest(path) for path in sorted(folder.glob("*.safetensors"))}
    config = read_json(folder / "config.json")
    for noise in ("_name_or_path", "transformers_version"):
        config.pop(noise, None)
    return short_digest(orjson.dumps([config, list(digests.values())], option=orjson.OPT_SORT_KEYS))


def _tokenizer_digest(folder: Path, name: str) -> str:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise MissingInputError("no tokenizer.json", where=name, hint="save the model with a fast tokenizer")
    try:
        return tokenizer_digest(path.read_text(encoding="utf-8"))
    except (ValueError, AttributeError) as error:
        raise InputError(f"not a tokenizer: {error}", where=str(path)) from error


