"""The test that a store must pass before anything is committed to it: one winner among racing writers.

Some servers and proxies accept a conditional write and ignore the condition; some check it and
race. Either would let two writers overwrite each other's segment of the log, silently.
"""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from jobs.contracts.errors import AccessError, MissingInputError, UnfitStoreError
from jobs.contracts.store import Store

NUM_RACERS = 24
_HINT = "use AWS S3, MinIO, SeaweedFS 4.18 or later, or a local folder; check any proxy in front of the store"


def prove_conditional_writes(store: Store) -> None:
    """Race writers for one new key, and require that exactly one wins and that its bytes are the ones stored.

    Leaves nothing behind. Raises UnfitStoreError, and whatever the store raises.
    """
    key = f"probe/{uuid.uuid4().hex}"
    barrier = threading.Barrier(NUM_RACERS)

    def race(racer: int) -> bool:
        barrier.wait()
        return store.put_if_absent(key, _body(racer))

    try:
        with ThreadPoolExecutor(NUM_RACERS) as pool:
            won = list(pool.map(race, range(NUM_RACERS)))
        _judge(store, key, [racer for racer, winner in enumerate(won) if winner])
    finally:
        with suppress(AccessError):  # an archive may well be one that nobody may delete from
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
