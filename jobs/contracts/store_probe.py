"""The test that a store must pass before anything is committed to it: one winner among racing writers.

Some servers and proxies accept a conditional write and ignore the condition; some check it and
race. Either would let two writers overwrite each other's segment of the log, silently.
"""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from jobs.contracts.errors import MissingInputError, RefrainError, TransientError, UnfitStoreError
from jobs.contracts.store import Store

NUM_RACERS = 24
_HINT = "use AWS S3, MinIO, SeaweedFS 4.18 or later, or a local folder; check any proxy in front of the store"


def prove_conditional_writes(store: Store) -> None:
    """Race writers for one new key, and require that exactly one wins and that its bytes are the ones stored.

    Leaves nothing behind. Raises UnfitStoreError, and whatever the store raises.
    """
    key = f"probe/{uuid.uuid4().hex}"
    try:
        _judge(store, key, _race(store, key))
    except TransientError:  # who does not answer would not answer to a delete either
        raise
    except RefrainError:
        _remove(store, key)
        raise
    _remove(store, key)


def _race(store: Store, key: str) -> list[int]:
    """The racers that were told that they won."""
    barrier = threading.Barrier(NUM_RACERS)

    def put(racer: int) -> bool:
        barrier.wait()
        return store.put_if_absent(key, _body(racer))

    with ThreadPoolExecutor(NUM_RACERS) as pool:
        won = list(pool.map(put, range(NUM_RACERS)))
    return [racer for racer, winner in enumerate(won) if winner]


def _remove(store: Store, key: str) -> None:
    with suppress(RefrainError):  # an archive may well be one that nobody may delete from
        store.delete(key)


def _body(racer: int) -> bytes:
    return f"racer {racer}".encode()


def _judge(store: Store, key: str, winners: list[int]) -> None:
    if len(winners) != 1:
        raise UnfitStoreError(
            f"conditional writes do not work: {len(winners)} of {NUM_RACERS} racing writers of one key were told "
            "that they won, instead of one",
            where=store.url,
            hint=_HINT,
        )
    try:
        stored = store.get(key)
    except MissingInputError:
        stored = b""
    if stored != _body(winners[0]):
        raise UnfitStoreError(
            f"conditional writes do not work: of {NUM_RACERS} racing writers of one key one was told that it won, "
            "but another's bytes were stored",
            where=store.url,
            hint=_HINT,
        )
