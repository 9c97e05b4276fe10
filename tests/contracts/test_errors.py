"""The error hierarchy: one exit code each, and a message that says what, where and what to do."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from jobs.contracts import errors
from jobs.contracts.errors import InputError, PermanentError, RefrainError, TransientError, permanent_exit_codes

ALL = {name: cls for name, cls in vars(errors).items() if isinstance(cls, type) and issubclass(cls, RefrainError)}
CONCRETE = {name: cls for name, cls in ALL.items() if name not in ("RefrainError", "PermanentError")}


def test_exit_codes_are_unique_and_none_looks_like_success_or_a_crash():
    codes = [cls.exit_code for cls in CONCRETE.values()]
    assert len(set(codes)) == len(codes)
    assert not {0, 1, 126, 127} & set(codes)
    assert all(code < 128 or code in (130, 143) for code in codes)


def test_permanent_codes_are_what_a_job_must_not_retry():
    assert permanent_exit_codes() == [2, 65, 66, 70, 73, 76, 77, 78]
    assert not {cls.exit_code for cls in CONCRETE.values() if issubclass(cls, TransientError)} & set(
        permanent_exit_codes()
    )


def test_every_error_is_permanent_or_transient_and_drawn_in_the_picture():
    for name, cls in CONCRETE.items():
        assert issubclass(cls, PermanentError) is not issubclass(cls, TransientError)
        assert re.search(rf"── {name} +{cls.exit_code} ", str(errors.__doc__)), name


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InputError("not JSON"), "not JSON"),
        (InputError("not JSON", where="a.json, line 3"), "a.json, line 3: not JSON"),
        (InputError("not JSON", where="a.json", hint="fetch it again"), "a.json: not JSON\n  fetch it again"),
        (InputError("not JSON", hint="fetch it again"), "not JSON\n  fetch it again"),
    ],
)
def test_a_message_says_where_what_and_what_to_do(error, message):
    assert str(error) == message


def test_only_these_errors_are_raised_to_users():
    """No stage or command raises a bare Exception, RuntimeError or SystemExit, or swallows all errors."""
    root = Path(errors.__file__).parents[1]
    found = []
    for path in sorted([*root.glob("stages/*.py"), *root.glob("cli/*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and node.exc is not None:
                names = {child.id for child in ast.walk(node.exc) if isinstance(child, ast.Name)}
                found += [
                    f"{path.name}:{node.lineno}: {name}" for name in names & {"Exception", "RuntimeError", "SystemExit"}
                ]
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                found.append(f"{path.name}:{node.lineno}: bare except")
    assert found == []
