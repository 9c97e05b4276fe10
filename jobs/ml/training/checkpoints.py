"""Checkpoints as items: the adapter, and beside it what training needs to go on exactly. No pickles.

step_<n>/adapter_model.safetensors, adapter_config.json, refrain.json    the adapter
step_<n>/training_state/optimizer.safetensors                           AdamW's moments, by parameter
step_<n>/training_state/state.json                                      the cursor, losses so far, patience

Random numbers, the learning rate and the position in the schedule are functions of the seed and the
number of steps alone (`jobs.ml.training.trainer`), so there is nothing of them to save.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from jobs.contracts.errors import ConfigError, IntegrityError, MissingInputError, OutputError
from jobs.contracts.records import Json
from jobs.files import output_error, read_json, write_json
from jobs.items import STATE, Items
from jobs.ml.adapters import write_adapter
from jobs.ml.base_model import Base

if TYPE_CHECKING:
    import torch

_OPTIMIZER = "optimizer.safetensors"
_STATE = "state.json"
_KIND = "step"
_NUM_STATES = 2
"""Of so many checkpoints, the newest, the training state is kept: one would do but for damage to it."""


def step_name(step: int) -> str:
    """Name of the checkpoint of a step."""
    return f"{_KIND}_{step}"


def _step_of(name: str) -> int:
    return int(name.removeprefix(f"{_KIND}_"))


@dataclass(slots=True)
class Seen:
    """What the processes of a run have put through the model, from the end of another such record on."""

    num_processes: int
    max_tokens: int | None
    upto_step: int = 0
    digests: list[str] = field(default_factory=list)
    """Of each process: its chained digest of the chunks of every step (`steps.seen_digest`)."""


@dataclass(slots=True)
class TrainingState:
    """What of a run is not in the adapter or the optimiser."""

    run_digest: str
    """Of all that the run depends on: a checkpoint of another run is never gone on from."""
    step: int = 0
    is_settled: bool = True
    """False for one that was saved because the process was told to stop, before what is due behind the step."""
    seen: list[Seen] = field(default_factory=list)
    """A record for each number of processes that took part."""
    bad_evaluations: int = 0
    """Evaluations in a row without improvement."""
    best_loss: float | None = None
    best_step: int | None = None
    log_history: list[Json] = field(default_factory=list)

    @classmethod
    def from_json(cls, value: Json) -> TrainingState:
        """What `asdict` made of one."""
        names = {one.name for one in fields(cls)}
        state = cls(**{name: item for name, item in value.items() if name in names})
        state.seen = [Seen(**one) for one in value.get("seen", [])]
        return state


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A checkpoint in this machine's memory: it can be written while training goes on."""

    weights: dict[str, torch.Tensor]
    adapter_settings: Json
    moments: dict[str, torch.Tensor]
    state: Json


