"""Checkpoints as items: the adapter, and beside it what training needs to go on exactly. No pickles.

step_<n>/adapter_model.safetensors, adapter_config.json, refrain.json    the adapter
step_<n>/training_state/optimizer.safetensors                           AdamW's moments, by parameter
step_<n>/training_state/state.json                                      the cursor, losses so far, patience
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file

from jobs.contracts.records import Json
from jobs.files import output_error, read_json, write_json
from jobs.items import STATE, Items
from jobs.ml.adapters import save_adapter
from jobs.ml.base_model import Base

if TYPE_CHECKING:
    import torch

_OPTIMIZER = "optimizer.safetensors"
_STATE = "state.json"


def step_name(step: int) -> str:
    """Name of the checkpoint of a step."""
    return f"step_{step}"


@dataclass(slots=True)
class TrainingState:
    """What of a run is not in the adapter or the optimiser."""

    run_digest: str
    """Of all that the run depends on: a checkpoint of another run is never gone on from."""
    step: int = 0
    is_regular: bool = True
    """False for one that was saved because the process was told to stop: an undisturbed run has none there."""
    seen: str = ""
    """Chained digest of the ids of all steps."""
    bad_evaluations: int = 0
    """Evaluations in a row without improvement."""
    best_loss: float | None = None
    best_step: int | None = None
    log_history: list[Json] = field(default_factory=list)


class Checkpoints:
    """Writes checkpoints as items, and finds the newest one to go on from.

    Publishing, an upload with a store, goes on beside the training; `finish` waits for it.
    """

    def __init__(self, items: Items, base: Base) -> None:
        self._items = items
        self._base = base
        self._publisher = ThreadPoolExecutor(1)
        self._pending: list[Future[None]] = []

    def newest(self, run_digest: str) -> tuple[Path, TrainingState] | None:
        """The newest checkpoint of this run that can be gone on from; checkpoints of other runs are deleted."""
        found = None
        for name in reversed(self._items.names()):
            if found is None:
                folder = self._items.bring(name)
                path = folder / STATE / _STATE
                state = TrainingState(**read_json(path)) if path.is_file() else None
                if state is not None and state.run_digest == run_digest:
                    found = folder, state
                    continue
                self._items.delete(name)
            # Those before the one that is gone on from are its own run's: the digest stands in it alone.
        return found

    def save(self, model: Any, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
        """Write a checkpoint and begin to publish it; OutputError where it cannot be written, or one before was not."""
        self._raise_failed()
        folder = self._items.folder / step_name(state.step)
        try:
            save_adapter(model, folder, base=self._base)
            (folder / STATE).mkdir(exist_ok=True)
            save_file(_tensors_of(optimizer), folder / STATE / _OPTIMIZER)
        except OSError as error:
            raise output_error(folder, error) from error
        write_json(folder / STATE / _STATE, {name: getattr(state, name) for name in state.__slots__})
        self._pending.append(self._publisher.submit(self._items.publish, folder.name))

    def delete(self, step: int) -> None:
        """Remove the checkpoint of a step, once those before it are published."""
        self._pending.append(self._publisher.submit(self._items.delete, step_name(step)))

    def finish(self) -> None:
        """Wait until everything is published; what failed is raised."""
        self._publisher.shutdown(wait=True)
        self._raise_failed()

    def _raise_failed(self) -> None:
        for future in self._pending:
            if future.done():
                future.result()
        self._pending = [future for future in self._pending if not future.done()]


def load_optimizer(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Bring an optimiser's moments back from a checkpoint."""
    tensors = load_file(folder / STATE / _OPTIMIZER)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _tensors_of(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{number}.{name}": value.detach().to("cpu").contiguous()
        for number, values in sorted(optimizer.state_dict()["state"].items())
        for name, value in sorted(values.items())
    }
