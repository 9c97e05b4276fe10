"""`refrain select` on plain files: reading and reading again, the user's commands, and what is done with the winner."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.contracts.errors import InputError, MissingInputError, UsageError
from jobs.contracts.records import Json
from jobs.files import atomic_output, read_json, scratch_folder, write_json
from jobs.items import COMPLETE, file_digest, verify
from jobs.ml.checkpoint_files import settings_beside
from jobs.production import move_link
from jobs.selection.report import sentence_of, table_of
from jobs.stages import Inputs, Outputs, settings_of
from jobs.stages.select import Config, eval_losses, run

_STEP = re.compile(r"^(?:step_|checkpoint-)(\d+)(\.safetensors)?$")
_FLAT = ".safetensors"

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Files:
    """What a user has named."""

    results: tuple[Path, ...]
    """eval_results.json of every attempt, oldest first; empty: training's own losses choose."""
    checkpoint_dir: Path | None
    output: Path
    decision: Path
    link: Path | None = None
    retrain_cmd: str | None = None
    merge_cmd: str | None = None
    is_frozen: bool = False

    @property
    def attempts(self) -> Path:
        """Results of the attempts of a selection that is under way."""
        return self.decision.with_name(f"{self.decision.name}.attempts")


def select(config: Config, files: Files, say: Say) -> Json:
    """Choose, train again by the user's command where the gain is too small, and do what is to be done with the winner.

    The decision. Raises what the stage raises; UsageError where a command fails, MissingInputError where the
    winner's files are not there.
    """
    said = _reused(config, files)
    if said is not None:
        say("the same results and rules as before: the decision of then holds")
    else:
        said = _decided(config, files, say)
    for line in [*table_of(said), sentence_of(said)]:
        say(line)
    if said["outcome"] == "Promote":
        _use(said, files, say)
    else:
        say(f"{files.output} and links are left as they are")
    return said


def _identity(config: Config, files: Files) -> Json:
    """What a decision depends on; where training's losses choose, that is which checkpoints are there too."""
    identity = {"settings": _settings(config), "inputs": [file_digest(path) for path in _sources(files)]}
    if not files.results and files.checkpoint_dir:
        identity["checkpoints"] = [path.name for path, _ in _checkpoints(files.checkpoint_dir)]
    return identity


def _settings(config: Config) -> Json:
    return {name: _plain(value) for name, value in settings_of(config).items()}


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _earlier(files: Files) -> Json:
    """The decision that stands; empty where there is none of ours."""
    said = read_json(files.decision) if files.decision.is_file() else {}
    return said if isinstance(said, dict) and {"identity", "outcome"} <= said.keys() else {}


def _sources(files: Files) -> tuple[Path, ...]:
    return files.results or (_trainer_state(files),)


def _reused(config: Config, files: Files) -> Json | None:
    earlier = _earlier(files)
    is_same = earlier.get("identity") == _identity(config, files)
    return earlier if is_same and earlier["outcome"] != "Retrain" else None


def _decided(config: Config, files: Files, say: Say) -> Json:
    """Decide, and train again by the user's command as often as the decision says so."""
    earlier = _earlier(files)
    goes_on = earlier.get("outcome") == "Retrain"
    if not goes_on:
        shutil.rmtree(files.attempts, ignore_errors=True)
    config = replace(config, baseline_score=_baseline(earlier, files, config, goes_on=goes_on))
    while True:
        said = _decision(config, files)
        if said["outcome"] != "Retrain":
            shutil.rmtree(files.attempts, ignore_errors=True)
            return said
        _keep_attempt(files, said["attempt"])
        say(sentence_of(said))
        _retrain(files, said, say)


def _baseline(earlier: Json, files: Files, config: Config, *, goes_on: bool) -> float | None:
    """The score of the last selection's winner by the same rule: for results that know no incumbent."""
    if not files.results:
        return None
    if goes_on:
        score = earlier.get("baseline_score")
    else:
        names = ("strategy", "weights")
        now = _settings(config)
        same = earlier and all(earlier["identity"]["settings"].get(name) == now[name] for name in names)
        score = (earlier.get("winner") or {}).get("score") if same and earlier["outcome"] == "Promote" else None
    return None if score is None else float(score)