class Checkpoints:
    """Writes checkpoints as items, and finds the newest one to go on from.

    Writing and publishing (an upload, with a store) go on beside the training, one checkpoint at a time;
    what fails there is raised at the next `save`, or by `finish`.
    """

    def __init__(self, items: Items, base: Base, due: Collection[int], in_use: Collection[str] = ()) -> None:
        self._items = items
        self._base = base
        self._in_use = in_use
        self._due = {step_name(step) for step in due}
        self._publisher = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._pending: Future[None] | None = None
        self._dropped: set[str] = set()

    def names(self) -> list[str]:
        """The complete checkpoints, oldest first."""
        return [name for name in self._items.names() if name.removeprefix(f"{_KIND}_").isdecimal()]

    def resume(self, run_digest: str) -> tuple[Path, TrainingState] | None:
        """The newest checkpoint of this run that can be gone on from, all that are due before it being whole.

        Those that come after it, of other runs, damaged or to be made anew, are deleted, and so is what never
        became complete. ConfigError, and nothing is deleted, where one of them is in use.
        """
        names = self.names()
        found = self._newest(names, run_digest)
        if found is not None and (bad := self._first_bad(names, found[1].step)):
            found = self._newest([name for name in names if _step_of(name) < bad], run_digest)
        others = [name for name in names if found is None or _step_of(name) > found[1].step]
        for name in others:
            if name in self._in_use:
                raise ConfigError(
                    f"{name} is in use and would be deleted: this training did not make it, or must begin before it",
                    where=str(self._items.folder / name),
                    hint="train under another cycle's name, or into another --output-dir",
                )
        self._items.clean(_KIND)
        for name in others:
            self._items.delete(name)
        return found

    def _newest(self, names: list[str], run_digest: str) -> tuple[Path, TrainingState] | None:
        """The newest of them that is of this run and has all that it takes to go on."""
        found = (self._of_run(name, run_digest) for name in reversed(names))
        return next((one for one in found if one is not None), None)

    def _first_bad(self, names: list[str], upto: int) -> int | None:
        """The first step before one whose checkpoint is due and not as it was written, or not there.

        Of a training whose adapter is in use those that are not there are no loss: retention has deleted them.
        """
        wanted = self._due.intersection(names) if self._in_use else self._due
        for step in sorted(map(_step_of, wanted)):
            name = step_name(step)
            if step < upto and not (name in names and self._is_whole(name)):
                return step
        return None

    def _is_whole(self, name: str) -> bool:
        try:
            self._items.check(name)
        except (IntegrityError, MissingInputError):
            return False
        return True

    def _of_run(self, name: str, run_digest: str) -> tuple[Path, TrainingState] | None:
        try:
            folder = self._items.bring(name)
        except (IntegrityError, MissingInputError):
            return None
        path = folder / STATE / _STATE
        if not path.is_file() or not (folder / STATE / _OPTIMIZER).is_file():
            return None
        state = TrainingState.from_json(read_json(path))
        return (folder, state) if state.run_digest == run_digest else None

    def save(self, snapshot: Snapshot) -> None:
        """Begin to write and publish a checkpoint, once the one before it is; raises what that one met with."""
        self._wait()
        self._pending = self._publisher.submit(self._write, snapshot)

    def finish(self) -> None:
        """Wait until everything is published, and leave what an undisturbed run leaves; raises what failed."""
        try:
            self._wait()
            self._tidy()
        finally:
            self._publisher.shutdown(wait=True)

    def abandon(self) -> None:
        """Wait for what is being written, after an error that is being told already."""
        self._publisher.shutdown(wait=True)

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, snapshot: Snapshot) -> None:
        name = step_name(snapshot.state["step"])
        folder = self._items.folder / name
        if name in self._items.names():  # of a run that was stopped just here
            self._items.delete(name)
        shutil.rmtree(folder, ignore_errors=True)
        write_adapter(snapshot.weights, snapshot.adapter_settings, folder, base=self._base)
        try:
            (folder / STATE).mkdir()
            save_file(snapshot.moments, folder / STATE / _OPTIMIZER)
        except OSError as error:
            raise output_error(folder, error) from error
        except SafetensorError as error:
            raise OutputError(f"cannot be written: {error}", where=str(folder / STATE / _OPTIMIZER)) from error
        write_json(folder / STATE / _STATE, snapshot.state)
        self._items.publish(name)
        if name in self._due:
            self._tidy()

    def _tidy(self) -> None:
        """Keep what is due, and the newest; the training state of the newest alone."""
        names = self.names()
        for name in names[:-1]:
            if name not in self._due:
                self._items.delete(name)
        for name in [name for name in names if name in self._due][:-_NUM_STATES]:
            if name not in self._dropped:
                self._items.drop_state(name)
                self._dropped.add(name)


def snapshot_of(
    weights: dict[str, torch.Tensor], adapter_settings: Json, optimizer: torch.optim.Optimizer, state: TrainingState
) -> Snapshot:
    """A copy of all that a checkpoint holds. Where the model is sharded, all processes must call this."""
    return Snapshot(weights, adapter_settings, _tensors_of(optimizer), asdict(state))


def load_optimizer(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Bring an optimiser's moments back from a checkpoint."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(folder / STATE / _OPTIMIZER).items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = _placed_as(parameters[int(number)], tensor)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _placed_as(parameter: Any, tensor: torch.Tensor) -> Any:
    """Cut over the processes as the parameter is, where it is."""
    if not hasattr(parameter, "device_mesh") or tensor.shape != parameter.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)


def _tensors_of(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    tensors = {}
    for number, values in sorted(optimizer.state_dict()["state"].items()):
        for name, value in sorted(values.items()):
            whole = value.full_tensor() if hasattr(value, "full_tensor") else value
            tensors[f"{number}.{name}"] = whole.detach().to("cpu", copy=True).contiguous()
    return tensors
