"""Cycles of one archive run one at a time.

In a folder a lock of the system holds the others off, and they wait: it is free whatever ends its
holder. An S3 store has no locks, so a run claims the archive there: of the numbered objects under
`owner/` the newest counts, and the one that wrote it by a conditional write is the owner, until it
takes its claim back. A claim whose run has died stays. This machine's own are known to be dead, by a
lock file here that its runs hold; somebody else's has to be broken by a person who knows.

Who runs stages one by one, as a cluster does, claims the archive once, in a folder too, under a name of
its own, and keeps it: all stages that say this name go on, and everybody else is refused.
"""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import orjson

from jobs.contracts.artifacts import SEQ_DIGITS, owner_key
from jobs.contracts.errors import ConfigError, MissingInputError, OutputError, RefrainError, TransientError
from jobs.contracts.folder_store import LOCK, unless_unused
from jobs.contracts.store import Store, open_store, store_folder
from jobs.contracts.store import StoreOptions as Options
from jobs.files import one_at_a_time, output_error

Say = Callable[[str], object]
_PREFIX = "owner/"


@contextmanager
def owned(url: str, cycle: str, options: Options, *, say: Say, take_over: bool = False) -> Iterator[Ownership]:
    """The archive at `url` as one run's own while the block runs: waits where another one here has it.

    The store is opened for writing, and made where there is none. Raises TransientError where a run
    elsewhere has the archive, ConfigError where a cluster has claimed it, unless `take_over` is said.
    """
    claim = Claim(cycle, socket.gethostname(), os.getpid(), _FOLDER_LOCK)
    folder = store_folder(url)
    if folder is not None:
        with unless_unused(folder):
            store = open_store(url, options)
            with one_at_a_time(folder / LOCK, lambda: say(_WAITING)):
                newest = _newest(store)
                if newest is None or not newest.owner:  # the lock says enough
                    yield Ownership(store)
                else:
                    with _claimed_while(store, claim, take_over=take_over) as ownership:
                        yield ownership
        return
    store = open_store(url, options)
    with (
        _machine_lock(url, say) as token,
        _claimed_while(store, replace(claim, machine=token), take_over=take_over) as ownership,
    ):
        yield ownership


_WAITING = "another run has this archive: waiting for it to end"
_FOLDER_LOCK = "lock"
"""Token of the lock in an archive's own folder."""


def claimed(url: str, cycle: str, options: Options, *, owner: str, say: Say, take_over: bool = False) -> Store:
    """The store at `url`, opened for writing, claimed for an owner who runs its stages one by one.

    The claim stays, and the owner's further stages find it. Raises ConfigError where another such owner has
    the archive, TransientError where a run does, unless `take_over` is said. In a folder waits for a run's end.
    """
    store = open_store(url, options)
    folder = store_folder(url)
    with one_at_a_time(folder / LOCK, lambda: say(_WAITING)) if folder else nullcontext():
        claim = Claim(cycle, "", 0, _FOLDER_LOCK if folder else "", owner=owner)
        _claim(store, claim, take_over=take_over)
    return store


def require_unclaimed(store: Store, *, take_over: bool = False) -> None:
    """ConfigError where an owner has claimed the archive; `take_over` takes it from them and gives it to nobody."""
    newest = _newest(store)
    if newest is None or not newest.owner:
        return
    if not take_over:
        raise _taken(store, newest)
    for key in _keys(store):
        store.delete(key)


def require_own(store: Store, owner: str) -> None:
    """ConfigError where another owner has claimed the archive; nothing is written."""
    newest = _newest(store)
    if newest is not None and newest.owner not in ("", owner):
        raise _taken(store, newest)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a run, or an owner of single stages, says of itself in a store."""

    cycle: str
    host: str
    pid: int
    machine: str
    """Token of the lock that its writer held; empty where there is none."""
    seq: int = 0
    owner: str = ""
    """Name of who runs single stages; empty for a run."""
    run: str = ""
    """Tells a run's claim from all others: numbers begin anew once none is left. An owner is known by its name."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """A store that this run alone may change the cycles of."""

    store: Store
    claim: Claim | None = None
    """None where a lock of the system stands for it."""

    def check(self) -> None:
        """TransientError where somebody has broken the claim meanwhile: two runs must not go on."""
        if self.claim is None:
            return
        newest = _newest(self.store)
        if newest != self.claim:
            raise TransientError(
                "another run has taken the archive over" if newest else "this run's claim is gone",
                where=self.store.url,
                hint="what was finished is kept; the same command goes on from there when the other has ended",
            )


