"""promote: the winner comes into service, or what is there stays; either way the cycle's end is written down."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from jobs.contracts import formats
from jobs.contracts.artifacts import history_key
from jobs.contracts.errors import ConfigError, InputError, IntegrityError, MissingInputError, UsageError
from jobs.contracts.formats import require_format
from jobs.contracts.records import Json
from jobs.contracts.store import Store, store_folder
from jobs.files import read_json, scratch_folder, write_json
from jobs.items import COMPLETE, file_digest, verify
from jobs.production import NO_ADAPTER, Production, move_link, promote, records, require_adapter
from jobs.stages import Inputs, Outputs, how

LINK = ".production"
"""In a folder store: a link to what is in service. Its name begins with a dot, so it is no key of the store."""

Outcome = Literal["Promoted", "NotPromoted", "AwaitingApproval"]


@dataclass(frozen=True)
class Config:
    """Settings of `promote`. What has been promoted is not undone by other ones."""

    mode: Literal["Automatic", "Manual"] = how("Automatic")
    approve: str | None = how(None)
    """Digest of the candidate that a person has approved."""
    after: str | None = how(None)
    """Command line that runs when the adapter is in service."""
    link: str | None = how(None)
    """Link to what is in service; in a folder store `.production` unless said, elsewhere none."""
    withhold: str | None = how(None)
    """`Reason: message`: why the winner is kept out of service after all."""


def check_finished(config: Config, result: Mapping[str, Any]) -> None:
    """ConfigError where a promotion that has finished is to be withheld now."""
    if config.withhold is not None and result.get("outcome") == "Promoted":
        raise _too_late(result.get("adapter"))


def waits(result: Mapping[str, Any]) -> bool:
    """Whether a run has ended without an end: a person has to approve."""
    return result.get("outcome") == "AwaitingApproval"


def run(config: Config, inputs: Inputs, outputs: Outputs) -> dict[str, Any]:
    """Do what the decision says. `checkpoints` is the folder that plain files' checkpoints lie in.

    Raises ConfigError where the cycle is to train again, another digest is approved, something else has come
    into service meanwhile, or the winner that is to be withheld is in service already; MissingInputError and
    IntegrityError where the adapter is gone or damaged.
    """
    path = inputs.one("decision")
    decision = _decision(path)
    withheld = _withheld(config, inputs)
    if decision["outcome"] == "KeepIncumbent":
        result = _result("NotPromoted", decision["message"], decision)
    elif withheld is not None:
        result = _result("NotPromoted", withheld["message"], decision | withheld)
    else:
        place = _files_adapter(decision, inputs) if inputs.archive is None else None
        sha256 = str(decision["winner"].get("sha256") or (place and file_digest(_weights(place))) or "")
        if not _is_approved(config, inputs, sha256):
            message = f"{decision['winner']['path']} waits to be approved: --approve {sha256}, or promotion.approve"
            return _result("AwaitingApproval", message, decision) | {"sha256": sha256}
        result = _result("Promoted", decision["message"], decision) | {"sha256": sha256}
        if place is not None:
            move_link(_link_of_files(config, place), place)
            result |= _after(config, {"ADAPTER": str(place.absolute()), "ADAPTER_SHA256": sha256})
    if inputs.archive is not None:
        _in_store(config, inputs.archive.store, inputs.cycle, decision, result)
    told = ("after_exit_code", "notes")  # of this run, not of what is in service
    write_json(outputs["production"], {name: value for name, value in result.items() if name not in told})
    return result


def _decision(path: Path) -> Json:
    decision = read_json(path)
    require_format(decision, formats.DECISION, str(path), "run select again")
    outcome = decision.get("outcome") if isinstance(decision, dict) else None
    if outcome == "Retrain":
        raise ConfigError(
            "the decision is to train again: there is nothing to promote yet",
            where=str(path),
            hint="run the next attempt from sample on, then select again",
        )
    winner = decision.get("winner") if isinstance(decision, dict) else None
    has_winner = isinstance(winner, dict) and isinstance(winner.get("path"), str)
    if outcome not in ("Promote", "KeepIncumbent") or (outcome == "Promote" and not has_winner):
        raise InputError("not a decision: select writes one", where=str(path))
    return {"message": ""} | dict(decision)


def _result(outcome: Outcome, message: str, decision: Json) -> Json:
    names = ("reason", "delta", "interval", "window_idx")
    return {"outcome": outcome, "message": message} | {name: decision.get(name) for name in names}


_WITHHOLD = re.compile(r"([A-Z][A-Za-z0-9]{0,63}): *(\S.*)", re.DOTALL)


def _withheld(config: Config, inputs: Inputs) -> Json | None:
    """Reason and message of who keeps the winner out of service; None: nobody does."""
    if config.withhold is None:
        return None
    if not (match := _WITHHOLD.fullmatch(config.withhold)):
        hint = 'such as "NotReady: no pod has answered with it within 600 s"'
        raise UsageError(f"not a reason and a message: {config.withhold!r}", where="--withhold", hint=hint)
    if inputs.archive is not None and (promoted := _promoted_by(inputs.archive.store, inputs.cycle)):
        raise _too_late(promoted.adapter)
    return {"reason": match[1], "message": match[2].rstrip()}


def _too_late(adapter: str | None) -> ConfigError:
    hint = "`refrain promote --rollback` brings back what was in service before"
    return ConfigError(f"{adapter} has been promoted: it cannot be withheld any more", where="--withhold", hint=hint)


def _is_approved(config: Config, inputs: Inputs, sha256: str) -> bool:
    """Whether the winner may be promoted; ConfigError where a person has approved another."""
    if inputs.archive is not None and _promoted_by(inputs.archive.store, inputs.cycle):
        return True
    if config.approve is not None and config.approve != sha256:
        hint = "approve the candidate by its own digest, or leave it out of service"
        raise ConfigError(f"{config.approve} is approved, but the candidate is {sha256}", where="approve", hint=hint)
    return config.mode == "Automatic" or config.approve is not None


def _promoted_by(store: Store, cycle: str) -> Production | None:
    return next((one for one in records(store) if one.action == "promote" and one.cycle == cycle), None)


def _in_store(config: Config, store: Store, cycle: str, decision: Json, result: Json) -> None:
    """Record what is in service, and how the cycle has ended."""
    incumbent = (decision.get("incumbent") or {}).get("sha256") or NO_ADAPTER
    if result["outcome"] == "Promoted":
        record: Production | None = _promote(store, cycle, decision, incumbent)
        in_service = decision["winner"]
    else:
        record = next((one for one in reversed(list(records(store))) if one.sha256 == incumbent), None)
        in_service = decision.get("in_service") or {}
    result["adapter"] = record.adapter if record else None
    result["sha256"] = record.sha256 if record else NO_ADAPTER
    result["seq"] = record.seq if record else 0
    _write_history(store, cycle, decision, result, in_service.get("val_windows", []))
    if result["outcome"] == "Promoted" and record is not None and record == list(records(store))[-1]:
        result |= serve(config, store, record)


def _promote(store: Store, cycle: str, decision: Json, incumbent: str) -> Production:
    winner = decision["winner"]
    if not winner.get("key") or not winner.get("sha256"):
        raise InputError(
            "the decision does not say where in the store its winner lies, and its digest", where="decision"
        )
    if (before := _promoted_by(store, cycle)) and before.sha256 == winner["sha256"]:
        return before
    with scratch_folder("refrain-promote-") as scratch:
        folder = require_adapter(store, winner["key"], scratch)
        _require_digest(folder, winner["sha256"], f"{store.url}/{winner['key']}")
    said = {name: decision.get(name) for name in ("reason", "delta", "interval", "message")}
    window_idx = -1 if decision.get("window_idx") is None else decision["window_idx"]
    promotion = Production(0, "promote", cycle, winner["key"], winner["sha256"], window_idx, said)
    return promote(store, promotion, incumbent)


def _require_digest(folder: Path, sha256: str, where: str) -> None:
    """IntegrityError where the adapter's digest is another than evaluate saw; what `adapter_digest` raises."""
    from jobs.ml.adapter_files import adapter_digest

    if (found := adapter_digest(folder)) != sha256:
        raise IntegrityError(
            f"its digest is {found[:16]}…, evaluate saw {sha256[:16]}…",
            where=where,
            hint="run evaluate and select with --again",
        )


