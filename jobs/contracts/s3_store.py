"""The store in an S3 bucket, of AWS or of any server with conditional writes.

Credentials come from the environment as every AWS tool reads them (variables, shared files, a
web identity token, instance metadata). Reads, lists and plain writes are left to the SDK's retries.
The conditional write has a loop of its own: after a lost response, a retry that we do not see would
turn our own success into "somebody else was first".
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import random
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from jobs.contracts.errors import ConfigError, InputError, OutputError, TransientError
from jobs.contracts.s3_errors import error_code, is_conflict, is_precondition_failed, is_uncertain, translated
from jobs.contracts.store import StoreOptions, check_key

_NUM_ATTEMPTS = 5
_PAUSES_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Between the attempts of one conditional write; each is halved to doubled at random."""
_PUT_ID = "put-id"
_DIGEST = "sha256"
_PART_BYTES = 64 << 20
_BUFFER_BYTES = 1 << 20
_MAX_CONNECTIONS = 32


class S3Store:
    """A `Store` (see `jobs.contracts.store`) under a prefix of a bucket."""

    def __init__(self, bucket: str, prefix: str, options: StoreOptions, *, read_only: bool = False) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._read_only = read_only
        self._endpoint = options.endpoint or ""
        self._encryption = _encryption(options)
        ca_bundle = options.ca_bundle or os.environ.get("AWS_CA_BUNDLE")
        if ca_bundle and not Path(ca_bundle).exists():
            raise ConfigError("the file of CA certificates is not there", where=ca_bundle, hint="check AWS_CA_BUNDLE")
        with self._errors(""):
            session = boto3.session.Session(region_name=options.region)
            self._endpoint = str(_client(session, options, retries=1).meta.endpoint_url)
            checksums = {} if _is_aws(self._endpoint) else _ONLY_REQUIRED_CHECKSUMS
            self._client = _client(session, options, retries=_NUM_ATTEMPTS, **checksums)
            self._client_of_one_attempt = _client(session, options, retries=1, **checksums)
            if read_only:  # a writer's probe meets what is wrong; a reader must not take it for an empty archive
                self._client.list_objects_v2(Bucket=bucket, Prefix=self._prefix, MaxKeys=1)

    @property
    def url(self) -> str:
        """The bucket and prefix as an `s3://` URL."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def get(self, key: str) -> bytes:
        """The whole object; MissingInputError where there is none."""
        with self.open(key) as stream:
            return stream.read()

    def open(self, key: str) -> BinaryIO:
        """The object as a seekable stream, which goes on where a broken connection left it; MissingInputError."""
        return self.open_listed(check_key(key))

    def open_listed(self, key: str) -> io.BufferedReader:
        """The stream of a key that `list` gave: others put objects there whose keys no store of ours would take."""
        return io.BufferedReader(_ObjectStream(self, key), _BUFFER_BYTES)

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        return self._metadata(key) is not None

    def list(self, prefix: str = "", start_after: str = "") -> Iterator[str]:
        """Keys under a prefix in ascending order, only those after `start_after`."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix, StartAfter=self._prefix + start_after
        )
        with self._errors(prefix):
            for page in pages:
                for entry in page.get("Contents", ()):
                    key = entry["Key"][len(self._prefix) :]
                    if key and not key.endswith("/"):  # consoles make empty objects to show folders
                        yield key

    def put(self, key: str, data: bytes) -> None:
        """Write or replace an object."""
        with self._writing(key):
            self._client.put_object(**self._named(key), Body=data, **self._encryption)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write an object that must not be there yet: True where this call wrote it, also if it was not told so.

        Raises TransientError when the store gives no certain answer; the object may be there then.
        """
        digest = hashlib.sha256(data).hexdigest()
        put_id = uuid.uuid4().hex
        request = self._named(key) | self._encryption
        request |= {"Body": data, "IfNoneMatch": "*", "Metadata": {_PUT_ID: put_id, _DIGEST: digest}}
        request["ContentMD5"] = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        with self._writing(key):
            for pause in (*_PAUSES_SECONDS, None):
                try:
                    self._client_of_one_attempt.put_object(**request)
                    return True
                except (ClientError, BotoCoreError) as error:
                    if is_precondition_failed(error):
                        if (ours := self._is_ours(key, put_id, digest)) is not None:
                            return ours
                    elif pause is None or not (is_conflict(error) or is_uncertain(error)):
                        raise
                if pause is not None:
                    time.sleep(pause * random.uniform(0.5, 2))  # noqa: S311 - it only spreads the writers in time
        raise TransientError("the store says that the object is there, and that it is not", where=self._where(key))

    def upload(self, key: str, path: Path) -> None:
        """Write or replace an object from a file of any size; large ones in parts."""
        try:
            source = path.open("rb")
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from error
        with source, self._writing(key):
            self._client.upload_fileobj(
                source,
                self._bucket,
                self._prefix + check_key(key),
                ExtraArgs=self._encryption,
                Config=TransferConfig(multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES),
            )

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens where there is none."""
        with self._writing(key):
            self._client.delete_object(**self._named(key))

    def read_range(self, key: str, start: int, etag: str | None) -> Any:
        """The SDK's response for an object's bytes from `start` on, while the object is still the one of that ETag."""
        request = {"Bucket": self._bucket, "Key": self._prefix + key}
        if etag is not None:
            request |= {"Range": f"bytes={start}-", "IfMatch": etag}
        with self._errors(key):
            return self._client.get_object(**request)

    def broken_stream(self, key: str, error: Exception) -> TransientError:
        """What a user is told when a stream broke for good."""
        return TransientError(f"the connection broke while it was read ({error})", where=self._where(key))

    def _metadata(self, key: str) -> dict[str, str] | None:
        with self._errors(key):
            try:
                response = self._client.head_object(**self._named(key))
            except ClientError as error:
                if error_code(error) in ("404", "NoSuchKey", "NotFound"):
                    return None
                raise
        return dict(response["Metadata"])

    def _is_ours(self, key: str, put_id: str, digest: str) -> bool | None:
        """Whether the object is the one of this put; None where it has gone again."""
        metadata = self._metadata(key)
        if metadata is None:
            return None
        if metadata.get(_PUT_ID) != put_id:
            return False
        return hashlib.sha256(self.get(key)).hexdigest() == digest

    def _named(self, key: str) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": self._prefix + check_key(key)}

    def _where(self, key: str) -> str:
        return f"{self.url}/{key}".rstrip("/")

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except (ClientError, BotoCoreError, ValueError, OSError) as error:
            raise translated(error, where=self._where(key), endpoint=self._endpoint) from error

    @contextmanager
    def _writing(self, key: str) -> Iterator[None]:
        if self._read_only:
            raise OutputError("the store was opened for reading only", where=self._where(key))
        with self._errors(key):
            yield


