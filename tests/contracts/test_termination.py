"""What a stage's pod tells at its end: it always fits, and what decides is in it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contracts.errors import InputError, OutputError, RefrainError, StoppedError, TransientError
from jobs.contracts.progression import Step, next_step
from jobs.contracts.stages import STAGES
from jobs.contracts.termination import MAX_BYTES, Failure, Termination, decode, encode_error, encode_result

LEAVES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
KEYS = st.text(max_size=30) | st.sampled_from(["outcome", "message", "winner", "num_new", "log", "notes", "skipped"])
LONG = st.builds(lambda text, times: text * times, st.text(max_size=20), st.integers(0, 600))
VALUES = st.recursive(
    LEAVES | st.text(max_size=80) | LONG,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=8,
)
RESULTS = st.dictionaries(KEYS, VALUES, max_size=20)
NAMES = st.sampled_from([row.name for row in STAGES])


def flat(result: dict[str, Any]) -> dict[str, Any]:
    """A result's parts by their dotted names, as `omitted` has them."""
    parts: dict[str, Any] = {}
    for name, value in result.items():
        if isinstance(value, dict) and value:
            parts |= {f"{name}.{inner}": one for inner, one in value.items()}
        else:
            parts[name] = value
    return parts


@given(NAMES, st.integers(0, 10), RESULTS)
def test_a_result_always_fits_and_what_is_missing_is_named(stage: str, attempt: int, result: dict[str, Any]) -> None:
    message = encode_result(stage, attempt, result)
    assert len(message) <= MAX_BYTES
    told = decode(message, stage, attempt)
    assert told is not None
    assert told.result is not None
    given_parts, kept = flat(result), flat(told.result)
    whole = orjson.dumps({"stage": stage, "attempt": attempt, "result": result})
    if len(whole) <= MAX_BYTES:
        assert message == whole
    for name in given_parts.keys() - kept.keys():
        assert name in told.omitted or told.omitted[-1] == "…"
    for name, value in kept.items():
        is_shortened = isinstance(value, str) and value.endswith("…") and given_parts[name].startswith(value[:-1])
        assert value == given_parts[name] or is_shortened


@given(
    NAMES, st.text(), st.text(max_size=9000) | LONG, st.text(max_size=900), st.sampled_from([InputError, OutputError])
)
def test_a_failure_always_fits(stage: str, what: str, where: str, hint: str, error: type[RefrainError]) -> None:
    message = encode_error(stage, 0, error(what, where=where + "\udcff", hint=hint * 9))
    assert len(message) <= MAX_BYTES
    told = decode(message.decode(), stage, 0)
    assert told is not None
    assert told.failure is not None
    assert (told.failure.kind, told.failure.exit_code) == (error.__name__, error.exit_code)
    if len(what) + len(where) + 9 * len(hint) < 300:
        assert told.failure == Failure(error.__name__, error.exit_code, what, f"{where}?", hint * 9)


@given(st.binary(max_size=60) | st.text(max_size=60) | VALUES.map(orjson.dumps))
def test_garbage_is_none(message: bytes | str) -> None:
    assert decode(message, "train", 0) is None


def test_what_was_cut_off_is_none() -> None:
    message = encode_result("train", 0, DECISION)
    assert all(decode(message[:length], "train", 0) is None for length in range(len(message)))


@pytest.mark.parametrize(
    "message", [None, "", b"", '{"stage": "train", "attempt": 0}', '{"stage": "train"}', "[]", "7"]
)
def test_nothing_told(message: str | bytes | None) -> None:
    assert decode(message, "train", 0) is None


def test_another_stage_or_attempt_told_it() -> None:
    message = encode_result("train", 1, {"num_steps": 3})
    assert decode(message, "train", 1) == Termination("train", 1, {"num_steps": 3})
    assert decode(message, "train", 0) is None
    assert decode(message, "evaluate", 1) is None
    assert decode(message.replace(b'"attempt":1', b'"attempt":true'), "train", 1) is None


BULK = {f"score_{number:03}": "x" * 90 for number in range(99)} | {"notes": ["a note" * 20] * 90}
SHA = "c" * 64
DECISION = {
    "outcome": "Retrain",
    "reason": "SmallGain",
    "message": "a gain of +0.50% is under the threshold of 2.00%",
    "delta": 0.005,
    "interval": [-0.01, 0.02],
    "winner": {"path": "step_3", "attempt": 0, "sha256": SHA, "key": "cycles/w/train/checkpoints/step_3"},
    "candidate": {"adapter": "cycles/w/train/checkpoints/step_3", "sha256": SHA, "scores": BULK},
    "num_candidates": 7,
}


@pytest.mark.parametrize(
    ("stage", "result"),
    [
        ("split", {"window_idx": 7, "num_new": 9, "log": {"seq": 3, "sha256": SHA}}),
        ("window", {"window_idx": 7, "skipped": True, "num_new_train_messages": 3}),
        ("select", DECISION),
        ("promote", {"outcome": "Promoted", "reason": "Better", "message": "because", "sha256": SHA, "seq": 4}),
    ],
)
def test_what_decides_is_kept_beside_any_bulk(stage: str, result: dict[str, Any]) -> None:
    told = decode(encode_result(stage, 0, BULK | result), stage, 0)
    assert told is not None
    assert told.result is not None
    assert next_step(Step(stage), told.result) == next_step(Step(stage), result)
    assert "notes" in told.omitted
    wanted = {name: value for name, value in flat(result).items() if not name.startswith("candidate.scores")}
    assert wanted.items() <= flat(told.result).items()
    assert any(name.startswith("score_") for name in told.result), "what fits is told"


def test_a_long_message_is_shortened_and_said_to_be() -> None:
    result = {"outcome": "NotPromoted", "reason": "NotBetter", "message": "ä" * 9000}
    told = decode(encode_result("promote", 2, result), "promote", 2)
    assert told is not None
    assert told.result is not None
    assert told.result["message"].startswith("ä" * 1900)
    assert told.result["message"].endswith("ä…")
    assert (told.result["outcome"], told.omitted) == ("NotPromoted", ())


class OvertakenError(TransientError):
    """As one that a stage has for itself."""


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (InputError("bad", where="a.mbox", hint="fetch"), Failure("InputError", 65, "bad", "a.mbox", "fetch")),
        (OvertakenError("late"), Failure("TransientError", 75, "late")),
        (StoppedError("told to stop"), Failure("StoppedError", 143, "told to stop")),
        (ZeroDivisionError("division by zero"), Failure("ZeroDivisionError", 1, "division by zero")),
    ],
)
def test_failures(error: Exception, failure: Failure) -> None:
    assert decode(encode_error("parse", 0, error), "parse", 0) == Termination("parse", 0, failure=failure)
