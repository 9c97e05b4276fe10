"""LoRA adapters: made, saved, loaded, told apart, put into a base model and taken out again.

A folder holds `adapter_model.safetensors` and `adapter_config.json`, as PEFT reads them, and
`refrain.json`, which says of which base model, tokenizer and template it is. Pickles are never loaded.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from jobs.contracts.errors import ConfigError, InputError, MissingInputError
from jobs.contracts.records import Json
from jobs.files import read_json, write_json
from jobs.mail.template import TEMPLATE_DIGEST
from jobs.ml.base_model import Base

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
ORIGIN = "refrain.json"

_SETTINGS = ("r", "lora_alpha", "target_modules", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "bias")
"""What of PEFT's configuration changes what an adapter does."""


def add_adapter(
    model: Any, *, rank: int, alpha: float, dropout: float, target_modules: str = "all-linear", seed: int
) -> Any:
    """A fresh adapter on a base model, trainable in fp32: a PeftModel. It changes nothing before it is trained.

    `target_modules` is `all-linear` (all but the output head) or names with commas between them; ConfigError
    where the model has none of that name. The start depends on the seed alone.
    """
    from peft import LoraConfig, get_peft_model

    modules: str | list[str] = target_modules
    if target_modules != "all-linear":
        modules = [name.strip() for name in target_modules.split(",")]
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=modules, bias="none", task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise ConfigError(f"no adapter fits the model: {error}", where="target_modules") from error


def load_adapter(model: Any, folder: Path, *, base: Base, trainable: bool = False) -> Any:
    """A saved adapter on its base model: a PeftModel.

    Raises MissingInputError, InputError for what is no adapter, ConfigError for one of another base model.
    """
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    settings = require_adapter(folder, base)
    weights = _read_weights(folder / WEIGHTS)
    config = LoraConfig(**{key: value for key, value in settings.items() if key in LoraConfig.__dataclass_fields__})
    config.inference_mode = not trainable
    try:
        peft_model = get_peft_model(model, config)
        loaded = set_peft_model_state_dict(peft_model, weights)
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"the adapter does not fit the model: {error}", where=str(folder)) from error
    own = {name for name, _ in peft_model.named_parameters() if "lora_" in name}
    missing = sorted(own & set(loaded.missing_keys))
    if missing or loaded.unexpected_keys:
        odd = (missing or sorted(loaded.unexpected_keys))[0]
        raise InputError(f"the adapter does not fit the model: {odd}", where=str(folder))
    return peft_model


def save_adapter(model: Any, folder: Path, *, base: Base) -> str:
    """Write the adapter of a PeftModel; its digest. Equal weights give equal files on any machine."""
    from peft import get_peft_model_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.detach().to("cpu").contiguous() for name, tensor in get_peft_model_state_dict(model).items()
    }
    save_file(dict(sorted(weights.items())), folder / WEIGHTS, metadata={"format": "pt"})
    settings = model.peft_config["default"].to_dict()
    settings["target_modules"] = sorted(settings["target_modules"])
    settings |= {"base_model_name_or_path": base.name, "revision": base.revision, "inference_mode": True}
    settings.pop("peft_version", None)
    write_json(folder / CONFIG, {key: _plain(settings[key]) for key in sorted(settings)})
    origin = {
        "base": base.name,
        "revision": base.revision,
        "base_digest": base.digest,
        "tokenizer_digest": base.tokenizer_digest,
        "template_digest": TEMPLATE_DIGEST,
    }
    write_json(folder / ORIGIN, origin)
    return adapter_digest(folder)


