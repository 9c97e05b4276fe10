"""LoRA adapters: made, saved and loaded by PEFT. See `jobs.ml.adapter_files` for what a folder holds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from jobs.contracts.errors import ConfigError, InputError, OutputError
from jobs.files import output_error
from jobs.ml.adapter_files import (
    CONFIG,
    ORIGIN,
    WEIGHTS,
    adapter_digest,
    export_adapter,
    require_adapter,
    write_settings,
)
from jobs.ml.adapter_switch import AdapterSwitch, merge_adapter
from jobs.ml.adapter_weights import read_weights
from jobs.ml.base_model import Base
from jobs.ml.quiet import quiet_libraries

__all__ = [
    "CONFIG",
    "ORIGIN",
    "WEIGHTS",
    "AdapterSwitch",
    "adapter_digest",
    "adapter_weights",
    "add_adapter",
    "export_adapter",
    "load_adapter",
    "merge_adapter",
    "num_trainable",
    "require_adapter",
    "save_adapter",
    "write_adapter",
]

ALL_LINEAR = "all-linear"
_NAME = "default"


def add_adapter(
    model: Any, *, rank: int, alpha: float, dropout: float, target_modules: str = ALL_LINEAR, seed: int
) -> Any:
    """A fresh adapter on a base model, trainable in fp32: a PeftModel. It changes nothing before it is trained.

    `target_modules` is `all-linear` (all but the output head) or names with commas between them. A layer's start
    depends on the seed, its name and its shape alone, whatever ran before and wherever. ConfigError for
    settings that fit no adapter, or not this model; the model must have no adapter yet.
    """
    from peft import LoraConfig, get_peft_model

    _require_bare(model)
    with quiet_libraries(), _kept_random():
        try:
            config = LoraConfig(
                r=rank,
                lora_alpha=alpha,
                lora_dropout=dropout,
                target_modules=_modules(model, target_modules),
                bias="none",
                task_type="CAUSAL_LM",
            )
            peft_model = get_peft_model(model, config)
        except ValueError as error:
            raise ConfigError(f"no such adapter: {error}", where="lora") from error
    _require_untied(peft_model)
    _begin(peft_model, seed)
    return peft_model


def _kept_random() -> AbstractContextManager[None]:
    """What is drawn within leaves the generators as they were; CUDA is not started for it."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    kept: AbstractContextManager[None] = torch.random.fork_rng(devices)
    return kept


def _require_bare(model: Any) -> None:
    if any(".lora_A." in name for name, _ in model.named_parameters()):
        raise ValueError("the model has an adapter already: load the base anew, or unload() it")  # a defect of ours


def _modules(model: Any, asked: str) -> str | list[str]:
    """As PEFT wants them; ConfigError for a name that the model does not have: PEFT would pass over it."""
    if asked == ALL_LINEAR:
        return asked
    names = [name.strip() for name in asked.split(",")]
    layers = [name for name, module in model.named_modules() if _is_matrix(module)]
    for name in names:
        if not any(f".{layer}".endswith(f".{name}") for layer in layers):
            known = sorted({layer.rpartition(".")[2] for layer in layers})
            hint = f"it has {', '.join(known)}; or say {ALL_LINEAR}"
            raise ConfigError(f"the base model has no layer {name!r}", where="target_modules", hint=hint)
    return names


