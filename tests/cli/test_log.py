"""`refrain log`."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from logwriting import import_windows, window_rows

from jobs.assignments.archive import Archive
from jobs.contracts.artifacts import segment_key

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Refrain
    from servers.s3 import S3Server
    from servers.stores import NewStore

NUM_WINDOWS = 3


def test_a_sound_log(new_store: NewStore, refrain: Refrain, tmp_path: Path) -> None:
    archive = Archive.open(new_store())
    import_windows(archive, NUM_WINDOWS)
    url = archive.store.url
    head = refrain("log", "head", url)
    assert (head.returncode, head.stdout) == (0, f"{archive.log.head()}\n")

    verified = refrain("log", "verify", url, "--deep", "--head", head.stdout.strip())
    assert verified.returncode == 0, verified.stderr
    assert verified.stderr == ""
    assert re.search(rf"segments +{NUM_WINDOWS}\nchunks +6 of 3 threads\nfiles +3\nthe log is whole\n", verified.stdout)

    exported = refrain("log", "export", url, "-o", tmp_path / "assignments.json")
    assert (exported.returncode, exported.stdout) == (0, "")
    rows = [r for window_idx in range(NUM_WINDOWS) for r in window_rows(window_idx)]
    assert json.loads((tmp_path / "assignments.json").read_bytes()) == {
        r.chunk_id: {"split": r.split, "thread_id": r.thread_id, "window_idx": r.window_idx} for r in rows
    }
    assert refrain("log", "export", url).stdout == (tmp_path / "assignments.json").read_text()


def test_a_damaged_log(new_store: NewStore, refrain: Refrain) -> None:
    archive = Archive.open(new_store())
    import_windows(archive, NUM_WINDOWS)
    good = archive.store.get(segment_key(1))
    archive.store.put(segment_key(1), good.replace(b"train", b"trian"))
    done = refrain("log", "verify", archive.store.url)
    assert done.returncode == 70
    assert f"PROBLEM   {segment_key(1)}: segment 1 was damaged or rewritten" in done.stdout
    assert "the log is whole" not in done.stdout
    assert done.stderr.startswith(f"refrain: error: {archive.store.url}: the log is not what was committed: 1 problem")
    for command in ("export", "verify"):
        assert refrain("log", command, archive.store.url).returncode == 70
    archive.store.delete(segment_key(1))
    done = refrain("log", "export", archive.store.url)
    assert (done.returncode, done.stdout) == (70, "")
    assert "segment 1 is missing" in done.stderr


def test_a_log_that_was_cut_short(new_folder: NewStore, refrain: Refrain) -> None:
    archive = Archive.open(new_folder())
    import_windows(archive, NUM_WINDOWS)
    head = archive.log.head()
    archive.store.delete(segment_key(2))
    assert refrain("log", "verify", archive.store.url).returncode == 0
    done = refrain("log", "verify", archive.store.url, "--head", head)
    assert done.returncode == 70
    assert "segment 2 is missing" in done.stdout


def test_by_folder_and_by_the_assignments_beside_it(tmp_path: Path, refrain: Refrain) -> None:
    archive = Archive.open(str(tmp_path / "assignments.archive"))
    import_windows(archive, NUM_WINDOWS)
    for name in (tmp_path / "assignments.archive", tmp_path / "assignments.json", "assignments.json"):
        assert refrain("log", "head", name, cwd=tmp_path).stdout == f"{archive.log.head()}\n"


@pytest.mark.parametrize("command", ["head", "verify", "export"])
def test_nothing_there(command: str, tmp_path: Path, refrain: Refrain) -> None:
    for name in (tmp_path, tmp_path / "absent", tmp_path / "absent.json"):
        done = refrain("log", command, name)
        assert (done.returncode, done.stdout) == (66, "")
        assert str(name).removesuffix(".json") in done.stderr
    assert list(tmp_path.iterdir()) == [], "a check makes nothing"


@pytest.mark.parametrize("head", ["3", "3:abc", "x:" + "0" * 64])
def test_what_is_no_head(head: str, tmp_path: Path, refrain: Refrain) -> None:
    done = refrain("log", "verify", tmp_path, "--head", head)
    assert done.returncode == 2
    assert "not a head" in done.stderr


def test_what_is_wrong_with_a_bucket(minio_server: S3Server, refrain: Refrain) -> None:
    env = minio_server.environment()
    done = refrain("log", "verify", "s3://no-such-bucket/archive", env=env)
    assert done.returncode == 66
    assert "no such bucket" in done.stderr
    bucket = minio_server.make_bucket()
    done = refrain("log", "verify", f"s3://{bucket}/archive", env=env | {"AWS_SECRET_ACCESS_KEY": "wrong"})
    assert done.returncode == 77
    assert "AWS_SECRET_ACCESS_KEY" in done.stderr
    assert "Traceback" not in done.stderr
