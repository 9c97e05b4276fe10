"""Texts that were deleted from an archive: the log stays whole, and nothing is learnt from them or scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from splitting import chunks, mail, messages, split, threads_by_split

from jobs.assignments.archive import Archive
from jobs.assignments.verify import verify
from jobs.contracts.errors import InputError, MissingInputError
from jobs.files import read_json, write_json
from jobs.intake.exports import export_all
from jobs.intake.trace import find_chunk, trace_message
from jobs.stages import Inputs, Outputs, rehearse, sample, window

TRAIN = threads_by_split()["train"][:6]
VAL = threads_by_split()["val"][:2]
WEEKS = [[*TRAIN[:3], VAL[0]], [*TRAIN[3:5], VAL[1]], TRAIN[5:]]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Three windows; the texts of the first are deleted."""
    whole = Archive.open(str(tmp_path / "archive"))
    for number, week in enumerate(WEEKS):
        split(whole, [mail(one, day=f"2024-01-{1 + 7 * number:02d}") for one in week], tmp_path, cycle=f"w{number}")
    return whole


def forget(archive: Archive, *kinds: str) -> None:
    for kind in kinds:
        for key in list(archive.store.list(f"{kind}/000000/")):
            archive.store.delete(key)


def run(stage: Any, archive: Archive, folder: Path, config: Any, **inputs: Path) -> dict[str, Any]:
    kinds = ("new_train", "val_set", "test_set") if stage is window else ("manifest", "schedule")
    outputs = Outputs({kind: folder / f"{kind}.json" for kind in kinds})
    result: dict[str, Any] = stage.run(config, Inputs({k: [v] for k, v in inputs.items()}, archive), outputs)
    return result


@pytest.mark.parametrize("kinds", [("chunks", "messages"), ("chunks", "messages", "lengths")])
def test_what_has_no_text_is_in_no_list(archive: Archive, tmp_path: Path, kinds: tuple[str, ...]) -> None:
    forget(archive, *kinds)
    result = run(window, archive, tmp_path, window.Config(window_idx=1))
    assert (result["num_new_train_chunks"], result["num_val_chunks"]) == (2, 1)
    assert result["notes"] == ["4 chunks are left out: their texts have been deleted"]
    assert run(window, archive, tmp_path, window.Config(window_idx=0))["num_new_train_chunks"] == 0
    assert run(rehearse, archive, tmp_path, rehearse.Config(window_idx=2))["num_manifest_chunks"] == 2
    assert {one["window_idx"] for one in read_json(tmp_path / "manifest.json")} == {1}


def test_a_list_from_before_is_refused(archive: Archive, tmp_path: Path) -> None:
    run(rehearse, archive, tmp_path, rehearse.Config(window_idx=2))
    run(window, archive, tmp_path, window.Config(window_idx=2))
    lists = {kind: tmp_path / f"{kind}.json" for kind in ("manifest", "new_train")}
    assert len(read_json(lists["manifest"])) == 5
    forget(archive, "chunks")
    with pytest.raises(InputError, match="has no text any more"):
        run(sample, archive, tmp_path, sample.Config(), **lists)
    write_json(lists["manifest"], [one for one in read_json(lists["manifest"]) if one["window_idx"] == 1])
    assert run(sample, archive, tmp_path, sample.Config(), **lists)["num_new_chunks"] == 3


def test_the_log_stays_and_threads_go_on(archive: Archive, tmp_path: Path) -> None:
    gone = trace_message(archive, TRAIN[0])
    forget(archive, "chunks", "messages", "lengths")
    report = verify(archive, deep=True)
    assert (report.problems, len(report.notes)) == ([], 1)
    answer = mail("answer@x", day="2024-01-29", references=(TRAIN[0],))
    split(archive, [answer, mail(TRAIN[0])], tmp_path, window_overlap=0, cycle="w3")
    assert messages(archive)["answer@x"]["thread_id"] == gone.thread_id
    assert f"{gone.thread_id}_window_1" in {chunk["chunk_id"] for chunk in chunks(archive)}
    found = trace_message(archive, TRAIN[0])
    assert (found.thread_id, found.split, found.mail) == (gone.thread_id, gone.split, None)
    with pytest.raises(MissingInputError, match=r"text of .* is not in the archive"):
        find_chunk(archive, gone.targets[0])
    export_all(archive, tmp_path / "assignments.json")
    assert gone.targets[0] in read_json(tmp_path / "assignments.json")
    assert gone.targets[0] not in {chunk["chunk_id"] for chunk in read_json(tmp_path / "chunks.json")}


def test_plain_files_tell_it_too(archive: Archive, tmp_path: Path) -> None:
    export_all(archive, tmp_path / "assignments.json")
    assert not (tmp_path / "forgotten.json").exists()
    forget(archive, "chunks", "messages", "lengths")
    export_all(archive, tmp_path / "assignments.json")
    files = Inputs({"assignments": [tmp_path / "assignments.json"]})
    result = rehearse.run(rehearse.Config(window_idx=2), files, Outputs({"manifest": tmp_path / "files.json"}))
    assert result["notes"][-1] == "4 chunks are left out: their texts have been deleted"
    run(rehearse, archive, tmp_path, rehearse.Config(window_idx=2))
    assert (tmp_path / "files.json").read_bytes() == (tmp_path / "manifest.json").read_bytes()
    outputs = Outputs({kind: tmp_path / f"{kind}.json" for kind in ("new_train", "val_set")})
    result = window.run(window.Config(window_idx=1), files, outputs)
    assert (result["num_new_train_chunks"], result["num_val_chunks"]) == (2, 1)


def test_what_scores_depend_on_is_not_passed_over(archive: Archive, tmp_path: Path) -> None:
    joins = [mail("join@x", day="2024-02-05", references=(TRAIN[0], VAL[0]))]
    split(archive, joins, tmp_path, cycle="w3")
    (key,) = archive.store.list("exclusions/")
    archive.store.delete(key)
    with pytest.raises(MissingInputError, match="no such object"):
        run(window, archive, tmp_path, window.Config())
