"""`refrain train`: a LoRA adapter."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from jobs.cli import options
from jobs.cli.replay_options import named, tell
from jobs.contracts.errors import UsageError
from jobs.contracts.words import counted

_FILES = (
    *("assignments", "chunks", "length_metadata", "schedule", "window_idx", "train", "val", "old_train"),
    *("rehearsal_manifest", "incumbent", "output_dir", "epochs", "replay_ratio", "batch_size", "batch_tokens"),
    *("save_train_shard", "shard_date", "update_old_train", "keep_shards"),
)
"""Flags that are for plain files: in a store the stages before have said all that."""

_SAMPLING = ("epochs", "replay_ratio", "batch_size", "batch_tokens")


@click.command(name="train")
@click.option("--base", help="The base model: a name on the hub, a folder, or s3://.  [default: the archive's]")
@click.option("--revision", help="Its commit on the hub.")
@click.option(
    "--start-from",
    type=click.Choice(["Incumbent", "Base"], case_sensitive=False),
    default="Incumbent",
    show_default=True,
    help="Train the adapter in service further, where there is one; or a fresh one.",
)
@click.option("--incumbent", type=options.Place(path_type=Path), help="Folder of the adapter to start from.")
@click.option("--assignments", type=options.PATH, help="The assignments.  [default: assignments.json]")
@click.option("--schedule", type=options.PATH, help="The batches, as `refrain sample` wrote them.")
@click.option("--chunks", type=options.PATH, help="Texts of the chunks.  [default: chunks.json beside the assignments]")
@click.option(
    "--length-metadata", type=options.PATH, help="Tokens and length bucket.  [default: length_metadata.json beside it]"
)
@click.option("--window-idx", type=click.IntRange(0), help="Without --train: the window, W.  [default: the newest]")
@click.option("--train", type=options.PATH, help="Without --schedule: the new chunks.  [default: those of the window]")
@click.option("--val", type=options.PATH, help="The val set.  [default: all val chunks up to the window]")
@click.option("--rehearsal-manifest", type=options.PATH, help="Without --schedule: the old chunks to draw from.")
@click.option("--old-train", type=options.PATH, help="Likewise, with their texts: the active train shards' records.")
@click.option("--epochs", type=click.IntRange(1), default=3, show_default=True, help="Without --schedule.")
@click.option("--replay-ratio", default="1:4", show_default=True, help="Without --schedule: old to new, in chunks.")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Without --schedule: chunks.")
@click.option("--batch-tokens", type=click.IntRange(1), help="Without --schedule: tokens in a batch instead.")
@click.option(
    "--lr",
    "--learning-rate",
    "learning_rate",
    type=options.Number(0, min_open=True),
    default=2e-4,
    show_default=True,
    help="Peak of the learning rate.",
)
@click.option(
    "--lr-schedule",
    "learning_rate_schedule",
    type=click.Choice(["cosine", "linear", "constant"]),
    default="cosine",
    show_default=True,
    help="How the learning rate falls behind the warm-up.",
)
@click.option("--warmup-ratio", type=options.Number(0, 1), default=0.03, show_default=True, help="Share of the steps.")
@click.option("--weight-decay", type=options.Number(0), default=0.0, show_default=True, help="AdamW's.")
@click.option("--max-grad-norm", type=options.Number(0, min_open=True), default=1.0, show_default=True, help="Clip.")
@click.option("--rank", type=click.IntRange(1), default=16, show_default=True, help="Rank of the adapter, up to 128.")
@click.option(
    "--alpha",
    type=options.Number(0, min_open=True),
    help="The adapter's scale is alpha / rank.  [default: twice the rank]",
)
@click.option(
    "--dropout",
    type=options.Number(0, 1, max_open=True),
    default=0.05,
    show_default=True,
    help="Share of the adapter's input that is dropped.",
)
@click.option("--target-modules", default="all-linear", show_default=True, help="Or names, with commas between them.")
@click.option(
    "--gradient-accumulation", type=click.IntRange(1), default=1, show_default=True, help="Batches in one step."
)
@click.option("--micro-batch-tokens", type=click.IntRange(1), help="Tokens, padding counted, at once.  [default: all]")
@click.option("--gradient-checkpointing", is_flag=True, help="Compute activations twice, to save memory.")
@click.option(
    "--precision",
    type=click.Choice(["bf16", "fp16", "fp32"]),
    default="bf16",
    show_default=True,
    help="Of frozen weights and activations; fp32 on a CPU.",
)
@click.option("--quantization", type=click.Choice(["4bit"]), help="Of the base model; NVIDIA GPUs alone.")
@click.option("--save-steps", type=click.IntRange(1), default=500, show_default=True, help="Steps between checkpoints.")
@click.option("--early-stop", is_flag=True, help="End where the val loss does not fall any more.")
@click.option("--patience", type=click.IntRange(1), default=3, show_default=True, help="Evaluations without a fall.")
@click.option("--min-delta", type=options.Number(0), default=0.001, show_default=True, help="What is a fall, nats.")
@click.option(
    "--report-to", type=click.Choice(["tensorboard", "mlflow", "wandb"]), multiple=True, help="May be repeated."
)
@click.option(
    "--progress-port",
    type=click.IntRange(0, 65535),
    envvar="REFRAIN_PROGRESS_PORT",
    show_envvar=True,
    help="Serve /progress, /metrics and /healthz there; 0 takes a free one.",
)
@click.option(
    "--device",
    type=click.Choice(["cuda", "mps", "cpu"]),
    help="Where to train; of several GPUs CUDA_VISIBLE_DEVICES says which.  [default: the best there is]",
)
@click.option(
    "--processes",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes on this machine, one for each GPU; under torchrun leave it out.",
)
@click.option("--shard-model", is_flag=True, help="Cut the model over all processes (FSDP2) instead of copying it.")
@click.option(
    "--save-train-shard",
    type=options.Place(path_type=Path),
    metavar="DIR",
    help="Archive the very chunks that were trained on as train_<date>.jsonl.",
)
@click.option("--shard-date", metavar="YYYY-MM-DD", help="The date in its name.  [default: of its newest mail]")
@click.option("--update-old-train", is_flag=True, help="Then write old_train.json from the newest shards.")
@click.option("--keep-shards", type=click.IntRange(1), default=5, show_default=True, help="How many are active.")
@click.option(
    "--output-dir",
    type=options.Place(path_type=Path),
    default=Path("checkpoints"),
    show_default=True,
    help="step_<n>/ for each checkpoint, trainer_state.json, exposures.json.",
)
@options.seed
@options.store
@options.cycle
@options.attempt
@options.again
def command(
    *,
    store: str | None,
    cycle: str,
    attempt: int,
    again: bool,
    base: str | None,
    early_stop: bool,
    **flags: Any,
) -> None:
    """Train a LoRA adapter by the schedule; or go on where the same command was stopped.

    Checkpoints are written as they come, every --save-steps and at each epoch's end. Killed at any
    point and run again, it ends with the very adapter that it would have ended with. The data sets'
    files are read and never written.

    \b
      refrain train --base model/ --schedule epoch_schedule.json --assignments assignments.json \\
          --val val.json --output-dir checkpoints/
      refrain train --store s3://bucket/archive --cycle 2019-w40
      torchrun --nproc-per-node 8 -m jobs.cli train --store s3://bucket/archive
    """
    if is_follower():
        take_part(flags["device"])
        return
    files = {name: flags.pop(name) for name in _FILES}
    if not early_stop:
        if option := _first_said(("patience", "min_delta"), flags):
            raise UsageError(f"{option} needs --early-stop", hint="leave it out, or say both")
        flags["patience"] = None
    in_store = options.is_store_alone(store, *_FILES)
    if base is None:
        base = _settled_base(store) if store and in_store else None
    if base is None:
        raise UsageError("needs a base model", hint="name one by --base")
    if in_store:
        config = _config(base, flags)
        tell("train", options.in_store("train", config, store or "", cycle, again=again, attempt=attempt))
        return
    if attempt or again:
        raise UsageError("--attempt and --again are for --store")
    _train_on_files(base, flags, files)


def is_follower() -> bool:
    """Whether a launcher (torchrun, or a pod of several) has made this process one that only takes part."""
    return os.environ.get("RANK", "0") not in ("", "0")


def take_part(device: str | None) -> None:
    """Train along with the first process; files and stores are that one's alone."""
    from jobs.ml.training import follower

    follower.take_part(device)


