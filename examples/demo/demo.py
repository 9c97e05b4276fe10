"""The demo: a firm's mail, a small base model, three weekly cycles, and a question.

    python examples/demo/demo.py build/demo

A demo that was stopped goes on where it was; one that had finished begins anew.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mail import CYCLE_WEEKS, OLDER_WEEKS, THREADS_A_WEEK
from outcomes import outcome_of, table

HERE = Path(__file__).parent
PARTS = ("mail", "base", "store", "cycles.json", "answer.txt")
"""What a demo writes into its folder, beside the cycles' files."""
WEEK = "2025-w14"
"""The week that cycle.yaml is of."""


@dataclass(frozen=True)
class Settings:
    """What makes one demo another than the next."""

    seed: int = 7
    older_weeks: int = OLDER_WEEKS
    weeks: int = CYCLE_WEEKS
    threads: int = THREADS_A_WEEK
    steps: int = 400
    """Of the base model's training."""


class Demo:
    """One demo in its folder."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self.settings = folder, settings
        self.store = f"file://{folder.resolve()}/store/demo"
        # Two threads of a process that waits spinning are slower than one, if anything else runs.
        self._environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"} | os.environ

    def run(self) -> list[dict[str, Any]]:
        """All of it; a row for each cycle."""
        started = time.monotonic()
        self.begin()
        rows = [self._cycle(path) for path in self._cycle_files()]
        (self.folder / "cycles.json").write_text(json.dumps(rows, indent=1))
        _title("What the three weeks have brought" if len(rows) == 3 else "What the weeks have brought")
        print(table(rows))
        self._ask(rows)
        self._what_next(time.monotonic() - started)
        return rows

    # ---- mail and base model

    def begin(self) -> None:
        """Make mail and base model: go on with a demo of these settings that was stopped, else begin anew."""
        said = self.folder / "settings.json"
        own = json.dumps(asdict(self.settings))
        is_finished = (self.folder / "answer.txt").exists()
        if said.exists() and said.read_text() == own and not is_finished:
            print(f"Going on with the demo in {_short(self.folder)}.")
        else:
            for name in PARTS:
                path = self.folder / name
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        said.write_text(own)
        one = self.settings
        _title("1. The mail of a firm that does not exist, and a base model that has read the older part of it")
        if not (self.folder / "mail" / "facts.json").exists():
            amounts = (
                "--seed",
                one.seed,
                "--older-weeks",
                one.older_weeks,
                "--weeks",
                one.weeks,
                "--threads",
                one.threads,
            )
            self._python("mail.py", self.folder / "mail", *amounts)
        if not (self.folder / "base" / "model.safetensors").exists():
            older = sorted((self.folder / "mail" / "older").glob("*.mbox"))
            self._python("base_model.py", self.folder / "base", *older, "--steps", one.steps, "--seed", one.seed)

    def _cycle_files(self) -> list[Path]:
        """A file for each week, beside its mail."""
        text = (HERE / "cycle.yaml").read_text()
        files = []
        for mbox in sorted((self.folder / "mail" / "weeks").glob("*.mbox")):
            path = self.folder / f"{mbox.stem}.yaml"
            path.write_text(text.replace(WEEK, mbox.stem))
            files.append(path)
        return files

    # ---- cycles

    def _cycle(self, path: Path) -> dict[str, Any]:
        number = 2 + sorted(self.folder.glob("2*.yaml")).index(path)
        _title(f"{number}. refrain run {_short(path)}")
        status = json.loads(self._refrain("run", path, "--json", captured=True))
        return outcome_of(status, f"demo-{path.stem}", self.folder / "store" / "demo")

    # ---- a question

    def _ask(self, rows: list[dict[str, Any]]) -> None:
        question, truth = self._question()
        _title(f'{len(rows) + 2}. refrain ask "{question}"')
        answer = self._refrain("ask", question, "--store", self.store, "--max-new-tokens", 48, captured=True)
        (self.folder / "answer.txt").write_text(answer)
        print(answer.rstrip())
        print(f"\n(In truth it is {truth}. The mails say so; a model of a million weights rarely gets to the point.)")

    def _question(self) -> tuple[str, str]:
        """About a machine or a version of the newest workstream; and what is so."""
        facts = json.loads((self.folder / "mail" / "facts.json").read_text())
        newest = list(list(facts.values())[-1].items())[-3:]
        asked = {"host": "What is the machine for {p}?", "version": "What is the build of {p} that counts?"}
        for kind, question in asked.items():
            for name, own in newest:
                if kind in own:
                    return question.format(p=name), own[kind]
        raise AssertionError("a project has four of five kinds of facts, so one of these two")

    def _what_next(self, seconds: float) -> None:
        _title(f"Done in {seconds / 60:.1f} minutes. What next?")
        folder = _short(self.folder)
        store = f"--store {self.store}"
        for what, command in (
            ("ask something else", f'refrain ask "Who looks after ...?" {store}'),
            ("what is in service, and was", f"refrain promote --history {store}"),
            ("what a cycle would do, without doing it", f"refrain plan {folder}/2025-w16.yaml"),
            ("that the log is as it was written", f"refrain log verify {self.store}"),
            ("your own mail", f"edit {folder}/2025-w16.yaml: archive, sources, model.base; then refrain run it"),
        ):
            print(f"  {what + ':':42}{command}")

    # ---- processes

    def _python(self, script: str, *arguments: object) -> None:
        self._call([sys.executable, HERE / script, *arguments], captured=False)

    def _refrain(self, *arguments: object, captured: bool) -> str:
        return self._call([Path(sys.executable).with_name("refrain"), *arguments], captured=captured)

    def _call(self, command: list[object], *, captured: bool) -> str:
        sys.stdout.flush()
        words = list(map(str, command))
        done = subprocess.run(
            words, env=self._environment, check=False, text=True, stdout=subprocess.PIPE if captured else None
        )
        if done.returncode:
            sys.exit(f"demo: {' '.join(words[:3])} ended with {done.returncode}; make demo goes on from there")
        return done.stdout or ""


def _title(text: str) -> None:
    print(f"\n{text}\n{'─' * len(text)}", flush=True)


def _short(path: Path) -> str:
    """As seen from here, where it lies below."""
    return os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else str(path)


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description="Three weekly cycles on mail that is made up.")
    parser.add_argument("folder", type=Path)
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    options = vars(parser.parse_args())
    Demo(options.pop("folder"), Settings(**options)).run()


if __name__ == "__main__":
    main()
