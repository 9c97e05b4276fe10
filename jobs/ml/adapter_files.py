"""The files of an adapter: what must be in its folder, what tells one from another, its model card.

A folder holds `adapter_model.safetensors` and `adapter_config.json`, as PEFT reads them, and
`refrain.json`, which says of which base model, tokenizer and template it is. Pickles are never loaded.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import orjson

from jobs.contracts.errors import ConfigError, InputError, MissingInputError, OutputError
from jobs.contracts.records import Json
from jobs.files import atomic_output, output_error, read_json, write_json
from jobs.mail.template import TEMPLATE_DIGEST
from jobs.ml.base_model import Base
from jobs.ml.model_files import require_whole

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
ORIGIN = "refrain.json"
CARD = "README.md"

_ORIGIN_FIELDS = ("base", "revision", "base_digest", "tokenizer_digest", "template_digest")
_PICKLED = (".bin", ".pt", ".pth", ".pkl")
_PICKLES = tuple(f"*{suffix}" for suffix in _PICKLED)
_KEPT = ("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "fan_in_fan_out")
"""What we set of PEFT's settings; the others say by their absence that they are at rest."""
_AT_REST = {
    *("peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode", "peft_version"),
    *("auto_mapping", "init_lora_weights", "bias", "megatron_core", "qalora_group_size"),
}
"""Settings that change nothing of what a saved adapter does; bias is checked by itself."""


def write_settings(folder: Path, settings: Json, base: Base) -> None:
    """Write `adapter_config.json` and `refrain.json`: the same bytes on any machine, whichever PEFT it has."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "revision": base.revision,
        "inference_mode": True,
        "bias": "none",
        **{name: settings[name] for name in _KEPT},
        "target_modules": sorted(settings["target_modules"]),
    }
    write_json(folder / CONFIG, dict(sorted(config.items())))
    origin = (base.name, base.revision, base.digest, base.tokenizer_digest, TEMPLATE_DIGEST)
    write_json(folder / ORIGIN, dict(zip(_ORIGIN_FIELDS, origin, strict=True)))


def read_origin(folder: Path) -> Json:
    """What `refrain.json` says an adapter is of; MissingInputError, InputError."""
    require_files(folder)
    origin = read_json(folder / ORIGIN)
    if not isinstance(origin, dict) or not origin.keys() >= set(_ORIGIN_FIELDS):
        raise InputError("it does not say what the adapter is of", where=str(folder / ORIGIN))
    return origin


def require_files(folder: Path) -> None:
    """MissingInputError where a file of an adapter is missing; InputError where its weights are pickled or damaged."""
    if not folder.is_dir():
        raise MissingInputError("no such folder", where=str(folder), hint="name an adapter's folder")
    require_weights(folder / WEIGHTS)
    for name in (CONFIG, ORIGIN):
        if not (folder / name).is_file():
            raise MissingInputError(f"not an adapter of ours: there is no {name}", where=str(folder))


def require_weights(path: Path) -> None:
    """MissingInputError where a file of weights is missing; InputError where it is pickled or damaged.

    Pickles that stand where it is missing are told of.
    """
    beside = [] if path.is_file() else [one for kind in _PICKLES for one in path.parent.glob(kind)]
    if path.suffix in _PICKLED or beside:
        raise InputError(
            "its weights are pickled, and pickles are never loaded: they can run any code",
            where=str(beside[0] if beside else path),
            hint="save it again where it is safe, with save_pretrained(…)",
        )
    if not path.is_file():
        raise MissingInputError(f"no adapter: there is no {path.name}", where=str(path.parent))
    require_whole(path, "copy or save it once more; where `refrain train` wrote it, run that with --again")


def require_adapter(folder: Path, base: Base) -> Json:
    """PEFT's settings of an adapter of this base model.

    See `require_files`; ConfigError for one of another base model, tokenizer or template, InputError
    for one that is more, or less, than plain LoRA.
    """
    origin = read_origin(folder)
    for key, own, what, differ in (
        ("base_digest", base.digest, "base model", "the weights or config.json differ"),
        ("tokenizer_digest", base.tokenizer_digest, "tokenizer", "tokenizer.json differs"),
        ("template_digest", TEMPLATE_DIGEST, "template", "this version has another"),
    ):
        if origin[key] != own:
            raise ConfigError(
                f"the adapter is of another {what}: digest {origin[key]}, not {own}; {differ}",
                where=str(folder.absolute()),
                hint=f"it was trained on {_whole_name(origin['base'])}; here is {_whole_name(base.name)}",
            )
    return read_settings(folder)


def _whole_name(base: str) -> str:
    """A base model's name, a folder's from the root: two of one name may lie in two places."""
    return str(Path(base).absolute()) if Path(base).is_dir() else base


def read_settings(folder: Path) -> Json:
    """PEFT's settings of an adapter; InputError for one that is more, or less, than plain LoRA."""
    path = folder / CONFIG
    settings = read_json(path)
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        raise InputError("not a LoRA adapter's settings", where=str(path))
    at_work = {name for name, value in settings.items() if value and name not in _AT_REST.union(_KEPT)}
    if settings.get("bias", "none") != "none":
        at_work.add("bias")
    if at_work:
        raise InputError(f"not plain LoRA: it has {', '.join(sorted(at_work))}", where=str(path))
    rank, alpha, modules = settings.get("r"), settings.get("lora_alpha"), settings.get("target_modules")
    if type(rank) is not int or rank < 1 or not isinstance(alpha, int | float) or not isinstance(modules, list):
        raise InputError("it lacks r, lora_alpha or target_modules", where=str(path))
    return {"lora_dropout": 0.0, "use_rslora": False, "fan_in_fan_out": False} | settings


def scale_of(settings: Json) -> float:
    """What an adapter's product of matrices is multiplied by."""
    rank: int = settings["r"]
    return float(settings["lora_alpha"]) / (rank**0.5 if settings["use_rslora"] else rank)


def adapter_digest(folder: Path) -> str:
    """SHA-256 over an adapter's tensors, and what of its settings changes what it does; 64 hex digits.

    The same for the same adapter on any base model's name, in any layout of its files.
    """
    from safetensors import deserialize

    require_files(folder)
    settings = read_settings(folder)
    said = [float(settings["lora_alpha"]), settings["r"], settings["use_rslora"]]
    digest = hashlib.sha256(orjson.dumps(said))
    for name, tensor in sorted(deserialize((folder / WEIGHTS).read_bytes())):  # type: ignore[no-untyped-call]
        digest.update(f"{name} {tensor['dtype']} {tensor['shape']}\n".encode())
        digest.update(tensor["data"])
    return digest.hexdigest()


def export_adapter(folder: Path, out: Path, card: str) -> None:
    """Write an adapter with its model card into a new folder: what `PeftModel.from_pretrained` loads.

    OutputError where the folder is not empty.
    """
    require_files(folder)

    def fill(target: Path) -> None:
        for name in (WEIGHTS, CONFIG, ORIGIN):
            shutil.copyfile(folder / name, target / name)
        with atomic_output(target / CARD) as stream:
            stream.write(card.encode())

    new_folder(out, fill)


def new_folder(out: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder that is there with all its files, or not at all; OutputError where there is one with files."""
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError("there is something already", where=str(out), hint="name a new folder")
    unfinished = out.with_name(f".{out.name}.unfinished")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        fill(unfinished)
        unfinished.rename(out)
    except OSError as error:
        raise output_error(out, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
