"""The commands of docs/backup.md for a bucket, run as they stand there between two buckets of a MinIO."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cluster.programs import binary

PAGE = Path(__file__).parents[1] / "docs" / "backup.md"


def commands() -> list[str]:
    """Its two blocks: back up, restore."""
    section = PAGE.read_text().partition("\n## A bucket\n")[2].partition("\n## ")[0]
    return re.findall(r"```sh\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def run(minio_server, tmp_path):
    """A shell with the AWS command line, whose bucket names are two new ones."""
    names = {"s3://refrain-backup": minio_server.make_bucket(), "s3://refrain": minio_server.make_bucket()}
    path = f"{binary('aws').parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(tmp_path), **minio_server.environment()}

    def shell(script: str) -> str:
        for said, name in names.items():
            script = re.sub(rf"{said}(?![\w-])", f"s3://{name}", script)
        done = subprocess.run(
            ["bash", "-euc", script], cwd=tmp_path, env=environment, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    return shell


def test_a_bucket_is_backed_up_and_restored(run, tmp_path):
    back_up, restore = commands()
    subprocess.run(
        [sys.executable, Path(__file__).parent / "mailgen.py", "archive.mbox", "--messages", "200"],
        cwd=tmp_path,
        check=True,
    )
    week = "export REFRAIN_STORE=s3://refrain/workshop REFRAIN_CYCLE={}; refrain parse archive.mbox; refrain split {}"
    run(week.format("w1", "--window-period month"))
    run("echo '{}' | aws s3 cp - s3://refrain/workshop/owner/00000000000000000001.json")
    before = listing(run, "s3://refrain/workshop")
    assert "the log is whole" in run(back_up)
    assert listing(run, "s3://refrain-backup/workshop") == [key for key in before if not key.startswith("owner/")]

    run("aws s3 rm --recursive s3://refrain/workshop")
    assert "the log is whole" in run(restore)
    assert listing(run, "s3://refrain/workshop") == [key for key in before if not key.startswith("owner/")]
    assert "0 new mails" in run(week.format("w2", "--window-period month 2>&1"))


def listing(run, url: str) -> list[str]:
    """Keys below a prefix, without what the probe of a store may leave."""
    lines = run(f"aws s3 ls --recursive {url}/").splitlines()
    keys = [line.split(None, 3)[3].partition("workshop/")[2] for line in lines]
    return [key for key in keys if not key.startswith("probe/")]
