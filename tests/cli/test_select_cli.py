"""`refrain select` over plain files, with the original's own command lines, and over a store."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from components import require
from selection.builders import Results

from jobs.cli import main
from jobs.cli.select_files import filled_in

try:
    import torch
    import trainable
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from jobs.ml.adapters import add_adapter, save_adapter
    from jobs.ml.base_model import find_base, load_model
except ImportError:
    torch = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from conftest import Refrain


def original(folder: Path, *entries: tuple[str, float, float]) -> Path:
    """The original's eval_results.json, and its checkpoints as flat files."""
    checkpoints = []
    for name, ppl, rag in entries:
        file = folder / "checkpoints" / f"{name}.safetensors"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"weights of {name}")
        file.with_name("adapter_config.json").write_text("{}")
        checkpoints.append(
            {
                "path": f"checkpoints/{name}.safetensors",
                "val_perplexity": ppl,
                "test_perplexity": ppl,
                "rag_accuracy_at_5": rag,
                "retrieval_recall_at_5": 0.8,
            }
        )
    path = folder / "eval_results.json"
    path.write_text(json.dumps({"checkpoints": checkpoints}))
    return path


@pytest.fixture
def select(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs it in the folder, in this process; standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REFRAIN_STORE", raising=False)

    def run(*arguments: object, code: int = 0) -> str:
        ended = 0
        try:
            main(["select", *map(str, arguments)])
        except SystemExit as stop:
            ended = int(stop.code or 0)
        told = capfd.readouterr().err
        assert ended == code, told
        return told

    return run


def best(tmp_path: Path) -> str:
    return (tmp_path / "best_checkpoint.txt").read_text().strip()


def test_the_original_s_command_line(select: Any, tmp_path: Path) -> None:
    original(tmp_path, ("step_1000", 12.3, 0.61), ("step_2000", 11.3, 0.51))
    told = select(
        "eval_results.json",
        *("--strategy", "weighted", "--weights", "ppl:0.4,rag:0.4,recall:0.2"),
        *("--threshold", "val_perplexity <= 15", "--link", "best", "--freeze"),
        *("--merge-cmd", "cp {CHECKPOINT} merged.safetensors", "-o", "best_checkpoint.txt"),
    )
    assert best(tmp_path) == "checkpoints/step_1000.safetensors"
    assert (tmp_path / "best").read_text() == "weights of step_1000"
    assert (tmp_path / "merged.safetensors").read_text() == "weights of step_1000"
    said = json.loads((tmp_path / "decision.json").read_text())
    score = 0.4 / 12.3 + 0.4 * 0.61 + 0.2 * 0.8
    assert said["winner"]["score"] == pytest.approx(score)
    assert set(said["frozen"]["files"]) == {"adapter_config.json", "step_1000.safetensors"}
    mode = (tmp_path / "checkpoints" / "step_1000.safetensors").stat().st_mode
    assert not mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    lines = told.splitlines()
    assert lines[1].split()[:4] == ["checkpoints/step_1000.safetensors", f"{score:.5f}", "12.300", "0.61000"]
    assert any(line.startswith("promote (NotGated): ") for line in lines)
    assert "recall as a weight changes nothing" in told
    assert "no gate is possible" in told


def test_equal_inputs_are_not_decided_again(select: Any, tmp_path: Path) -> None:
    original(tmp_path, ("step_1000", 12.3, 0.61), ("step_2000", 11.3, 0.51))
    merge = ("--merge-cmd", "echo {CHECKPOINT} >> merges")
    assert "the same results" not in select("eval_results.json", *merge)
    before = (tmp_path / "decision.json").read_bytes()
    (tmp_path / "best_checkpoint.txt").unlink()
    assert "the same results and rules as before" in select("eval_results.json", *merge)
    assert best(tmp_path) == "checkpoints/step_1000.safetensors"
    assert (tmp_path / "decision.json").read_bytes() == before
    assert len((tmp_path / "merges").read_text().splitlines()) == 1
    assert "the same results" not in select("eval_results.json", "--strategy", "pareto")


def test_too_small_a_gain_trains_again(select: Any, tmp_path: Path) -> None:
    """Last week's winner is what the original's results are held against; the command writes new results."""
    original(tmp_path, ("step_1000", 10.0, 0.50))
    select("eval_results.json")
    original(tmp_path, ("step_2000", 10.0, 0.502))
    for number, rag in ((1, 0.503), (2, 0.504)):
        folder = tmp_path / f"next-{number}"
        folder.mkdir()
        original(folder, (f"step_300{number}", 10.0, rag))
    script = tmp_path / "retrain"
    script.write_text(
        'echo "$REFRAIN_ATTEMPT $1 $REFRAIN_LEARNING_RATE_FACTOR $REFRAIN_REPLAY" >> attempts\n'
        'cp -r "next-$REFRAIN_ATTEMPT"/* .\n'
    )
    told = select("eval_results.json", "--retrain-cmd", "sh retrain {CHECKPOINT}", "--max-retrain-attempts", "2")
    assert (tmp_path / "attempts").read_text().splitlines() == [
        "1 checkpoints/step_2000.safetensors 0.5 ",
        "2 checkpoints/step_3001.safetensors 0.25 cap",
    ]
    assert told.count("train again (SmallGain)") == 2
    assert best(tmp_path) == "checkpoints/step_3002.safetensors"
    said = json.loads((tmp_path / "decision.json").read_text())
    assert [one["path"][-16:-12] for one in said["candidates"]] == ["2000", "3001", "3002"]
    assert said["attempts"] == 3
    assert not (tmp_path / "decision.json.attempts").exists()


def test_last_week_s_score_keeps_nothing_out(select: Any, tmp_path: Path) -> None:
    """It was scored on other mail: the best of this week is chosen, whatever it comes to."""
    original(tmp_path, ("step_1000", 10.0, 0.50))
    select("eval_results.json")
    original(tmp_path, ("step_2000", 11.0, 0.40))
    assert "promote (NotGated): checkpoints/step_2000.safetensors" in select("eval_results.json")
    assert best(tmp_path) == "checkpoints/step_2000.safetensors"


def test_a_command_that_fails_is_taken_up_again(select: Any, tmp_path: Path) -> None:
    original(tmp_path, ("step_1000", 10.0, 0.50))
    select("eval_results.json")
    original(tmp_path, ("step_2000", 10.0, 0.502))
    told = select("eval_results.json", "--retrain-cmd", "echo gpu is gone >&2; exit 7", code=2)
    assert "exit code 7" in told
    assert "gpu is gone" in told
    assert best(tmp_path) == "checkpoints/step_1000.safetensors"
    (tmp_path / "next").mkdir()
    original(tmp_path / "next", ("step_3000", 9.0, 0.60))
    told = select("eval_results.json", "--retrain-cmd", "echo $REFRAIN_ATTEMPT > attempt; cp -r next/* .")
    assert (tmp_path / "attempt").read_text().strip() == "1"
    assert best(tmp_path) == "checkpoints/step_3000.safetensors"
    assert json.loads((tmp_path / "decision.json").read_text())["attempts"] == 2


def test_a_merge_that_fails_is_done_the_next_time(select: Any, tmp_path: Path) -> None:
    original(tmp_path, ("step_1000", 10.0, 0.50))
    assert "--merge-cmd: the command ended with exit code 1" in select(
        "eval_results.json", "--merge-cmd", "test -e disk", code=2
    )
    (tmp_path / "disk").touch()
    select("eval_results.json", "--merge-cmd", "test -e disk")


def test_names_are_quoted_for_the_shell(select: Any, tmp_path: Path) -> None:
    name = "a'; touch broken; '"
    original(tmp_path, (name, 10.0, 0.50))
    select("eval_results.json", "--merge-cmd", "cat {CHECKPOINT} > copy")
    assert (tmp_path / "copy").read_text() == f"weights of {name}"
    assert not (tmp_path / "broken").exists()


@pytest.mark.parametrize(
    "command",
    [
        *(
            "printf %s {CHECKPOINT}",
            "printf %s '{CHECKPOINT}'",
            'printf %s "{CHECKPOINT}"',
            "printf %s ''{CHECKPOINT}\"\"",
        ),
        *(
            "printf \"%s\" '{CHECKPOINT}'",
            'sh -c \'printf %s "$1"\' - "{CHECKPOINT}"',
            "echo \\' >&2; printf %s '{CHECKPOINT}'",
        ),
    ],
)
@pytest.mark.parametrize("value", ["my model", "a'; touch broken; '", 'a"; touch broken; "', "$(touch broken)`x`\\"])
def test_a_name_is_quoted_as_where_it_stands_wants_it(tmp_path: Path, command: str, value: str) -> None:
    filled = filled_in(command, {"CHECKPOINT": value})
    done = subprocess.run(["/bin/sh", "-c", filled], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == value
    assert not (tmp_path / "broken").exists()


@pytest.mark.parametrize("place", ["checkpoints", "checkpoints/checkpoint-20", "."])
def test_by_the_trainer_s_own_losses(select: Any, tmp_path: Path, place: str) -> None:
    folder = tmp_path / "checkpoints"
    for name in ("checkpoint-10", "checkpoint-20"):
        (folder / name).mkdir(parents=True)
    (folder / "step_30.safetensors").write_text("weights")
    (folder / "adapter_config.json").write_text("{}")
    history = [{"step": step, "eval_loss": loss} for step, loss in ((10, 2.5), (20, 2.25), (30, 2.0), (40, 1.0))]
    (tmp_path / place / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    select("--checkpoint-dir", "checkpoints")
    assert best(tmp_path) == "checkpoints/step_30.safetensors"
    (folder / "adapter_config.json").unlink()  # no settings: that file cannot be used
    select("--checkpoint-dir", "checkpoints")
    assert best(tmp_path) == "checkpoints/checkpoint-20"


def test_our_own_results(refrain: Refrain, tmp_path: Path) -> None:
    Results().add("step_4", 0.0).add("step_8", 0.1).write(tmp_path / "eval_results.json")
    done = refrain("select", "--strategy", "LowestLoss", cwd=tmp_path, env={"REFRAIN_STORE": ""})
    assert (done.returncode, done.stdout) == (0, "")
    told = done.stderr
    assert "promote (Better): step_8 is better than the incumbent: +" in told
    assert best(tmp_path) == "step_8"


def test_the_incumbent_stays_and_nothing_is_touched(select: Any, tmp_path: Path) -> None:
    Results(8).add("step_8", 0.1).write(tmp_path / "eval_results.json")
    told = select("--strategy", "LowestLoss", "--merge-cmd", "touch merged")
    assert "keep the incumbent (InsufficientEvidence): 8 val threads may judge, and 12 are needed" in told
    assert not (tmp_path / "best_checkpoint.txt").exists()
    assert not (tmp_path / "merged").exists()
    assert "promote (NotGated)" in select("--strategy", "LowestLoss", "--no-gate")
    assert best(tmp_path) == "step_8"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--threshold", "test_perplexity <= 9"], 2, "test_perplexity is a test metric"),
        (["--weights", "test_ppl:1"], 2, "test_ppl is a test metric"),
        (["--weights", "ppl"], 2, "not weights"),
        (["--strategy", "luck"], 2, "no such strategy: luck"),
        (["none.json"], 66, "none.json: no such file or folder"),
        (["--checkpoint-dir", "none"], 66, "none: no such folder"),
        (["--checkpoint-dir", "."], 66, "no trainer_state.json to go by"),
        (["--checkpoint-dir", ".", "--strategy", "Weighted"], 2, "Weighted needs scores"),
        (["broken.json"], 65, "broken.json: not JSON"),
        (["empty.json"], 65, "no checkpoints to choose from"),
        (["results.json", "--checkpoint-dir", "."], 66, "the winner checkpoints/gone.safetensors is not there"),
        (["results.json", "--link", "best"], 66, "the winner checkpoints/gone.safetensors is not there"),
    ],
)
def test_bad_input(select: Any, tmp_path: Path, arguments: list[str], code: int, told: str) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "empty.json").write_text('{"checkpoints": []}')
    original(tmp_path, ("gone", 10.0, 0.5)).rename(tmp_path / "results.json")
    (tmp_path / "checkpoints" / "gone.safetensors").unlink()
    assert told in select(*arguments, code=code)
    assert not (tmp_path / "best_checkpoint.txt").exists()


