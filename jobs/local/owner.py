"""Cycles of one archive run one at a time.

In a folder a lock of the system holds the others off, and they wait: it is free whatever ends its
holder. An S3 store has no locks, so a run claims the archive there: of the numbered objects under
`owner/` the newest counts, and the one that wrote it by a conditional write is the owner, until it
takes its claim back. A claim whose run has died stays. This machine's own are known to be dead, by a
lock file here that its runs hold; somebody else's has to be broken by a person who knows.
"""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from jobs.contracts.artifacts import SEQ_DIGITS, owner_key
from jobs.contracts.errors import MissingInputError, OutputError, TransientError
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
    elsewhere has the archive, unless `take_over` says that it is dead.
    """
    folder = store_folder(url)
    if folder is not None:
        with unless_unused(folder):
            store = open_store(url, options)
            with one_at_a_time(folder / LOCK, lambda: say(_WAITING)):
                yield Ownership(store)
        return
    store = open_store(url, options)
    with _machine_lock(url, say) as token:
        claim = _claim(store, Claim(cycle, socket.gethostname(), os.getpid(), token), take_over=take_over)
        try:
            yield Ownership(store, claim)
        finally:
            _release(store, claim)


_WAITING = "another run has this archive: waiting for it to end"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a run says of itself in an S3 store."""

    cycle: str
    host: str
    pid: int
    machine: str
    """Token of the lock file that the run holds on its machine."""
    seq: int = 0


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
        if newest is None or newest.seq != self.claim.seq:
            raise TransientError(
                "another run has taken the archive over" if newest else "this run's claim is gone",
                where=self.store.url,
                hint="what was finished is kept; the same command goes on from there when the other has ended",
            )


def _claim(store: Store, claim: Claim, *, take_over: bool) -> Claim:
    """Become the owner; TransientError where somebody else is."""
    newest = _newest(store)
    if newest is not None and newest.machine != claim.machine and not take_over:
        raise _taken(store, newest)
    ours = Claim(claim.cycle, claim.host, claim.pid, claim.machine, newest.seq + 1 if newest else 1)
    if not store.put_if_absent(owner_key(ours.seq), orjson.dumps(asdict(ours))):
        raise _taken(store, _newest(store) or ours)
    for key in _keys(store):
        if key < owner_key(ours.seq):
            store.delete(key)
    return ours


def _release(store: Store, claim: Claim) -> None:
    with suppress(TransientError):  # the next run here knows that we are gone
        store.delete(owner_key(claim.seq))


def _newest(store: Store) -> Claim | None:
    for key in reversed(_keys(store)):
        with suppress(MissingInputError):  # taken back since it was listed
            return Claim(**orjson.loads(store.get(key)))
    return None


def _keys(store: Store) -> list[str]:
    return [key for key in store.list(_PREFIX) if len(Path(key).stem) == SEQ_DIGITS]


def _taken(store: Store, claim: Claim) -> TransientError:
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
