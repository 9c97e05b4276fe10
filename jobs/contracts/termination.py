"""The termination message: what a stage's pod tells the controller at its end. Pure.

JSON, and never longer than what a kubelet keeps:

    {"stage": "train", "attempt": 0, "result": {…}, "omitted": ["notes", …]}
    {"stage": "train", "attempt": 0, "error": {"kind": "InputError", "exitCode": 65, "what": …, "where": …, "hint": …}}

Of a result that does not fit the largest parts are left out first, and named; those that decide how the
cycle goes on stay to the last. Nothing but the marker in the store is the truth: a message may be lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from jobs.contracts import errors
from jobs.contracts.errors import RefrainError
from jobs.contracts.records import Json
from jobs.contracts.stages import STAGES

MAX_BYTES = 4096
"""What a kubelet keeps of it."""
DEFECT_EXIT_CODE = 1
"""How Python ends after an error that no user should see."""

_DECIDES = {
    "split": ("window_idx", "log"),
    "window": ("window_idx", "skipped"),
    "select": (
        *("outcome", "reason", "message", "window_idx", "winner.path", "winner.sha256", "winner.key", "delta"),
        *("interval", "candidate.adapter", "candidate.sha256", "incumbent.sha256", "incumbent.key"),
    ),
    "promote": ("outcome", "reason", "message", "adapter", "sha256", "seq", "delta", "interval", "window_idx"),
}
"""By stage, the parts of a result that the next step and the cycle's status are made of."""
assert _DECIDES.keys() <= {row.name for row in STAGES}

_SHORT_BYTES = 512
"""What is left of a text that is shortened, at least."""
_NAMES_BYTES = 512
"""What the names of omitted parts take at most; the last is `…` where there are more."""

_Parts = dict[tuple[str, ...], Any]
"""A result's values by their names: those of a map in it one by one."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a stage failed."""

    kind: str
    """The error's class in `jobs.contracts.errors`; for a defect Python's own name of it."""
    exit_code: int
    what: str
    where: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Termination:
    """What a stage told at its end: a result or a failure."""

    stage: str
    attempt: int
    result: Json | None = None
    failure: Failure | None = None
    omitted: tuple[str, ...] = ()
    """What of the result did not fit, as far as there was room to name it."""


def encode_result(stage: str, attempt: int, result: Mapping[str, Any]) -> bytes:
    """The message of a stage that has succeeded."""
    parts: _Parts = dict(_parts(orjson.loads(orjson.dumps(result))))
    omitted: list[str] = []
    message = _message(stage, attempt, parts, omitted)
    while len(message) > MAX_BYTES:
        _make_smaller(stage, parts, omitted, len(message) - MAX_BYTES)
        message = _message(stage, attempt, parts, omitted)
    return message


def encode_error(stage: str, attempt: int, error: BaseException) -> bytes:
    """The message of a stage that has failed. What is no RefrainError is a defect."""
    said = {"kind": _kind(error), "exitCode": DEFECT_EXIT_CODE, "what": _clean(str(error)), "where": "", "hint": ""}
    if isinstance(error, RefrainError):
        said |= {"exitCode": error.exit_code, "what": _clean(error.what)}
        said |= {"where": _clean(error.where), "hint": _clean(error.hint)}
    while len(message := orjson.dumps({"stage": stage, "attempt": attempt, "error": said})) > MAX_BYTES:
        longest = max(("what", "where", "hint"), key=lambda name: len(orjson.dumps(said[name])))
        said[longest] = _shortened(str(said[longest]), len(message) - MAX_BYTES)
    return message


def decode(message: str | bytes | None, stage: str, attempt: int) -> Termination | None:
    """What a stage has told; None for what is missing, cut off, not such a message, or another's."""
    try:
        value = orjson.loads(message or b"")
        if (value["stage"], value["attempt"]) != (stage, attempt) or type(value["attempt"]) is not int:
            return None
        if isinstance(result := value.get("result"), dict):
            return Termination(stage, attempt, result=result, omitted=tuple(map(str, value.get("omitted", ()))))
        said = value["error"]
        texts = (str(said.get(name, "")) for name in ("what", "where", "hint"))
        return Termination(stage, attempt, failure=Failure(str(said["kind"]), int(said["exitCode"]), *texts))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _kind(error: BaseException) -> str:
    """The nearest class that the controller knows."""
    return next(
        (cls.__name__ for cls in type(error).__mro__ if cls.__module__ == errors.__name__), type(error).__name__
    )


def _clean(text: str) -> str:
    """Without halves of characters, such as names of files may hold."""
    return text.encode("utf-8", "replace").decode()


def _parts(result: Json) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in result.items():
        if isinstance(value, dict) and value:
            yield from (((name, inner), one) for inner, one in value.items())
        else:
            yield (name,), value


def _message(stage: str, attempt: int, parts: _Parts, omitted: list[str]) -> bytes:
    result: Json = {}
    for names, value in parts.items():
        place = result if len(names) == 1 else result.setdefault(names[0], {})
        place[names[-1]] = value
    said: Json = {"stage": stage, "attempt": attempt, "result": result}
    return orjson.dumps(said | ({"omitted": _named(omitted)} if omitted else {}))


def _named(omitted: list[str]) -> list[str]:
    """The names, in the order in which they were left out, as far as there is room for them."""
    names: list[str] = []
    room = _NAMES_BYTES
    for name in omitted:
        room -= len(orjson.dumps(name)) + 1
        if room < 0:
            return [*names, "…"]
        names.append(name)
    return names


def _make_smaller(stage: str, parts: _Parts, omitted: list[str], too_many: int) -> None:
    """Leave out the largest of the least important; before that is a count, shorten the texts that decide."""
    sizes = {names: len(orjson.dumps(value)) + sum(map(len, names)) for names, value in parts.items()}
    names = max(parts, key=lambda one: (_rank(stage, one), sizes[one]))
    if _rank(stage, names) < _OTHER and (text := _longest_text(stage, parts)) is not None:
        parts[text] = _shortened(parts[text], too_many, _SHORT_BYTES)
        return
    del parts[names]
    omitted.append(".".join(names))


_DECIDING, _COUNT, _OTHER = range(3)


def _rank(stage: str, names: tuple[str, ...]) -> int:
    deciding = _DECIDES.get(stage, ())
    if names[0] in deciding or ".".join(names) in deciding:
        return _DECIDING
    return _COUNT if names[0].startswith("num_") else _OTHER


def _longest_text(stage: str, parts: _Parts) -> tuple[str, ...] | None:
    """The longest of the deciding texts that may be shortened yet; None: there is none."""
    names = [one for one, value in parts.items() if _rank(stage, one) == _DECIDING and isinstance(value, str)]
    longest = max(names, key=lambda one: len(orjson.dumps(parts[one])), default=None)
    return longest if longest is not None and len(orjson.dumps(parts[longest])) > _SHORT_BYTES else None


def _shortened(text: str, too_many: int, least: int = 0) -> str:
    """The text without its last bytes, as JSON counts them, and with `…` at its end; some bytes are left at least."""
    room = max(least, len(orjson.dumps(text)) - too_many) - len('"…"'.encode())
    kept = 0
    for character in text:
        room -= len(orjson.dumps(character)) - 2
        if room < 0:
            break
        kept += 1
    return text[:kept] + "…"
