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


def write_numbered(output: Path, split: Split, records: Iterable[Any], shard_size: int) -> list[Path]:
    """Write `shard_size` records to a file, `<split>-00001.json` and so on; the files, in order.

    They lie in `output`, or beside it where it is named like a file, and then have its suffix
    (`.json`, `.json.gz`, `.json.zst`). Without records there is one file, with an empty list.
    Raises OutputError where shards of an earlier, longer list would be left behind these.
    """
    if output == STANDARD:
        raise UsageError("numbered shards need a folder", hint="say -o FOLDER")
    suffix = next((s for s in reversed(_SUFFIXES) if output.name.endswith(s)), None)
    folder = output if suffix is None else output.parent
    written: list[Path] = []
    remaining = iter(records)
    while (shard := list(islice(remaining, shard_size))) or not written:
        path = folder / f"{split}-{len(written) + 1:05d}{suffix or '.json'}"
        write_json_array(path, shard)
        written.append(path)
    left = sorted(path.name for path in folder.iterdir() if _number(path.name, split) > len(written))
    if left:
        raise OutputError(
            f"shards of an earlier, longer list lie there: {', '.join(left[:3])}{' …' if len(left) > 3 else ''}",
            where=str(folder),
            hint="remove them, or write to an empty folder",
        )
    return written


def _number(name: str, split: Split) -> int:
    match = re.fullmatch(rf"{split}-(\d{{5,}})\.json(\.gz|\.zst)?", name)
    return int(match[1]) if match else 0
