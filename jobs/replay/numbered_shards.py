"""Records in numbered files: train-00001.json, train-00002.json … Packaging only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from jobs.contracts.errors import OutputError, UsageError
from jobs.contracts.records import Split
from jobs.files import STANDARD, write_json_array

_SUFFIXES = (".json", ".json.gz", ".json.zst")


def write_numbered(output: Path, split: Split, records: Iterable[Any], num_records: int, shard_size: int) -> list[Path]:
    """Write `shard_size` of so many records to a file, `<split>-00001.json` and so on; the files, in order.

    They lie in `output`, or beside it where it is named like a file, and then have its suffix
    (`.json`, `.json.gz`, `.json.zst`). Without records there is one file, with an empty list.
    Raises OutputError, before anything is written, where other shards of the split would be left beside these.
    """
    if output == STANDARD:
        raise UsageError("numbered shards need a folder", hint="say -o FOLDER")
    suffix = next((s for s in reversed(_SUFFIXES) if output.name.endswith(s)), None)
    folder = output if suffix is None else output.parent
    num_shards = max(1, -(-num_records // shard_size))
    paths = [folder / f"{split}-{number:05d}{suffix or '.json'}" for number in range(1, num_shards + 1)]
    _require_no_others(folder, split, {path.name for path in paths})
    remaining = iter(records)
    for path in paths:
        write_json_array(path, islice(remaining, shard_size))
    return paths


def _require_no_others(folder: Path, split: Split, names: set[str]) -> None:
    shard = re.compile(rf"{split}-\d{{5,}}\.json(\.gz|\.zst)?")
    there = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    left = sorted(name for name in there if shard.fullmatch(name) and name not in names)
    if left:
        raise OutputError(
            f"shards of an earlier list lie there: {', '.join(left[:3])}{' …' if len(left) > 3 else ''}",
            where=str(folder),
            hint="remove them, or write to an empty folder",
        )