def _config(base: str, flags: Mapping[str, Any], **others: Any) -> Any:
    from jobs.stages.train import Config

    return Config(base=base, **flags, **others)


def _settled_base(url: str) -> str | None:
    """The base model that the archive's first cycle has settled."""
    import orjson

    from jobs.contracts.artifacts import BASE_KEY
    from jobs.contracts.store import StoreOptions, open_archive

    store = open_archive(url, StoreOptions.from_environment())
    return str(orjson.loads(store.get(BASE_KEY))["base"]) if store.exists(BASE_KEY) else None


def _train_on_files(base: str, flags: dict[str, Any], files: dict[str, Any]) -> None:
    from jobs.files import scratch_folder
    from jobs.ml.base_model import find_base
    from jobs.stages import Inputs, Outputs
    from jobs.stages.train import run

    if files["update_old_train"] and files["save_train_shard"] is None:
        raise UsageError("--update-old-train needs --save-train-shard", hint="name the folder of the shards")
    find_base(base, flags["revision"])  # told before a schedule is made for it
    folder: Path = files["output_dir"]
    paths = named(
        assignments=files["assignments"] or Path("assignments.json"),
        lengths=files["length_metadata"],
        schedule=files["schedule"],
        val_set=files["val"],
        incumbent=files["incumbent"],
    )
    # The schedule says these: whoever gives them beside it would wait for them in vain.
    if files["schedule"] is not None and (option := _first_said((*_SAMPLING, "rehearsal_manifest"), files)):
        raise UsageError(f"both --schedule and {option} are given", hint="leave one out")
    paths["chunks"] = list(_texts(files, paths["assignments"][0]))
    outputs = {
        "checkpoints": folder,
        "trainer_state": folder / "trainer_state.json",
        "exposures": folder / "exposures.json",
    }
    if files["save_train_shard"] is not None:
        outputs["train_shard"] = files["save_train_shard"]
    with scratch_folder("refrain-train-") as scratch:
        _complete(paths, files, flags["seed"], scratch)
        config = _config(base, flags, shard_date=files["shard_date"])
        tell("train", run(config, Inputs(paths), Outputs(outputs)))
    if files["update_old_train"]:
        _update_old_train(files["save_train_shard"], files["keep_shards"])


