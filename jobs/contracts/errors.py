"""The one error hierarchy. Every error has an exit code; a Job's failure policy is derived from them.

    RefrainError
    ├── PermanentError              the same again would fail the same way
    │   ├── UsageError          2   a flag or argument is wrong
    │   ├── InputError         65   a file or record is not what it should be
    │   ├── MissingInputError  66   a file, bucket or object is not there
    │   ├── IntegrityError     70   stored data contradicts itself: the log's chain, a digest
    │   ├── OutputError        73   a result cannot be written: permissions, a full disk
    │   ├── UnfitStoreError    76   a store without working conditional writes
    │   ├── AccessError        77   credentials are missing or refused
    │   └── ConfigError        78   settings contradict each other, or those an archive was begun with
    └── TransientError         75   worth trying again: time-outs, a store that is overloaded
        └── StoppedError      143   told to stop (SIGTERM); what was done is saved
            └── CtrlCError    130   the same, by Ctrl-C (SIGINT)

The numbers are those of BSD's sysexits.h where it has one.
"""

from __future__ import annotations

from typing import ClassVar


class RefrainError(Exception):
    """Anything that a user is told in one message instead of a traceback.

    `what` is wrong, `where` it stands (file, offset, field, key), and the `hint`: what to do.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  {self.hint}" if self.hint else text


class PermanentError(RefrainError):
    """The same command on the same input would fail the same way."""


class UsageError(PermanentError):
    """A flag or an argument is wrong."""

    exit_code = 2


class InputError(PermanentError):
    """A file or a record is not what it should be."""

    exit_code = 65


class MissingInputError(PermanentError):
    """A file, a bucket or an object is not there."""

    exit_code = 66


class IntegrityError(PermanentError):
    """Stored data contradicts itself: a broken hash chain, a digest that does not match."""

    exit_code = 70


class OutputError(PermanentError):
    """A result cannot be written: permissions, a full disk."""

    exit_code = 73


class UnfitStoreError(PermanentError):
    """The store does not hold what the log needs of it: conditional writes with one winner."""

    exit_code = 76


class AccessError(PermanentError):
    """Credentials are missing, or were refused."""

    exit_code = 77


class ConfigError(PermanentError):
    """Settings contradict each other, or those that the archive was begun with."""

    exit_code = 78


class TransientError(RefrainError):
    """Worth trying again: a time-out, a refused connection, an overloaded store."""

    exit_code = 75


class StoppedError(TransientError):
    """Told to stop by SIGTERM; what was done so far is saved."""

    exit_code = 143


class CtrlCError(StoppedError):
    """Stopped by Ctrl-C (SIGINT); what was done so far is saved, and the same command goes on."""

    exit_code = 130


def permanent_exit_codes() -> list[int]:
    """Exit codes that a Job must not retry, ascending."""
    codes: set[int] = set()
    pending: list[type[RefrainError]] = [PermanentError]
    while pending:
        cls = pending.pop()
        pending += cls.__subclasses__()
        if cls is not PermanentError:
            codes.add(cls.exit_code)
    return sorted(codes)