def _write_history(store: Store, cycle: str, decision: Json, result: Json, val_windows: Any) -> None:
    """How the cycle ended, with the losses by week of what is in service behind it, and of what was before it."""
    names = ("window_idx", "outcome", "reason", "delta", "interval", "adapter", "sha256")
    history = {"cycle": cycle} | {name: result.get(name) for name in names} | {"val_windows": val_windows}
    history["before_val_windows"] = (decision.get("in_service") or {}).get("val_windows", [])
    window_idx = max(0, decision.get("window_idx") or 0)
    store.put(history_key(window_idx, cycle), orjson.dumps(history, option=orjson.OPT_INDENT_2))


def serve(config: Config, store: Store, record: Production) -> Json:
    """Let this machine know what is in service now: the link of a store in a folder, and the user's command."""
    folder = store_folder(store.url)
    if folder is not None:
        move_link(
            Path(config.link) if config.link else folder / LINK, folder / record.adapter if record.adapter else None
        )
    elif config.link is not None:
        raise ConfigError("a link needs an archive in a folder", where="--link", hint="see `refrain export`")
    adapter = (
        "" if record.adapter is None else str(folder / record.adapter) if folder else f"{store.url}/{record.adapter}"
    )
    facts = {"CYCLE": record.cycle, "STORE": store.url, "SEQ": str(record.seq), "WINDOW_IDX": str(record.window_idx)}
    return _after(config, {"ADAPTER": adapter, "ADAPTER_SHA256": record.sha256} | facts)