def _texts(files: Mapping[str, Any], assignments: Path) -> Iterator[Path]:
    """The files that hold texts of chunks: chunks.json, and records that bring theirs along."""
    beside = [assignments.with_name(f"chunks.json{suffix}") for suffix in ("", ".gz", ".zst")]
    yield from [files["chunks"]] if files["chunks"] else [path for path in beside if path.exists()][:1]
    for path in (files["old_train"], files["train"]):
        if path is not None and _has_texts(path):
            yield path


def _has_texts(path: Path) -> bool:
    from jobs.files import read_records

    first = next(iter(read_records(path)), None)
    return isinstance(first, dict) and "text" in first and "messages" in first


def _complete(paths: dict[str, list[Path]], files: Mapping[str, Any], seed: int, scratch: Path) -> None:
    """Make the lists and the schedule that were not named, by the stages that make them."""
    from jobs.files import write_json
    from jobs.stages import Inputs, Outputs, sample, window

    known = {kind: paths[kind] for kind in ("assignments", "chunks", "lengths") if paths.get(kind)}
    listed = {"new_train": scratch / "new_train.json", "val_set": scratch / "val.json"}
    missing = {kind: path for kind, path in listed.items() if kind not in paths}
    window.run(window.Config(window_idx=files["window_idx"]), Inputs(known), Outputs(missing))
    if "val_set" in missing:
        paths["val_set"] = [missing["val_set"]]
    if "schedule" in paths:
        return
    if (made := paths["assignments"][0].with_name("epoch_schedule.json")).is_file():
        click.echo(f"refrain: note: a schedule is made, and {made} is not used: --schedule names it", err=True)
    manifest = files["rehearsal_manifest"] or files["old_train"]
    if manifest is None:
        click.echo(
            "refrain: note: nothing is rehearsed: neither --rehearsal-manifest nor --old-train is given", err=True
        )
        manifest = scratch / "old_shards_train.json"
        write_json(manifest, [])
    lists = {"new_train": [files["train"] or listed["new_train"]], "manifest": [manifest]}
    config = sample.Config(**{name: files[name] for name in _SAMPLING}, window_idx=files["window_idx"], seed=seed)
    schedule = files["output_dir"] / "epoch_schedule.json"
    tell("sample", sample.run(config, Inputs(known | lists), Outputs({"schedule": schedule})))
    paths["schedule"] = [schedule]


def _first_said(names: Iterable[str], given: Mapping[str, Any]) -> str:
    """The first of these options that the command line has; empty where it has none."""
    from click.core import ParameterSource

    source = click.get_current_context().get_parameter_source
    said = (name for name in names if source(name) is ParameterSource.COMMANDLINE and given[name] is not None)
    return next((f"--{name.replace('_', '-')}" for name in said), "")


def _update_old_train(folder: Path, keep: int) -> None:
    from jobs.files import write_json, write_json_array
    from jobs.replay.shard_window import choose_active, find_shards, old_train

    active = choose_active(find_shards(folder), keep)
    num_records = write_json_array(folder / "old_train.json", old_train(active))
    write_json(folder / "shards.json", active.listing())
    told = f"{counted(num_records, 'chunk')} in {counted(len(active.active), 'active shard')}"
    click.echo(f"train: old_train.json holds {told}", err=True)