def _is_matrix(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    return weight is not None and weight.dim() > 1


def _require_untied(peft_model: Any) -> None:
    embeddings = peft_model.get_input_embeddings().weight
    for name, module in peft_model.named_modules():
        if hasattr(module, "lora_A") and module.get_base_layer().weight is embeddings:
            raise ConfigError(
                f"{name.rpartition('.')[2]} shares its weights with the embeddings: an adapter on it cannot be merged",
                where="target_modules",
                hint="leave it out",
            )


def _begin(peft_model: Any, seed: int) -> None:
    """LoRA's usual start (A uniform within 1/√width, B zero), drawn on the CPU for each layer by itself."""
    for name, parameter in peft_model.named_parameters():
        if ".lora_B." in name:
            parameter.data.zero_()
        elif ".lora_A." in name:
            digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
            bound = parameter.shape[1] ** -0.5
            drawn = torch.rand(parameter.shape, generator=generator) * (2 * bound) - bound
            parameter.data.copy_(drawn)


def num_trainable(model: Any) -> int:
    """How many weights are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def load_adapter(model: Any, folder: Path, *, base: Base, trainable: bool = False, dropout: float | None = None) -> Any:
    """A saved adapter on its base model: a PeftModel, in evaluation mode unless it is to be trained.

    `dropout` is that of further training; None: the adapter's own. Raises MissingInputError, InputError for
    what is no adapter, or not finite; ConfigError for one of another base model, tokenizer or template.
    """
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    _require_bare(model)
    settings = require_adapter(folder, base)
    weights = read_weights(folder, settings)
    with quiet_libraries(), _kept_random():
        try:
            config = LoraConfig(
                r=settings["r"],
                lora_alpha=settings["lora_alpha"],
                lora_dropout=settings["lora_dropout"] if dropout is None else dropout,
                target_modules=settings["target_modules"],
                use_rslora=settings["use_rslora"],
                fan_in_fan_out=settings["fan_in_fan_out"],
                task_type="CAUSAL_LM",
                inference_mode=not trainable,
            )
            peft_model = get_peft_model(model, config)
            _require_fit(peft_model, weights, folder)
            set_peft_model_state_dict(peft_model, weights)
        except (RuntimeError, ValueError, KeyError) as error:
            raise InputError(f"the adapter does not fit its base model: {error}", where=str(folder)) from error
    return peft_model.train(trainable)


def _require_fit(peft_model: Any, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    """InputError unless these are just the model's LoRA weights, in name and shape."""
    own = {name: tuple(tensor.shape) for name, tensor in _lora_parameters(peft_model).items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(own.keys() | found.keys()):
        if own.get(name) != found.get(name):
            what = f"{name} is {found.get(name) or 'missing'}, and should be {own.get(name) or 'absent'}"
            raise InputError(f"the adapter is not what its {CONFIG} says: {what}", where=str(folder))


def _lora_parameters(peft_model: Any) -> dict[str, torch.Tensor]:
    """The adapter's weights by the names that PEFT gives them in files."""
    return {
        name.replace(f".{_NAME}.", "."): parameter
        for name, parameter in peft_model.named_parameters()
        if ".lora_A." in name or ".lora_B." in name
    }


def adapter_weights(model: Any) -> dict[str, torch.Tensor]:
    """A PeftModel's adapter by PEFT's names, on the CPU, sorted. Where it is sharded, all processes must call this."""
    weights = {}
    for name, parameter in sorted(_lora_parameters(model).items()):
        tensor = parameter.detach()
        whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        weights[name] = whole.to("cpu", copy=True).contiguous()
    return weights


def save_adapter(model: Any, folder: Path, *, base: Base) -> str:
    """Write the adapter of a PeftModel; its digest. Equal weights give equal files on any machine. OutputError."""
    return write_adapter(adapter_weights(model), model.peft_config[_NAME].to_dict(), folder, base=base)


def write_adapter(weights: Mapping[str, torch.Tensor], settings: Mapping[str, Any], folder: Path, *, base: Base) -> str:
    """Write an adapter's weights (`adapter_weights`) with PEFT's settings of it; its digest. OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(sorted(weights.items())), folder / WEIGHTS, metadata={"format": "pt"})
    except OSError as error:
        raise output_error(folder, error) from error
    except SafetensorError as error:
        raise OutputError(f"cannot be written: {error}", where=str(folder / WEIGHTS)) from error
    write_settings(folder, dict(settings), base)
    return adapter_digest(folder)