def _decision(config: Config, files: Files) -> Json:
    with scratch_folder("refrain-select-") as scratch:
        paths = list(_documents(files, scratch))
        states = [path for path in _states(files) if len(paths) == 1]
        run(config, Inputs({"eval_results": paths, "trainer_state": states}), Outputs({"decision": scratch / "d.json"}))
        said: Json = read_json(scratch / "d.json")
    said |= {"identity": _identity(config, files), "baseline_score": config.baseline_score}
    write_json(files.decision, said)
    return said


def _documents(files: Files, scratch: Path) -> Iterator[Path]:
    """The results of all attempts; a checkpoint that was written over counts as it was scored last."""
    kept = sorted(files.attempts.glob("*.json"), key=lambda path: int(path.stem))
    current = list(files.results) or [_from_trainer(files, scratch)]
    if kept and len(current) == 1 and kept[-1].read_bytes() == current[0].read_bytes():
        current = []  # the command that was to train again has not come to its end
    values = [read_json(path) for path in [*kept, *current]]
    seen: set[str] = set()
    for value in reversed(values):
        if isinstance(value, dict) and isinstance(value.get("checkpoints"), list):
            own = [one for one in value["checkpoints"] if not isinstance(one, dict) or one.get("path") not in seen]
            if kept:
                value["checkpoints"] = own
            seen.update(str(one.get("path")) for one in own if isinstance(one, dict))
    for number, (value, source) in enumerate(zip(values, [*kept, *current], strict=True)):
        path = scratch / f"{number}-{source.name}" if kept else source
        if kept:
            write_json(path, value)
        yield path


def _keep_attempt(files: Files, attempt: int) -> None:
    files.attempts.mkdir(parents=True, exist_ok=True)
    if not (files.attempts / f"{attempt}.json").exists():
        with atomic_output(files.attempts / f"{attempt}.json") as stream:
            stream.write(files.results[-1].read_bytes())


def _retrain(files: Files, said: Json, say: Say) -> None:
    again, winner = said["retrain"], said["winner"]
    facts = {
        "ATTEMPT": str(said["attempt"] + 1),
        "LEARNING_RATE_FACTOR": str(again["learning_rate_factor"]),
        "REPLAY": again["replay"] or "",
        "CHECKPOINT": str(_found(winner["path"], files) or winner["path"]) if winner else "",
    }
    _command("--retrain-cmd", files.retrain_cmd or "", facts, say)


def _command(flag: str, command: str, facts: Mapping[str, str], say: Say) -> None:
    """Run a user's command by the shell, `{NAME}` standing for a fact, quoted; UsageError where it fails."""
    command = filled_in(command, facts)
    say(f"$ {command}")
    environment = os.environ | {f"REFRAIN_{name}": value for name, value in facts.items()}
    done = subprocess.run(["/bin/sh", "-c", command], env=environment, check=False, stdout=sys.stderr)  # noqa: S603
    if done.returncode:
        hint = "mend it and run the same again: it goes on from here"
        raise UsageError(f"the command ended with exit code {done.returncode}: {command}", where=flag, hint=hint)


def filled_in(command: str, facts: Mapping[str, str]) -> str:
    """A command of the shell with each `{NAME}` of a fact replaced, quoted as where it stands wants it."""
    pieces, around = [], ""
    for piece in _PIECE.split(command):
        if piece[:1] == "{" and piece[1:-1] in facts:
            pieces.append(_quoted(facts[piece[1:-1]], around))
            continue
        pieces.append(piece)
        if piece in ("'", '"') and around in ("", piece):
            around = "" if around else piece
        elif piece == "\\'" and around == "'":  # nothing escapes there
            around = ""
    return "".join(pieces)


_PIECE = re.compile(r"""(\\.|['"]|\{[A-Z_]+\})""", re.DOTALL)


def _quoted(value: str, around: str) -> str:
    if around == "'":
        return value.replace("'", "'\\''")
    if around == '"':
        return re.sub(r'([\\"$`])', r"\\\1", value)
    return shlex.quote(value)


