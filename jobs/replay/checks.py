"""No val or test chunk is ever trained on, and no new chunk rehearsed: lists are checked, whoever wrote them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from jobs.contracts.errors import InputError
from jobs.contracts.records import SPLITS
from jobs.replay.table import UNKNOWN, ChunkTable, Mask, code_of

_TRAIN = code_of("train")


def checked(
    listed: ChunkTable,
    path: Path,
    log: ChunkTable | None,
    *,
    forgotten: Mask | None = None,
    first_active: int | None = None,
    log_name: str = "",
) -> ChunkTable:
    """The chunks that a file lists, with what the log says of them.

    `forgotten` says which rows of the log have no text any more, `first_active` is the oldest active
    window where the file must list older chunks alone.
    Raises InputError that names the file and the first chunk which is of val or test, by its own
    word or by the log's; which the log does not hold; whose text has been deleted; or which is of an
    active window. `log_name` is said where the log is what it is checked against.
    """
    against = f"; it was checked against {log_name}" if log_name else ""
    _refuse(listed, _eval(listed), path, "is of {split}; only train chunks are trained on", "take it out of the list")
    table = listed
    if log is not None:
        rows = log.find(listed.chunk_ids)
        _refuse(
            listed, rows < 0, path, "is not in the assignments", f"make the list again from these assignments{against}"
        )
        if forgotten is not None:
            _refuse(
                listed, forgotten[rows], path, "has no text any more: it was deleted", f"make the list again{against}"
            )
        table = log.take(rows)
        _refuse(
            table,
            _eval(table),
            path,
            "is of {split}, the assignments say",
            f"make the list again with `refrain`{against}",
        )
        table = table.completed(listed)
    if first_active is not None:
        active = table.window_idx >= first_active
        what = f"is of window {{window}}, which is active; rehearsal takes windows before {first_active}"
        _refuse(table, active, path, what, "make the list again with `refrain rehearse` for this window")
    return table


def _eval(table: ChunkTable) -> npt.NDArray[np.bool_]:
    bad: npt.NDArray[np.bool_] = (table.split != _TRAIN) & (table.split != UNKNOWN)
    return bad


def _refuse(table: ChunkTable, bad: npt.NDArray[np.bool_], path: Path, what: str, hint: str) -> None:
    rows = np.flatnonzero(bad)
    if not len(rows):
        return
    row = int(rows[0])
    text = what.format(split=SPLITS[table.split[row]], window=table.window_idx[row])
    others = f", and {len(rows) - 1} more like it" if len(rows) > 1 else ""
    raise InputError(f"chunk {table.chunk_ids[row].as_py()} {text}{others}", where=str(path), hint=hint)
