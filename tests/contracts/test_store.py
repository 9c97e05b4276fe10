"""One suite over every store, and what is particular to the S3 ones."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from servers import proxy as fault
from servers.minio import running_minio
from servers.s3 import S3Server, free_port

from jobs.contracts.errors import (
    AccessError,
    ConfigError,
    InputError,
    MissingInputError,
    OutputError,
    TransientError,
    UnfitStoreError,
    UsageError,
)
from jobs.contracts.store import Store, StoreOptions, open_archive, open_store
from jobs.contracts.store_probe import NUM_RACERS, prove_conditional_writes

if TYPE_CHECKING:
    from servers.proxy import FaultProxy
    from servers.stores import NewStore

MANY_BYTES = bytes(range(256)) * 20_000
"""Some 5 MB: more than any buffer."""


@pytest.fixture
def store(new_store: NewStore) -> Store:
    return open_store(new_store())


def test_what_is_put_is_what_is_got(store: Store) -> None:
    for data in (b"", b"\0\xff", MANY_BYTES):
        store.put("a/b.bin", data)
        assert store.get("a/b.bin") == data
        with store.open("a/b.bin") as stream:
            assert stream.read() == data


def test_a_stream_is_seekable(store: Store) -> None:
    store.put("a", MANY_BYTES)
    with store.open("a") as stream:
        assert stream.seek(-10, 2) == len(MANY_BYTES) - 10
        assert stream.read() == MANY_BYTES[-10:]
        stream.seek(1_000_003)
        assert stream.read(5) == MANY_BYTES[1_000_003:1_000_008]
        assert stream.tell() == 1_000_008


def test_absent_objects(store: Store) -> None:
    assert not store.exists("a")
    with pytest.raises(MissingInputError, match="no such object"):
        store.get("a")
    with pytest.raises(MissingInputError, match="a"):
        store.open("a")
    store.delete("a")
    store.put("a/b", b"")
    assert not store.exists("a")
    with pytest.raises(MissingInputError):
        store.get("a")


def test_an_archive_below_the_place_that_was_named_is_pointed_at(new_store: NewStore) -> None:
    url = new_store()
    open_store(url).put("pictures/cat", b"")
    assert list(open_archive(url).list()) == ["pictures/cat"]
    open_store(url).put("raid/cycles/w1/parse/cursor.json", b"{}")
    with pytest.raises(MissingInputError) as caught:
        open_archive(url)
    assert caught.value.what == f"no archive in {url}; there is one in {url}/raid"
    open_store(url).put("linux/assignments/0.json", b"{}")
    with pytest.raises(MissingInputError, match=r"there is one in .*/linux, and in .*/raid"):
        open_archive(url)
    assert open_archive(f"{url}/raid").exists("cycles/w1/parse/cursor.json")
    open_store(url).put("cycles/w1/parse/cursor.json", b"{}")
    assert open_archive(url).exists("raid/cycles/w1/parse/cursor.json")


def test_delete(store: Store) -> None:
    store.put("a/b", b"1")
    store.delete("a/b")
    assert not store.exists("a/b")
    assert list(store.list()) == []


def test_list_is_in_the_order_of_whole_keys(store: Store) -> None:
    keys = ["a-b", "a.b", "a/a", "a/b/c", "a/b-c", "a0", "ab", "b/ü", "b/z"]
    for key in keys:
        store.put(key, b"")
    in_order = sorted(keys)
    assert list(store.list()) == in_order
    assert list(store.list("a")) == [key for key in in_order if key.startswith("a")]
    assert list(store.list("a/")) == ["a/a", "a/b-c", "a/b/c"]
    assert list(store.list("a/b")) == ["a/b-c", "a/b/c"]
    assert list(store.list("c")) == list(store.list("a/x/")) == []
    for key in [*in_order, "a/b/", "a/b/b", "a/c"]:
        assert list(store.list(start_after=key)) == [k for k in in_order if k > key], key
        assert list(store.list("a/", start_after=key)) == [k for k in in_order if k > key and k.startswith("a/")]


def test_list_goes_on_after_a_page(store: Store) -> None:
    keys = [f"many/{number:05d}" for number in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b""), keys))
    assert list(store.list("many/")) == keys


def test_put_replaces_and_put_if_absent_does_not(store: Store) -> None:
    store.put("a", b"1")
    store.put("a", b"2")
    assert store.get("a") == b"2"
    assert not store.put_if_absent("a", b"3")
    assert not store.put_if_absent("a", b"2"), "equal bytes of another writer are not ours"
    assert store.get("a") == b"2"
    assert store.put_if_absent("b", b"3")
    assert store.get("b") == b"3"


def test_upload(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for data in (b"", MANY_BYTES):
        source.write_bytes(data)
        store.upload("up/load", source)
        assert store.get("up/load") == data
    with pytest.raises(InputError, match="cannot be read") as caught:
        store.upload("up/load", tmp_path / "not-there")
    assert caught.value.where == str(tmp_path / "not-there")


def test_one_winner_among_many_writers(store: Store) -> None:
    barrier = threading.Barrier(NUM_RACERS)

    def write(number: int) -> bool:
        barrier.wait()
        return store.put_if_absent("contended", str(number).encode())

    with ThreadPoolExecutor(NUM_RACERS) as pool:
        won = list(pool.map(write, range(NUM_RACERS)))
    assert won.count(True) == 1
    assert store.get("contended") == str(won.index(True)).encode()


def test_opening_leaves_nothing_behind(new_store: NewStore) -> None:
    url = new_store()
    assert list(open_store(url).list()) == []
    assert open_store(url).url == url


def test_read_only(new_store: NewStore, tmp_path: Path) -> None:
    url = new_store()
    open_store(url).put("a", b"1")
    reader = open_store(url, read_only=True)
    assert reader.get("a") == b"1"
    (tmp_path / "file").write_bytes(b"2")
    for write in (
        lambda: reader.put("a", b"2"),
        lambda: reader.put_if_absent("b", b"2"),
        lambda: reader.upload("b", tmp_path / "file"),
        lambda: reader.delete("a"),
    ):
        with pytest.raises(OutputError, match="for reading only"):
            write()
    assert list(reader.list()) == ["a"]
    assert reader.get("a") == b"1"


def test_keys_that_are_none(store: Store) -> None:
    keys = ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", ".unfinished/a", "a\\b", "a\nb", "x" * 1001]
    for key in keys:
        for use in (
            store.get,
            store.open,
            store.exists,
            store.delete,
            lambda key: store.put(key, b""),
            lambda key: store.put_if_absent(key, b""),
        ):
            with pytest.raises(UsageError, match="not a key"):
                use(key)


def test_urls(tmp_path: Path) -> None:
    assert open_store(f"{tmp_path}/with space").url == f"file://{tmp_path}/with%20space"
    assert (tmp_path / "with space").is_dir()
    assert open_store(f"file://{tmp_path}/with%20space").url == f"file://{tmp_path}/with%20space"
    for url in ("ftp://host/x", "s3://", "file://relative"):
        with pytest.raises(UsageError):
            open_store(url)
    with pytest.raises(MissingInputError, match="no such folder"):
        open_store(str(tmp_path / "absent"), read_only=True)


# What goes wrong on the way to an S3 server


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


# What is wrong with the settings


@pytest.mark.parametrize("read_only", [False, True])
def test_missing_bucket(s3_server: S3Server, read_only: bool) -> None:
    with pytest.raises(MissingInputError, match="no such bucket") as caught:
        open_store("s3://no-such-bucket/archive", read_only=read_only)
    assert "s3://no-such-bucket/archive" in str(caught.value)
    assert s3_server.endpoint in str(caught.value)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("variable", "message"),
    [("AWS_ACCESS_KEY_ID", "does not know this access key"), ("AWS_SECRET_ACCESS_KEY", "secret key does not fit")],
)
def test_wrong_credentials(
    minio_server: S3Server, monkeypatch: pytest.MonkeyPatch, variable: str, message: str, read_only: bool
) -> None:
    for name, value in minio_server.environment().items():
        monkeypatch.setenv(name, value)
    bucket = minio_server.make_bucket()
    monkeypatch.setenv(variable, "wrong")
    with pytest.raises(AccessError, match=message) as caught:
        open_store(f"s3://{bucket}/archive", read_only=read_only)
    assert variable in caught.value.hint


def test_no_credentials(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in moto_server.environment().items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AccessError, match="no credentials") as caught:
        open_store("s3://bucket/archive")
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint


def test_nobody_at_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    for name, value in S3Server(endpoint, "any", "any").environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("jobs.contracts.s3_store._PAUSES_SECONDS", (0.001,))
    monkeypatch.setattr("jobs.contracts.s3_store._NUM_ATTEMPTS", 1)
    for read_only in (False, True):
        with pytest.raises(TransientError, match=endpoint):
            open_store("s3://bucket/archive", read_only=read_only)


def test_an_endpoint_that_is_none() -> None:
    with pytest.raises(UsageError, match="not a url"):
        open_store("s3://bucket/archive", StoreOptions(endpoint="not a url"))


@pytest.fixture(scope="module")
def private_ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for 127.0.0.1 that vouches for itself, as MinIO wants its names."""
    folder = tmp_path_factory.mktemp("certificates")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "public.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "private.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder


def test_a_private_ca(private_ca: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_minio(tmp_path, private_ca) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError, match="is not trusted") as caught:
            open_store("s3://bucket/archive")
        assert "AWS_CA_BUNDLE" in caught.value.hint
        options = StoreOptions(ca_bundle=str(private_ca / "public.crt"))
        with pytest.raises(MissingInputError, match="no such bucket"):
            open_store("s3://bucket/archive", options)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(private_ca / "public.crt"))
        bucket = server.make_bucket()
        assert list(open_store(f"s3://{bucket}/archive").list()) == []


def test_a_ca_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not there") as caught:
        open_store("s3://bucket/archive", StoreOptions(ca_bundle=str(tmp_path / "absent")))
    assert caught.value.where == str(tmp_path / "absent")


@pytest.mark.parametrize(
    ("options", "encryption"),
    [
        (StoreOptions(), {}),
        (StoreOptions(sse="AES256"), {"ServerSideEncryption": "AES256"}),
        (
            StoreOptions(sse="aws:kms", sse_kms_key_id="key-1"),
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key-1"},
        ),
    ],
)
def test_server_side_encryption(
    moto_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    options: StoreOptions,
    encryption: dict[str, str],
) -> None:
    for name, value in moto_server.environment().items():
        monkeypatch.setenv(name, value)
    bucket = moto_server.make_bucket()
    store = open_store(f"s3://{bucket}/archive", options)
    (tmp_path / "file").write_bytes(b"1")
    store.put("put", b"1")
    store.put_if_absent("conditional", b"1")
    store.upload("upload", tmp_path / "file")
    for key in ("put", "conditional", "upload"):
        head = moto_server.client().head_object(Bucket=bucket, Key=f"archive/{key}")
        assert {name: head[name] for name in ("ServerSideEncryption", "SSEKMSKeyId") if name in head} == encryption


def test_options_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SSE", "aws:kms"), ("SSE_KMS_KEY_ID", "key"), ("ADDRESSING_STYLE", "")):
        monkeypatch.setenv(f"REFRAIN_S3_{name}", value)
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    assert StoreOptions.from_environment() == StoreOptions(region="eu-north-1", sse="aws:kms", sse_kms_key_id="key")