def test_settings_are_missing_beside_a_flat_file(select: Any, tmp_path: Path) -> None:
    original(tmp_path, ("step_1000", 10.0, 0.5))
    (tmp_path / "checkpoints" / "adapter_config.json").unlink()
    assert "the checkpoint has no settings beside it" in select("eval_results.json", code=66)


# ---- the original's commands, all of them real


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive that can be trained on, and its tiny base model."""
    require(torch, "torch is not installed")
    return trainable.make(tmp_path_factory.mktemp("ready"))


@pytest.fixture
def works(select: Any, ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archive's plain files and the base, here; `refrain` on the PATH. The only checkpoint has learnt nothing."""
    for path in trainable.export(ready, tmp_path / "files").iterdir():
        path.rename(tmp_path / path.name)
    (tmp_path / "base").symlink_to(ready / "base")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    base = find_base("base")
    fresh = add_adapter(load_model(base, device=torch.device("cpu")), rank=4, alpha=8, dropout=0, seed=0)
    save_adapter(fresh, tmp_path / "fresh", base=base)
    flat(tmp_path / "fresh", tmp_path / "checkpoints/step_1000.safetensors")
    return tmp_path


def flat(folder: Path, file: Path) -> None:
    """A checkpoint as the original left it: one file, and PEFT's settings beside it."""
    file.parent.mkdir(exist_ok=True)
    shutil.copyfile(folder / "adapter_model.safetensors", file)
    shutil.copyfile(folder / "adapter_config.json", file.with_name("adapter_config.json"))