@contextmanager
def _claimed_while(store: Store, claim: Claim, *, take_over: bool) -> Iterator[Ownership]:
    ours = _claim(store, claim, take_over=take_over)
    try:
        yield Ownership(store, ours)
    finally:
        _release(store, ours)


def _claim(store: Store, claim: Claim, *, take_over: bool) -> Claim:
    """Become the owner, where nobody is; TransientError or ConfigError where somebody else is."""
    newest = _newest(store)
    if newest is not None and _is_same_owner(newest, claim):
        return newest
    if newest is not None and not _has_ended(newest, claim) and not take_over:
        raise _taken(store, newest)
    run = "" if claim.owner else uuid.uuid4().hex  # an owner's claim is the same bytes, whoever of theirs wrote it
    ours = replace(claim, seq=newest.seq + 1 if newest else 1, run=run)
    if not store.put_if_absent(owner_key(ours.seq), orjson.dumps(asdict(ours))):
        first = _newest(store) or ours
        if _is_same_owner(first, claim):
            return first
        raise _taken(store, first)
    for key in _keys(store):
        if key < owner_key(ours.seq):
            store.delete(key)
    return ours


def _is_same_owner(newest: Claim, claim: Claim) -> bool:
    return newest.owner != "" and newest.owner == claim.owner


def _has_ended(newest: Claim, claim: Claim) -> bool:
    """Whether a claim is of a run that held the lock which is held now."""
    return not newest.owner and newest.machine != "" and newest.machine == claim.machine


def _release(store: Store, claim: Claim) -> None:
    """Take a claim back, and nobody else's that may stand under its number by now."""
    with suppress(TransientError, MissingInputError):  # the next run here knows that we are gone
        if _read(store, owner_key(claim.seq)) == claim:
            store.delete(owner_key(claim.seq))


def _newest(store: Store) -> Claim | None:
    for key in reversed(_keys(store)):
        with suppress(MissingInputError):  # taken back since it was listed
            return _read(store, key)
    return None


def _read(store: Store, key: str) -> Claim:
    return Claim(**orjson.loads(store.get(key)))


def _keys(store: Store) -> list[str]:
    return [key for key in store.list(_PREFIX) if len(Path(key).stem) == SEQ_DIGITS]


def _taken(store: Store, claim: Claim) -> RefrainError:
    if claim.owner:
        return ConfigError(
            f"this archive belongs to {claim.owner}, which claimed it for its cycle {claim.cycle}",
            where=store.url,
            hint="let its cycles run there; if it is gone for good, --take-over takes the archive from it",
        )
    return TransientError(
        f"cycle {claim.cycle} of this archive is run by process {claim.pid} on {claim.host}",
        where=store.url,
        hint="wait until it has ended; if it is dead, say --take-over",
    )


@contextmanager
def _machine_lock(url: str, say: Say) -> Iterator[str]:
    """Hold the lock file of an archive on this machine; a token that tells its file from all others.

    A claim with the same token is of a run that held this lock, and so has ended.
    """
    path = _lock_folder() / f"{hashlib.sha256(url.encode()).hexdigest()[:24]}.owner"
    with one_at_a_time(path, lambda: say(_WAITING)):
        yield _token(path)


def _lock_folder() -> Path:
    """A folder of this user's alone, where every process on this machine finds it; OutputError."""
    folder = Path(tempfile.gettempdir()) / f"refrain-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise OutputError("the folder is somebody else's", where=str(folder), hint="name another one in TMPDIR")
    except OSError as error:
        raise output_error(folder, error) from error
    return folder


def _token(path: Path) -> str:
    """What a lock file, which is held, is known by."""
    try:
        if not path.read_text():
            path.write_text(uuid.uuid4().hex)
        return path.read_text()
    except OSError as error:
        raise output_error(path, error) from error
