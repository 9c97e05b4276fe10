"""Settings of an S3 store: buckets, credentials, endpoints, certificates and encryption."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from servers.minio import running_minio
from servers.s3 import S3Server, free_port

from jobs.contracts.errors import AccessError, ConfigError, MissingInputError, TransientError, UsageError
from jobs.contracts.store import StoreOptions, open_store


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