def require_merged(works: Path, adapter: Path) -> None:
    """The model in merged/ answers as the base with that adapter, loaded by PEFT."""
    own = works / "as-peft-has-it"
    flat(adapter, own / "adapter_model.safetensors")
    beside = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(works / "base"), own)
    merged = AutoModelForCausalLM.from_pretrained(works / "merged")
    ids = torch.arange(30, 60)[None]
    with torch.no_grad():
        torch.testing.assert_close(merged(input_ids=ids).logits, beside(input_ids=ids).logits, atol=1e-4, rtol=1e-4)


RETRAIN = """\
refrain train --base base --assignments assignments.json --rehearsal-manifest old_shards_train.json \
    --length-metadata length_metadata.json --train new_train.json --val val.json --epochs 1 --replay-ratio 1:4 \
    --batch-size 4 --save-steps 1000 --early-stop --patience 3 --min-delta 0.001 --rank 4 --seed 42 \
    --lr $(awk "BEGIN {print 0.02 * $2}") --output-dir "attempt-$1" || exit
cp attempt-$1/step_*/adapter_model.safetensors "checkpoints/step_200$1.safetensors"
cp attempt-$1/step_*/adapter_config.json "checkpoints/step_200$1.json"
refrain evaluate --checkpoints-dir checkpoints --val-set val.json --max-queries 0 --base-model base -o eval_results.json
"""
SELECT = (
    *("eval_results.json", "--strategy", "weighted", "--weights", "ppl:0.4,rag:0.4,recall:0.2", "--no-gate"),
    *("--checkpoint-dir", "checkpoints", "--link", "best", "--freeze", "-o", "best_checkpoint.txt"),
    *("--merge-cmd", "refrain merge --adapter {CHECKPOINT} --out merged"),
)


