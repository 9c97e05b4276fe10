"""What goes wrong on the way to an S3 server, and stores that are unfit."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

import pytest
from servers import proxy as fault
from servers.stores import MANY_BYTES

from jobs.contracts.errors import TransientError, UnfitStoreError
from jobs.contracts.store import Store, StoreOptions, open_store
from jobs.contracts.store_probe import prove_conditional_writes

if TYPE_CHECKING:
    from servers.proxy import FaultProxy


@pytest.fixture
def proxied_store(proxy: FaultProxy) -> Store:
    """A store behind the proxy, opened while the proxy did no harm; its writes are numbered from 1."""
    store = open_store(f"s3://{proxy.server.make_bucket()}/archive")
    proxy.writes.clear()
    return store


@pytest.mark.parametrize(
    "harm",
    [
        fault.lose_answer,
        fault.lose_request,
        fault.answer_after_commit(500, "InternalError"),
        fault.answer_after_commit(503, "SlowDown"),
        fault.answer(409, "ConditionalRequestConflict"),
        fault.answer(500, "InternalError"),
        fault.answer(429, "TooManyRequests"),
    ],
)
def test_a_conditional_write_survives_a_lost_or_failed_answer(
    proxy: FaultProxy, proxied_store: Store, harm: fault.Harm
) -> None:
    proxy.harms = {1: harm, 2: harm}
    assert proxied_store.put_if_absent("a", b"ours")
    assert proxied_store.get("a") == b"ours"
    assert len(proxy.writes) == 3
    assert not proxied_store.put_if_absent("a", b"ours")


def test_a_lost_answer_does_not_make_anothers_write_ours(proxy: FaultProxy, proxied_store: Store) -> None:
    """Our request is lost, another writer comes first with the very same bytes: it is theirs."""
    other = open_store(proxied_store.url, StoreOptions(endpoint=proxy.behind.endpoint))

    def overtaken(proxy: FaultProxy, request: fault.Request) -> None:
        assert other.put_if_absent("a", b"same")

    proxy.harms = {1: overtaken}
    assert not proxied_store.put_if_absent("a", b"same")


@pytest.mark.parametrize("harm", [fault.lose_request, fault.answer(503, "SlowDown"), fault.answer(409, "Conflict")])
def test_a_store_in_lasting_trouble_is_a_transient_error(
    proxy: FaultProxy, proxied_store: Store, harm: fault.Harm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.contracts.s3_store._PAUSES_SECONDS", (0.001, 0.001))
    proxy.every_write = harm
    with pytest.raises(TransientError, match=proxy.server.endpoint):
        proxied_store.put_if_absent("a", b"ours")
    assert len(proxy.writes) == 3
    proxy.every_write = None
    assert not proxied_store.exists("a")


def test_a_stream_goes_on_after_a_broken_connection(proxy: FaultProxy, proxied_store: Store) -> None:
    proxied_store.put("a", MANY_BYTES)
    proxy.every_read = fault.cut_body
    with proxied_store.open("a") as stream:
        assert hashlib.sha256(stream.read()).digest() == hashlib.sha256(MANY_BYTES).digest()


def test_a_stream_does_not_mix_two_versions(proxy: FaultProxy, proxied_store: Store) -> None:
    proxied_store.put("a", MANY_BYTES)
    proxy.every_read = fault.cut_body
    with proxied_store.open("a") as stream:
        assert stream.read(10) == MANY_BYTES[:10]
        proxied_store.put("a", MANY_BYTES[::-1])
        with pytest.raises(TransientError, match="replaced"):
            stream.read()


@pytest.mark.parametrize("unfit", [fault.ignore_condition, fault.race, fault.overwrite])
def test_unfit_stores_are_refused(proxy: FaultProxy, unfit: fault.Harm) -> None:
    bucket = proxy.server.make_bucket()
    proxy.every_write = unfit
    with pytest.raises(UnfitStoreError, match="conditional writes do not work") as caught:
        open_store(f"s3://{bucket}/archive")
    assert "MinIO" in caught.value.hint
    proxy.every_write = None
    assert list(open_store(f"s3://{bucket}/archive").list()) == [], "the probe's key is removed"


class _StoresTheLast:
    """A store that tells one writer that it won, and keeps what the last one wrote."""

    url = "test://unfit"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._num_writes = 0

    def put_if_absent(self, key: str, data: bytes) -> bool:
        with self._lock:
            self.objects[key] = data
            self._num_writes += 1
            return self._num_writes == 1

    def get(self, key: str) -> bytes:
        return self.objects[key]

    def delete(self, key: str) -> None:
        del self.objects[key]


def test_one_winner_is_not_enough_if_anothers_bytes_are_stored() -> None:
    store = _StoresTheLast()
    with pytest.raises(UnfitStoreError, match="another's bytes"):
        prove_conditional_writes(store)  # type: ignore[arg-type]
    assert store.objects == {}