def _files_adapter(decision: Json, inputs: Inputs) -> Path:
    """The winner among plain files, checked."""
    path = Path(decision["winner"]["path"])
    folders = [*inputs.paths.get("checkpoints", []), inputs.one("decision").parent, Path()]
    names = [path, Path(path.name)]
    found = next((folder / name for folder in folders for name in names if (folder / name).exists()), None)
    if found is None:
        hint = "name the folder that it lies in with --checkpoints-dir"
        raise MissingInputError(f"the winner {path} is not there (any more)", where=str(folders[0]), hint=hint)
    if (found / COMPLETE).is_file():
        verify(found)
    elif not _weights(found).is_file():
        raise MissingInputError("no adapter: there is no adapter_model.safetensors", where=str(found))
    is_ours = (found / "refrain.json").is_file()  # of others the digest is of what evaluate made of them
    if (sha256 := decision["winner"].get("sha256")) and is_ours:
        _require_digest(found, sha256, str(found))
    return found


def _weights(adapter: Path) -> Path:
    """An adapter's weights: a folder's, or the flat file itself."""
    return adapter / "adapter_model.safetensors" if adapter.is_dir() else adapter


def _link_of_files(config: Config, adapter: Path) -> Path:
    return Path(config.link) if config.link else adapter.parent / "production"


def _after(config: Config, facts: Mapping[str, str]) -> Json:
    """Run the command; where it fails the promotion stands, for the adapter is in service, and that is told."""
    if config.after is None:
        return {}
    environment = os.environ | {f"REFRAIN_{name}": value for name, value in facts.items()}
    done = subprocess.run(["/bin/sh", "-c", config.after], env=environment, check=False, stdout=sys.stderr)  # noqa: S603
    if not done.returncode:
        return {"after_exit_code": 0}
    said = f"the command behind the promotion ended with exit code {done.returncode}; the promotion stands"
    return {"after_exit_code": done.returncode, "notes": [said]}
