"""Parsing objects of a bucket: as files are, and below a prefix as those of a folder."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import zstandard
from parsing import SEPARATOR, box, ids, mail, parsed

from jobs.contracts.errors import InputError, MissingInputError, TransientError
from jobs.contracts.s3_store import S3Store


def test_objects_of_a_bucket(tmp_path: Path, s3_server: Any) -> None:
    bucket = s3_server.make_bucket()
    client = s3_server.client()
    for key, data in {
        "incoming/2026-W47.mbox.gz": gzip.compress(box(1, 2)),
        "incoming/list/a.eml": mail(3),
        "incoming/list/b.pdf": b"%PDF",
        "incoming/list/_COMPLETE.json": b"{}",
        "incoming/cut.gz": gzip.compress(box(9))[:-8],
    }.items():
        client.put_object(Bucket=bucket, Key=key, Body=data)
    assert ids(parsed(tmp_path, f"s3://{bucket}/incoming/2026-W47.mbox.gz")[0]) == ["1", "2"]
    records, rejects, _ = parsed(tmp_path, f"s3://{bucket}/incoming/list/")
    assert [(record["source"], record["message_id"]) for record in records] == [("a.eml", "3@example.org")]
    assert [reject["source"] for reject in rejects] == ["b.pdf"]
    with pytest.raises(MissingInputError, match="no such object"):
        parsed(tmp_path, f"s3://{bucket}/incoming/2026-W48.mbox.gz")
    with pytest.raises(InputError, match="damaged or cut short"):
        parsed(tmp_path, f"s3://{bucket}/incoming/cut.gz")
    with pytest.raises((MissingInputError, TransientError)):
        parsed(tmp_path, "s3://no-such-bucket-anywhere/x.mbox")


def test_damaged_objects_under_a_prefix_are_rejects_as_damaged_files_of_a_folder_are(
    tmp_path: Path, s3_server: Any
) -> None:
    bucket = s3_server.make_bucket()
    noise = (os.urandom(300_000).hex().encode() + b"\n" for _ in range(4))
    long = b"".join(SEPARATOR + mail(10 + number, body) + b"\n" for number, body in enumerate(noise))
    files = {
        "2026-w01.mbox.gz": gzip.compress(box(1, 2)),
        "2026-w02.mbox.gz": gzip.compress(long)[:-20_000],
        "2026-w03.mbox.zst": zstandard.compress(long)[:-20_000],
        "2026-w04.mbox.gz": b"\x1f\x8b and no gzip",
        "2026-w05.mbox.gz": gzip.compress(box(5)),
        "sub/a.eml": mail(6),
    }
    for key, data in files.items():
        (tmp_path / "incoming" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "incoming" / key).write_bytes(data)
        s3_server.client().put_object(Bucket=bucket, Key=f"incoming/{key}", Body=data)
    records, rejects, result = parsed(tmp_path, f"s3://{bucket}/incoming/")
    assert ids(records) == ["1", "2", "10", "10", "5", "6"]  # of the damaged, what is well before the damage
    damaged = ["2026-w02.mbox.gz", "2026-w03.mbox.zst", "2026-w04.mbox.gz"]
    assert rejects == [
        {
            "source": key,
            "offset": 0,
            "length": len(files[key]),
            "sha256": hashlib.sha256(files[key]).hexdigest(),
            "reason": "compressed data damaged or cut short",
        }
        for key in damaged
    ]
    assert parsed(tmp_path, tmp_path / "incoming") == (records, rejects, result)
    assert parsed(tmp_path, f"s3://{bucket}/incoming") == (records, rejects, result)
    with pytest.raises(InputError, match="damaged or cut short"):
        parsed(tmp_path, f"s3://{bucket}/incoming/{damaged[0]}")


def test_objects_under_any_key_are_read_and_those_that_go_meanwhile_are_not(
    tmp_path: Path, s3_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3_server.make_bucket()
    client = s3_server.client()
    keys = {".DS_Store": b"\0\0\0\1Bud1", ".Lists/raid/1.eml": mail(1), "a.eml": mail(2), "b.eml": mail(3)}
    for key, data in keys.items():
        client.put_object(Bucket=bucket, Key=f"incoming/{key}", Body=data)
    listed = S3Store.list

    def deleting(store: S3Store, prefix: str = "", start_after: str = "") -> Any:
        found = list(listed(store, prefix, start_after))
        client.delete_object(Bucket=bucket, Key="incoming/a.eml")
        return iter(found)

    monkeypatch.setattr(S3Store, "list", deleting)
    records, rejects, _ = parsed(tmp_path, f"s3://{bucket}/incoming/")
    assert [(record["source"], record["folder"]) for record in records] == [
        (".Lists/raid/1.eml", ".Lists/raid"),
        ("b.eml", None),
    ]
    assert [(reject["source"], reject["reason"]) for reject in rejects] == [(".DS_Store", "not mail")]
