"""The base model: what tells one from another, and how it is loaded.

Weights are read from safetensors alone, and no code that comes with a model is ever run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jobs.contracts.errors import ConfigError, InputError, MissingInputError, RefrainError
from jobs.contracts.records import Json
from jobs.contracts.store import StoreOptions, store_folder
from jobs.files import read_json
from jobs.ml.encoding import Encoder
from jobs.ml.model_files import model_digest, require_model
from jobs.ml.quiet import quiet_libraries
from jobs.ml.tokens import ModelCounter, WhitespaceCounter, load_token_counter, needs_own_code


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
    """The base model of that name: a folder, `file://…` or `s3://…`, or a name on the hub at a revision.

    A revision may follow a hub's name after an `@`; without one it is the newest, and the commit found is
    in the result. Downloads stay in the cache of Hugging Face (HF_HOME). The weights are read through,
    for their digest, but not loaded.

    Raises MissingInputError where there is no such model or a file of it is missing, ConfigError for one
    whose weights are pickled, InputError for files that are not what they should be, AccessError where
    the hub refuses, TransientError where it does not answer.
    """
    from jobs.ml.fetching import from_hub, from_store

    folder = (store_folder(name) if name.startswith("file://") else None) or Path(name)
    if name.startswith("s3://") or folder.is_dir():
        if revision is not None:
            raise ConfigError("only a model of the hub has a revision", where=name, hint="leave the revision out")
        folder = folder if folder.is_dir() else from_store(name, options)
    elif _looks_like_a_path(name):
        raise MissingInputError("no such folder", where=name, hint="name a base model's folder, or one on the hub")
    else:
        name, _, commit = name.partition("@")
        folder, revision = from_hub(name, commit or revision)
    require_model(folder, name)
    return Base(name, revision, folder, model_digest(folder), load_token_counter(str(folder)).digest)


def _looks_like_a_path(name: str) -> bool:
    return name.startswith(("/", ".", "~", "file://")) or name.count("/") > 1


def require_tokenizer(base: Base, digest: str, where: str = "") -> None:
    """ConfigError unless the base model's tokenizer is the one that an archive was split with (its digest)."""
    if digest == base.tokenizer_digest:
        return
    if digest == WhitespaceCounter.digest:
        what = "the archive was split by white space, without a model's tokenizer"
    else:
        what = f"the archive was split with a tokenizer of digest {digest}, not {base.tokenizer_digest} of {base.name}"
    raise ConfigError(what, where=where, hint=f"begin an archive with `refrain split --tokenizer {base.name}`")


def load_encoder(base: Base) -> Encoder:
    """The base model's tokenizer, as split counts by it; ConfigError for one without an end-of-text token."""
    from transformers import AutoTokenizer

    with _loading(base):
        special: Any = AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False)
        before = special("", add_special_tokens=True)["input_ids"][:1]
    if special.eos_token_id is None:
        hint = "set eos_token in its tokenizer_config.json"
        raise ConfigError("the tokenizer has no end-of-text token", where=base.name, hint=hint)
    start = before if before == [special.bos_token_id] else []
    tokenizer = load_token_counter(str(base.folder))
    assert isinstance(tokenizer, ModelCounter)
    return Encoder(tokenizer, end_id=special.eos_token_id, start=start, stop_ids=_stop_ids(base.folder))


def _stop_ids(folder: Path) -> list[int]:
    """What else ends a text, as chat models have it."""
    path = folder / "generation_config.json"
    settings: Json = read_json(path) if path.is_file() else {}
    said = settings.get("eos_token_id")
    return [one for one in (said if isinstance(said, list) else [said]) if isinstance(one, int)]


def load_model(
    base: Base,
    *,
    device: Any,
    precision: str = "fp32",
    quantization: str | None = None,
    at: Any = None,
    spread: Mapping[int, int] | None = None,
) -> Any:
    """The causal language model, frozen, in evaluation mode, on a device: a PreTrainedModel.

    `precision`: see `jobs.ml.devices.dtype_for`; `stored` keeps what the files have. `quantization`: `4bit`
    (NF4, NVIDIA GPUs alone). `at`: where it lies for now, in the precision of `device`; on a CPU, in the files'
    own precision, its weights are the files' pages, which the processes of a machine share. `spread`: GPUs that
    its layers are dealt among, and the bytes that each may take. ConfigError for a model that needs code of its
    own, or that does not fit; InputError for weights that are damaged or are not those of the configuration.
    """
    from transformers import AutoModelForCausalLM

    options = _dtype_options(device, precision) | _quantization_options(device, quantization)
    if spread:
        options |= {"device_map": "auto", "max_memory": dict(spread)}
    with _loading(base):
        model, report = AutoModelForCausalLM.from_pretrained(
            base.folder, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **options
        )
        if lost := sorted(report["missing_keys"]):
            # transformers would have gone on with random numbers in their place
            raise InputError(f"{len(lost)} weights are not in its files, such as {lost[0]}", where=str(base.folder))
        model.requires_grad_(requires_grad=False)
        model.eval()
        return model if quantization or spread else model.to(at or device)


def num_positions(model: Any) -> int | None:
    """How many tokens a model can read at once; None where it does not say."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else None


def require_length(model: Any, num_tokens: int) -> None:
    """ConfigError for a text that is longer than the model can read."""
    limit = num_positions(model)
    if limit is not None and num_tokens > limit:
        raise ConfigError(
            f"a text has {num_tokens} tokens, but the base model reads {limit} at most",
            hint="split with a smaller --max-tokens, or take another base model",
        )


def _dtype_options(device: Any, precision: str) -> dict[str, Any]:
    from jobs.ml.devices import dtype_for

    return {"dtype": "auto" if precision == "stored" else dtype_for(precision, device)}


def _quantization_options(device: Any, quantization: str | None) -> dict[str, Any]:
    if quantization is None:
        return {}
    if quantization != "4bit":
        raise ConfigError(f"no such quantization: {quantization!r}", where="quantization", hint="4bit, or none")
    if device.type != "cuda":
        raise ConfigError("4-bit base models need an NVIDIA GPU", where="quantization", hint="leave it out")
    import torch
    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            "bitsandbytes is not installed", where="quantization", hint="pip install 'refrain[quantized]'"
        )
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    return {"quantization_config": settings, "device_map": {"": device}}


@contextmanager
def _loading(base: Base) -> Iterator[None]:
    """Quietly; what transformers raises for a model that cannot be read becomes one of our errors."""
    where = str(base.folder)
    try:
        with quiet_libraries():
            yield
    except RefrainError:
        raise
    except (ImportError, ValueError, KeyError) as error:
        if "trust_remote_code" in str(error):
            raise needs_own_code(base.name) from error
        raise ConfigError(f"transformers cannot load it: {_first_line(error)}", where=where) from error
    except MemoryError as error:
        raise ConfigError("the model does not fit into memory", where=where) from error
    except Exception as error:  # libraries below raise kinds of their own for damaged files
        if type(error).__name__ == "OutOfMemoryError":
            hint = "take more or larger GPUs, or a smaller model; to train, quantization: 4bit or shardModel"
            raise ConfigError("the model does not fit into the GPU's memory", where=where, hint=hint) from error
        raise InputError(f"the model cannot be loaded: {_first_line(error)}", where=where) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