@pytest.mark.slow
def test_the_original_trains_again_and_merges(select: Any, works: Path) -> None:
    """Real commands throughout: a checkpoint that gains nothing, half the learning rate, flat files, a merged model."""
    (works / "retrain").write_text(RETRAIN)
    assert main(["evaluate", "--checkpoints-dir", "checkpoints", "--val-set", "val.json", "--max-queries", "0",
                 "--base-model", "base", "-o", "eval_results.json"]) in (0, None)  # fmt: skip
    told = select(
        *SELECT, "--retrain-cmd", "sh retrain {ATTEMPT} {LEARNING_RATE_FACTOR}", "--max-retrain-attempts", "2"
    )
    assert told.count("train again (SmallGain)") == 1
    assert "promote (NotGated): step_2001.safetensors" in told
    assert best(works) == "checkpoints/step_2001.safetensors"
    said = json.loads((works / "decision.json").read_text())
    assert [one["path"] for one in said["candidates"]] == ["step_1000.safetensors", "step_2001.safetensors"]
    assert (said["attempts"], said["merged"]) == (2, SELECT[-1])
    assert set(said["frozen"]["files"]) == {"step_2001.json", "step_2001.safetensors"}
    state = json.loads((works / "attempt-1/trainer_state.json").read_text())
    assert max(line.get("learning_rate", 0) for line in state["log_history"]) == pytest.approx(0.01)
    assert json.loads((works / "merged/refrain.json").read_text())["adapter_sha256"] == said["winner"]["sha256"]
    (trained,) = (works / "attempt-1").glob("step_*")
    require_merged(works, trained)


def test_the_original_merges_a_flat_file(select: Any, works: Path) -> None:
    """Results of the original's shape; the base is the one that PEFT's settings name."""
    entry = {"path": "checkpoints/step_1000.safetensors", "val_perplexity": 9.0, "test_perplexity": 9.0}
    (works / "eval_results.json").write_text(
        json.dumps({"checkpoints": [entry | {"rag_accuracy_at_5": 0.5, "retrieval_recall_at_5": 0.5}]})
    )
    assert "it is taken for one of base" in select(*SELECT)
    assert json.loads((works / "merged/refrain.json").read_text())["base"] == "base"
    require_merged(works, works / "fresh")