def _use(said: Json, files: Files, say: Say) -> None:
    """Name the winner, link, freeze and merge it, as far as that is wanted and not done yet."""
    winner = said["winner"]["path"]
    place = _found(winner, files)
    if place is None and (files.checkpoint_dir or files.link or files.merge_cmd or files.is_frozen):
        hint = "name the folder that it lies in with --checkpoint-dir"
        raise MissingInputError(f"the winner {winner} is not there (any more)", where=str(files.decision), hint=hint)
    if place is not None:
        _require_whole(place)
    with atomic_output(files.output) as stream:
        stream.write(f"{place or winner}\n".encode())
    if place is None:
        return
    if files.link:
        move_link(files.link, place)
        say(f"{files.link} -> {place}")
    if files.is_frozen:
        said["frozen"] = _freeze(place)
        write_json(files.decision, said)
        say(f"{place} is read-only; its digests are in {files.decision}")
    if files.merge_cmd and said.get("merged") != files.merge_cmd:
        _command("--merge-cmd", files.merge_cmd, {"CHECKPOINT": str(place)}, say)
        write_json(files.decision, said | {"merged": files.merge_cmd})


def _found(winner: str, files: Files) -> Path | None:
    """Where a checkpoint lies: in --checkpoint-dir, beside the results or in their checkpoints/, or where it says."""
    path = Path(winner)
    beside = [one.parent for one in files.results]
    folders = (
        [files.checkpoint_dir] if files.checkpoint_dir else [Path(), *beside, *(one / "checkpoints" for one in beside)]
    )
    names = [path, Path(path.name)] if files.checkpoint_dir else [path]
    return next((folder / name for folder in folders for name in names if (folder / name).exists()), None)


def _require_whole(place: Path) -> None:
    """MissingInputError, IntegrityError for one that is not whole; a flat file needs its settings beside it."""
    if place.is_dir():
        if (place / COMPLETE).is_file():
            verify(place)
    elif settings_beside(place) is None:
        hint = f"put adapter_config.json, or {place.stem}.json, into the same folder"
        raise MissingInputError("the checkpoint has no settings beside it", where=str(place), hint=hint)


def _freeze(place: Path) -> Json:
    """Make a checkpoint's files read-only, and its folder too; their digests."""
    settings = settings_beside(place) if place.is_file() else None
    paths = sorted(one for one in place.rglob("*") if one.is_file()) if place.is_dir() else [place]
    paths += [settings] if settings else []
    root = place if place.is_dir() else place.parent
    digests = {path.relative_to(root).as_posix(): file_digest(path) for path in paths}
    folders = [place, *(one for one in place.rglob("*") if one.is_dir())] if place.is_dir() else []
    for path in [*paths, *folders]:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    return {"path": str(place), "files": digests}


def _states(files: Files) -> list[Path]:
    """What training saw, where it is there beside the results."""
    state = files.checkpoint_dir / "trainer_state.json" if files.checkpoint_dir else None
    return [state] if state and state.is_file() else []


def _trainer_state(files: Files) -> Path:
    """The newest trainer_state.json: with the checkpoints, above them, or, as transformers leaves it, in the last."""
    folder = files.checkpoint_dir
    if folder is None or not folder.is_dir():
        raise MissingInputError("no such folder", where=str(folder), hint="name one with --checkpoint-dir")
    newest = [path / "trainer_state.json" for path, _ in reversed(_checkpoints(folder))]
    for path in (folder / "trainer_state.json", folder.parent / "trainer_state.json", *newest):
        if path.is_file():
            return path
    hint = "train writes it; or name an eval_results.json"
    raise MissingInputError("there is no trainer_state.json to go by", where=str(folder), hint=hint)


def _checkpoints(folder: Path) -> list[tuple[Path, int]]:
    """Checkpoints in a folder, step_12, checkpoint-12 or flat step_12.safetensors, by step."""
    found = [(path, int(match[1])) for path in folder.iterdir() if (match := _STEP.match(path.name))]
    usable = [(path, step) for path, step in found if path.is_dir() or settings_beside(path)]
    return sorted(usable, key=lambda one: (one[1], one[0].name))


def _from_trainer(files: Files, scratch: Path) -> Path:
    """Scores as training saw them, in the shape of eval_results.json."""
    state = _trainer_state(files)
    assert files.checkpoint_dir is not None
    losses = eval_losses(read_json(state))
    known = [(path, step) for path, step in _checkpoints(files.checkpoint_dir) if step in losses]
    if not known:
        hint = "checkpoints are step_<n> folders, or step_<n>.safetensors with adapter_config.json beside them"
        raise InputError("it has no eval_loss of any checkpoint that is there", where=str(state), hint=hint)
    entries = [{"path": path.name, "step": step, "val_loss": losses[step]} for path, step in known]
    path = scratch / "eval_results.json"
    write_json(path, {"checkpoints": entries})
    return path