class _ObjectStream(io.RawIOBase):
    """An object's bytes; asks for the rest of them when the connection breaks, as often as it gets on."""

    def __init__(self, store: S3Store, key: str) -> None:
        self._store = store
        self._key = key
        self._position = 0
        self._body: Any = None
        response = store.read_range(key, 0, None)
        self._body = response["Body"]
        self._length = int(response["ContentLength"])
        self._etag: str = response["ETag"]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        if base + offset != self._position:
            self._disconnect()
            self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        failures = 0
        while self._position < self._length:
            try:
                data = self._some(len(buffer))
            except (BotoCoreError, OSError) as error:
                self._disconnect()
                failures += 1
                if failures >= _NUM_ATTEMPTS:
                    raise self._store.broken_stream(self._key, error) from error
                time.sleep(_PAUSES_SECONDS[failures])
                continue
            buffer[: len(data)] = data
            self._position += len(data)
            return len(data)
        return 0

    def close(self) -> None:
        self._disconnect()
        super().close()

    def _some(self, size: int) -> bytes:
        if self._body is None:
            self._body = self._store.read_range(self._key, self._position, self._etag)["Body"]
        data: bytes = self._body.read(size)
        if not data:
            raise ConnectionResetError("it ended too soon")
        return data

    def _disconnect(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None


_ONLY_REQUIRED_CHECKSUMS = {
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}
"""Other servers know S3's older checksums only."""


def _client(session: Any, options: StoreOptions, *, retries: int, **settings: str) -> Any:
    config = Config(
        retries={"total_max_attempts": retries, "mode": "standard"},
        s3={"addressing_style": options.addressing_style},
        max_pool_connections=_MAX_CONNECTIONS,
        connect_timeout=10,
        read_timeout=60,
        **settings,
    )
    return session.client("s3", endpoint_url=options.endpoint, verify=options.ca_bundle, config=config)


def _is_aws(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def _encryption(options: StoreOptions) -> dict[str, str]:
    settings = {"ServerSideEncryption": options.sse, "SSEKMSKeyId": options.sse_kms_key_id}
    return {name: value for name, value in settings.items() if value}
