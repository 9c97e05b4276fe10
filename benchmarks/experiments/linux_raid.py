"""Weekly cycles over real mail: the list linux-raid, September to December 2019, by `refrain run` alone.

    python benchmarks/experiments/linux_raid.py ../shared/corpora/linux-raid-2019H2 build/experiments/linux-raid

A small model is pre-trained on the mail of July and August. Weeks go by the Date of a mail, not by the
file that it lies in: 2019-07.mbox holds mail of April to June, which is left out. A run that was stopped
goes on. The table goes to benchmarks/experiments.md; no mail does.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DEMO = HERE.parents[1] / "examples" / "demo"
sys.path += [str(DEMO), str(HERE.parent)]

from page import write_experiment  # noqa: E402

from outcomes import outcome_of, read_artifact, table  # noqa: E402 - scripts of other folders
from report import machine  # noqa: E402

FIRST, CYCLES, END = dt.date(2019, 7, 1), dt.date(2019, 9, 2), dt.date(2020, 1, 1)
"""Where the mail for the base model begins, the cycles' weeks, and where these end."""
WEEK = "2019-w36"
BASE = ("--vocabulary", "4096", "--steps", "300", "--batch", "4", "--row-tokens", "768")


def main() -> None:
    """Run what is left of it, and write the table."""
    parser = argparse.ArgumentParser(description="Weekly cycles over linux-raid.")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weeks", type=int, default=99, help="the first so many alone")
    options = parser.parse_args()
    if not options.corpus.is_dir():
        sys.exit(f"experiments: no mail at {options.corpus}")
    started = time.monotonic()
    folder: Path = options.folder
    older, weeks = sort_mail(options.corpus, folder)
    if not (folder / "base" / "model.safetensors").exists():
        _call([sys.executable, DEMO / "base_model.py", folder / "base", older, *BASE])
    rows = [_cycle(folder, week) for week in weeks[: options.weeks]]
    forgetting = _forgetting(folder / "store" / "raid", rows)
    text = _page(rows, forgetting, time.monotonic() - started)
    (folder / "results.md").write_text(text)
    if options.weeks >= len(weeks):
        write_experiment("linux_raid", text)
    print(text)


def sort_mail(corpus: Path, folder: Path) -> tuple[Path, list[Path]]:
    """The mbox for the base model, and one for each ISO week of the cycles, by the Date of each mail."""
    parts = defaultdict(list)
    folder.mkdir(parents=True, exist_ok=True)
    records = folder / "messages.jsonl"
    _call([_refrain(), "parse", *sorted(corpus.glob("*.mbox")), "-o", records])
    for line in records.read_text().splitlines():
        record = json.loads(line)
        raw = record["email_message"].encode(record.get("encoding") or "utf-8", "replace")
        day = _day(raw)
        if day is None or not FIRST <= day < END:
            continue
        year, week, _ = day.isocalendar()
        parts["older" if day < CYCLES else f"weeks/{year}-w{week:02d}"].append(_mboxrd(raw, day))
    (folder / "weeks").mkdir(exist_ok=True)
    for name, mails in parts.items():
        (folder / f"{name}.mbox").write_bytes(b"".join(mails))
    return folder / "older.mbox", sorted((folder / "weeks").glob("*.mbox"))


def _day(raw: bytes) -> dt.date | None:
    """Of the Date header, in UTC; None where that is missing or no date."""
    head = re.split(rb"\r?\n\r?\n", raw, maxsplit=1)[0]
    found = re.search(rb"^Date:[ \t]*(.+)$", head, re.MULTILINE | re.IGNORECASE)
    try:
        return parsedate_to_datetime(found[1].decode("latin-1")).astimezone(dt.UTC).date() if found else None
    except (ValueError, OverflowError):
        return None


def _mboxrd(raw: bytes, day: dt.date) -> bytes:
    """An entry of an mboxrd, delivered on that day."""
    separator = f"From mboxrd@z {day:%a %b} {day.day:2d} 00:00:00 {day.year}\n".encode()
    return separator + re.sub(rb"(?m)^(>*From )", rb">\1", raw).rstrip(b"\n") + b"\n\n"


def _cycle(folder: Path, mbox: Path) -> dict[str, Any]:
    path = folder / f"{mbox.stem}.yaml"
    path.write_text((HERE / "linux_raid.yaml").read_text().replace(WEEK, mbox.stem))
    status = json.loads(_call([_refrain(), "run", path, "--json"], captured=True))
    return outcome_of(status, f"raid-{mbox.stem}", folder / "store" / "raid")


def _forgetting(archive: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the last cycle that evaluated says of it."""
    for row in reversed(rows):
        if row["attempts"]:
            found = read_artifact(archive, row["cycle"], "evaluate", "eval_results", row["attempts"] - 1)
            return dict(found["forgetting"])
    return {}


def _page(rows: list[dict[str, Any]], forgetting: dict[str, Any], seconds: float) -> str:
    outcomes = ", ".join(
        f"{sum(row['outcome'] == outcome for row in rows)} {outcome}"
        for outcome in ("Promoted", "NotPromoted", "Skipped")
    )
    lines = [
        "## linux-raid, September to December 2019, week by week",
        "",
        f"{machine()}; {seconds / 60:.0f} min beside other work. `make experiments`, settings:",
        "`benchmarks/experiments/linux_raid.yaml`.",
        "",
        "A Llama of width 128 and 4 layers, pre-trained on the list's July and August; then each week's mail by",
        "`refrain run` alone. Val perplexity is of what was in service, then of the chosen checkpoint, on all val",
        "threads up to that week; the gain is in the loss per token, on the half of them that gates.",
        "",
        "```",
        table(rows),
        "```",
        "",
        f"{len(rows)} cycles: {outcomes}.",
    ]
    if forgetting:
        said = {name: forgetting["losses"].get(name) for name in ("base", "incumbent")}
        lines += ["", f"Columns of windows: {forgetting['windows']}. Loss per token on each, at the end:", ""]
        lines += [f"- {name}: {losses}" for name, losses in said.items() if losses]
        lines += [
            f"- backward transfer (0: nothing forgotten): {forgetting['backward_transfer']}",
            f"- forward transfer: {forgetting['forward_transfer']}",
        ]
    return "\n".join(lines) + "\n"


def _refrain() -> Path:
    return Path(sys.executable).with_name("refrain")


def _call(command: list[object], *, captured: bool = False) -> str:
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | os.environ
    done = subprocess.run(
        list(map(str, command)),
        env=environment,
        check=False,
        text=True,
        stdout=subprocess.PIPE if captured else None,
    )
    if done.returncode:
        sys.exit(f"experiments: {command[1]} ended with {done.returncode}; the same command goes on from there")
    return done.stdout or ""


if __name__ == "__main__":
    main()