def adapter_digest(folder: Path) -> str:
    """SHA-256 over an adapter's tensors and what of its settings changes what it does; 64 hex digits."""
    settings = read_json(folder / CONFIG)
    digest = hashlib.sha256()
    digest.update(orjson.dumps({key: settings.get(key) for key in _SETTINGS}, option=orjson.OPT_SORT_KEYS))
    weights = _read_weights(folder / WEIGHTS)
    for name in sorted(weights):
        tensor = weights[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def require_adapter(folder: Path, base: Base) -> Json:
    """PEFT's settings of an adapter of this base model; see `load_adapter` for what it raises."""
    if not (folder / WEIGHTS).is_file():
        if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
            raise InputError(
                "its weights are pickled, and pickles are never loaded",
                where=str(folder),
                hint="save it again with safe_serialization=True",
            )
        raise MissingInputError(f"no {WEIGHTS}: not an adapter", where=str(folder))
    settings: Json = read_json(folder / CONFIG)
    if settings.get("peft_type") != "LORA":
        raise InputError(f"not a LoRA adapter: {settings.get('peft_type')!r}", where=str(folder / CONFIG))
    origin = read_json(folder / ORIGIN) if (folder / ORIGIN).is_file() else {}
    for key, own, what in (
        ("base_digest", base.digest, "base model"),
        ("tokenizer_digest", base.tokenizer_digest, "tokenizer"),
        ("template_digest", TEMPLATE_DIGEST, "template"),
    ):
        if origin.get(key, own) != own:
            raise ConfigError(
                f"the adapter is of another {what}: {origin[key]}, not {own}",
                where=str(folder),
                hint=f"it was trained on {origin.get('base')!r}; here is {base.name!r}",
            )
    return settings


@dataclass(slots=True)
class _Layer:
    """A weight that adapters change, and how it was in the base model."""

    weight: torch.Tensor
    original: torch.Tensor


class AdapterSwitch:
    """One loaded base model, and adapters merged into it in turn, one at a time.

    Merged, an adapter costs nothing in the forward pass. The touched weights are kept as they were and
    copied back, so that the base is bit-equal whenever no adapter is in use.
    """

    def __init__(self, model: Any, base: Base) -> None:
        self._model = model
        self._base = base
        self._layers: dict[str, _Layer] = {}

    @torch.no_grad()
    def use(self, folder: Path | None) -> Any:
        """The model with the adapter merged into it, or as the base is for None. See `load_adapter` for errors."""
        updates = {} if folder is None else self._updates(folder)
        for layer in self._layers.values():
            layer.weight.copy_(layer.original)
        for name, update in updates.items():
            layer = self._layer(name)
            layer.weight.copy_((layer.original.float() + update.to(layer.weight.device)).to(layer.weight.dtype))
        return self._model

    def _layer(self, name: str) -> _Layer:
        if name not in self._layers:
            weight = self._model.get_submodule(name).weight.data
            self._layers[name] = _Layer(weight, weight.clone())
        return self._layers[name]

    def _updates(self, folder: Path) -> dict[str, torch.Tensor]:
        settings = require_adapter(folder, self._base)
        weights = _read_weights(folder / WEIGHTS)
        scale = settings["lora_alpha"] / (settings["r"] ** 0.5 if settings.get("use_rslora") else settings["r"])
        updates = {}
        for key in weights:
            module, separator, _ = key.partition(".lora_A.weight")
            if not separator:
                continue
            name = module.removeprefix("base_model.model.")
            update = scale * (weights[f"{module}.lora_B.weight"].float() @ weights[key].float())
            self._require_shape(name, update, folder)
            updates[name] = update
        return updates

    def _require_shape(self, name: str, update: torch.Tensor, folder: Path) -> None:
        try:
            shape = self._model.get_submodule(name).weight.shape
        except AttributeError as error:
            raise InputError(f"the adapter does not fit the model: no {name}", where=str(folder)) from error
        if shape != update.shape:
            raise InputError(
                f"the adapter does not fit the model: {name} is {tuple(shape)}, not {tuple(update.shape)}",
                where=str(folder),
            )


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt"):  # the header alone: a cut file is told before it is read
            pass
        weights: dict[str, torch.Tensor] = load_file(path)
    except FileNotFoundError as error:
        raise MissingInputError("no such file", where=str(path)) from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"the file is damaged: {error}", where=str(path), hint="fetch it again") from error
    return weights


def _plain(value: Any) -> Any:
    """A setting as JSON has it."""
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    return value if isinstance(value, str | int | float | bool | list | None) else str(value)
