"""The plan of a cycle: its figures are those of the run, and nothing is written."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from local.cycles import WEEKS, cycle_of, workplace, write_mbox
from splitting import tree

from jobs.contracts.cycle.learning import Lora, ModelSpec, TrainingSpec
from jobs.contracts.errors import InputError, MissingInputError
from jobs.contracts.store import StoreOptions
from jobs.local.base_facts import BaseFacts, base_facts
from jobs.local.configs import Machine
from jobs.local.estimates import checkpoint_bytes, num_checkpoints, one_gpu_notes, training_memory
from jobs.local.plan_text import plan_text, size
from jobs.local.planning import Plan, plan_cycle
from jobs.local.session import Session

ONE = Machine(workers=1)
SHAPES = {
    "model.embed_tokens.weight": [100, 8],
    "model.layers.0.self_attn.q_proj.weight": [8, 8],
    "model.layers.0.mlp.up_proj.weight": [16, 8],
    "model.layers.0.input_layernorm.weight": [8],
    "model.layers.1.self_attn.q_proj.weight": [8, 8],
    "model.layers.1.mlp.up_proj.weight": [16, 8],
    "model.norm.weight": [8],
    "lm_head.weight": [100, 8],
}
CONFIG = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 8, "vocab_size": 100}


def write_weights(folder: Path) -> Path:
    """A model's files with headers and no weights: all that a plan may look at."""
    header = orjson.dumps(
        {"__metadata__": {}} | {name: {"dtype": "F32", "shape": shape} for name, shape in SHAPES.items()}
    )
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    (folder / "config.json").write_bytes(orjson.dumps(CONFIG))
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return workplace(tmp_path / "place", weeks=WEEKS[:3], num_mails=24)


def plan_of(place: Path, **settings: object) -> Plan:
    cycle = cycle_of(place, **{name: value for name, value in settings.items() if name != "tokens_per_second"})
    return plan_cycle(cycle, cycle.spec.archive_url, machine=ONE, tokens_per_second=settings.get("tokens_per_second"))


def run(place: Path, **settings: object) -> dict[str, dict[str, object]]:
    cycle = cycle_of(place, **settings)
    status = Session(cycle, cycle.spec.archive_url, lambda _line: None, ONE).run(until="sample")
    return {one["name"]: one["result"] for one in status.stages}


def test_a_plan_has_the_run_s_own_figures_and_writes_nothing(place: Path) -> None:
    write_weights(place / "base")
    before = tree(place)
    plan = plan_of(place, training={"batchSize": 2, "gradientAccumulation": 2, "saveSteps": 3})
    assert tree(place) == before
    results = run(place, training={"batchSize": 2, "gradientAccumulation": 2, "saveSteps": 3})
    assert plan.state == "Pending"
    assert plan.done == []
    assert plan.mail["num_kept"] == results["parse"]["num_kept"] == 72
    assert plan.window["num_new_train_messages"] == results["window"]["num_new_train_messages"]
    sample = results["sample"]
    assert plan.training["num_batches"] == sample["num_batches"]
    assert plan.training["num_tokens"] == sample["num_new_tokens"] + sample["num_replay_tokens"]
    assert plan.rehearsal["quota"] == sample["quota"] > 0
    by_epoch = math.ceil(sample["num_batches"] / 3 / 2)
    assert plan.training["num_steps"] == 3 * by_epoch
    assert plan.training["num_trainable"] == 16 * 2 * ((8 + 8) + (16 + 8))
    assert plan.memory_bytes["total"] > 0
    assert [job["stage"] for job in plan.jobs if job["is_done"]] == []


def test_a_plan_of_a_cycle_that_has_begun(place: Path) -> None:
    first = plan_of(place)
    run(place)
    second = plan_of(place)
    assert second.state == "Running"
    assert second.done == ["parse", "split", "window", "rehearse", "sample"]
    assert (second.mail, second.window, second.training) == (first.mail, first.window, first.training)


def test_a_plan_of_a_second_cycle_counts_what_is_new(place: Path) -> None:
    run(place)
    write_mbox(place / "mail.mbox", weeks=WEEKS[:4], num_mails=24)
    cycle = cycle_of(place, "w2")
    plan = plan_cycle(cycle, cycle.spec.archive_url, machine=ONE)
    assert (plan.mail["num_kept"], plan.mail["num_new"]) == (96, 24)
    assert plan.window["window_idx"] == 3


def test_what_is_not_known_is_said(place: Path) -> None:
    plan = plan_of(place)
    assert [line.split(":")[0] for line in plan.unknown] == ["how long it takes", "parameters and memory"]
    assert plan.training["seconds"] is None
    assert "num_trainable" not in plan.training
    timed = plan_of(place, tokens_per_second=100.0)
    assert timed.training["seconds"] == round(timed.training["num_tokens"] / 100)
    assert "not known  parameters and memory" in plan_text(timed)


def test_too_few_val_threads_for_a_promotion_are_told(place: Path) -> None:
    few = plan_of(place)
    told = few.warnings[-1]
    assert re.match(
        r"nothing can be promoted yet: \d of \d val threads may judge, and gate.minThreads is 12: about 24", told
    )
    assert f"note       {told}" in plan_text(few)
    enough = plan_of(place, promotion={"gate": {"minThreads": 2}}, split={"ratios": {"train": 1, "val": 9, "test": 0}})
    assert not any("promoted" in told for told in enough.warnings)


def test_threads_judge_and_not_their_chunks(place: Path) -> None:
    """Short chunks make many of each thread; those of one thread are of one half, and judge as one."""
    ratios = {"train": 8, "val": 2, "test": 0}
    split = {"ratios": ratios, "windowSize": 1, "windowOverlap": 0}
    plan = plan_of(place, split=split, promotion={"gate": {"minThreads": 5}})
    (told,) = (one for one in plan.warnings if "promoted" in one)
    num_threads = int(re.search(r"of (\d+) val threads", told)[1])
    assert plan.window["num_val_chunks"] == 2 * num_threads >= 10


def test_of_a_first_import_of_many_weeks_the_older_are_told(place: Path) -> None:
    plan = plan_of(place)
    new = plan.window["num_new_train_messages"]
    by_month = plan_of(place, window={"minNewMessages": 2, "period": "month"})
    all_of_them = by_month.window["num_new_train_messages"]
    assert 0 < new < all_of_them
    assert plan.warnings[0] == (
        f"3 windows are new; only the newest, with {new} of {all_of_them} train messages, is trained on in this cycle; "
        "the older are rehearsed; window.period: month makes it larger"
    )
    assert not any("windows are new" in told for told in by_month.warnings)


def test_a_rank_without_use_is_told(place: Path) -> None:
    enough = plan_of(place, model={"base": "./base", "lora": {"rank": 128}})
    assert not any("rank" in one for one in enough.warnings)
    many = plan_of(place, model={"base": "./base", "lora": {"rank": 129}})
    (told,) = (one for one in many.warnings if "rank" in one)
    assert told.startswith("rank 129 is more than 128")
    assert f"note       {told}" in plan_text(many)


def test_a_cycle_that_would_be_skipped(place: Path) -> None:
    plan = plan_of(place, window={"minNewMessages": 9999})
    assert plan.message.startswith("it would be skipped: ")
    assert plan.training == {}
    assert "it would be skipped" in plan_text(plan)


def test_the_deadline_and_the_pods_are_the_file_s(place: Path) -> None:
    plan = plan_of(place, stages={"train": {"deadlineSeconds": 60}}, training={"nodes": 3})
    train = next(job for job in plan.jobs if job["stage"] == "train")
    assert (train["deadline_seconds"], train["pods"], train["image"], train["device"]) == (60, 3, "heavy", "gpu")


def test_mail_that_is_not_there_is_told_as_run_tells_it(place: Path) -> None:
    with pytest.raises(MissingInputError, match="no such file"):
        plan_of(place, sources=[{"mbox": "absent.mbox"}])


# ---- numbers of models


def facts_of(folder: Path) -> BaseFacts:
    facts = base_facts(ModelSpec(base=str(folder)), StoreOptions())
    assert facts is not None
    return facts


def test_the_numbers_of_a_base_model(tmp_path: Path) -> None:
    facts = facts_of(write_weights(tmp_path))
    assert facts.num_parameters == 100 * 8 * 2 + 2 * (64 + 128 + 0) + 8 + 8
    assert (facts.num_layers, facts.width, facts.vocabulary) == (2, 8, 100)
    assert facts.num_trainable(Lora(rank=4)) == 4 * 2 * (16 + 24)
    assert facts.num_trainable(Lora(rank=4, target_modules="q_proj")) == 4 * 2 * 16
    assert facts.num_trainable(Lora(rank=4, target_modules="q_proj, up_proj")) == 4 * 2 * (16 + 24)


def test_a_damaged_file_of_weights(tmp_path: Path) -> None:
    write_weights(tmp_path)
    for data in (b"", b"\xff" * 40, struct.pack("<Q", 10) + b"not json!!"):
        (tmp_path / "model.safetensors").write_bytes(data)
        with pytest.raises(InputError, match="not a safetensors file"):
            facts_of(tmp_path)


def test_a_model_on_the_hub_that_is_not_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert base_facts(ModelSpec(base="org/model", revision="a" * 40), StoreOptions()) is None


def test_the_trainable_parameters_are_those_that_peft_counts(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from ml.tiny import tiny_base

    from jobs.ml.adapters import add_adapter
    from jobs.ml.base_model import find_base, load_model

    folder = tiny_base(tmp_path / "tiny", ["some words to train a tokenizer on"])
    model = load_model(find_base(str(folder)), device=torch.device("cpu"))
    total = sum(parameter.numel() for parameter in model.parameters())
    adapted = add_adapter(model, rank=8, alpha=16, dropout=0.0, target_modules="all-linear", seed=1)
    trainable = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    facts = facts_of(folder)
    assert facts.num_trainable(Lora(rank=8)) == trainable
    assert facts.num_parameters == total


# ---- formulas


def test_the_memory_of_a_model_by_hand() -> None:
    facts = BaseFacts(1000, num_layers=2, width=8, vocabulary=100, linear={})
    memory = training_memory(facts, 50, TrainingSpec(precision="bf16"), 10)
    assert (memory.weights, memory.adapter, memory.gradients, memory.optimizer) == (2000, 200, 200, 400)
    assert memory.activations == 2 * 34 * 10 * 8
    assert memory.logits == 10 * 100 * 8
    assert memory.total == 2000 + 200 + 200 + 400 + 5440 + 8000
    single = training_memory(facts, 50, TrainingSpec(precision="fp32"), 10)
    assert (single.weights, single.activations) == (4000, 2 * 5440)
    saving = training_memory(facts, 50, TrainingSpec(precision="bf16", gradient_checkpointing=True), 10)
    assert saving.activations == 2 * 2 * 10 * 8 + 34 * 10 * 8
    quantized = training_memory(facts, 50, TrainingSpec(quantization="4bit"), 10)
    assert 500 < quantized.weights < 600


def test_the_memory_of_a_process_that_holds_a_share_of_the_model() -> None:
    """Of 3,000 weights 2,000 are in the four layers, two of which are whole at a time, and so are the other 1,000."""
    linear = {f"layers.{number}.up": (20, 20) for number in range(4)} | {"layers.0.down": (20, 20)}
    facts = BaseFacts(3000, num_layers=4, width=8, vocabulary=100, linear=linear)
    training = TrainingSpec(nodes=2, processes_per_node=5, shard_model=True)
    memory, whole = training_memory(facts, 200, training, 10), training_memory(facts, 200, TrainingSpec(), 10)
    assert memory.weights == 2 * (3000 // 10 + 1000 + 2000 * 2 // 4)
    assert memory.adapter == 4 * (200 // 10 + 200 * 2 // 4)
    assert memory.gradients == whole.gradients == 4 * 200
    assert memory.optimizer == 2 * 4 * 200 // 10
    assert (memory.activations, memory.logits) == (whole.activations, whole.logits)


def test_a_base_that_one_gpu_cannot_hold_is_told() -> None:
    facts = BaseFacts(70 * 10**9, num_layers=80, width=8192, vocabulary=128_256, linear={})
    (told,) = one_gpu_notes(facts, TrainingSpec(precision="bf16"))
    assert told.startswith("the base model takes 130 GiB in bf16: a GPU of 80 GiB cannot hold it. evaluate, ask and")
    assert told.endswith("unless training.shardModel cuts it up over them")
    for training in (TrainingSpec(quantization="4bit"), TrainingSpec(nodes=2, shard_model=True)):
        (told,) = one_gpu_notes(facts, training)
        assert told.endswith("give them several (stages.evaluate.resources)")
    facts = replace(facts, num_parameters=32 * 10**9)
    assert one_gpu_notes(facts, TrainingSpec(precision="bf16")) == []
    assert len(one_gpu_notes(facts, TrainingSpec(precision="fp32"))) == 1


def test_logits_are_held_in_blocks() -> None:
    facts = BaseFacts(1, num_layers=1, width=1, vocabulary=150_000, linear={})
    assert training_memory(facts, 1, TrainingSpec(), 16_384).logits == (1 << 26) * 8


@pytest.mark.parametrize(
    ("steps", "save_steps", "expected"),
    [([6, 6, 6], 500, 3), ([6, 6, 6], 6, 3), ([6, 6, 6], 4, 6), ([3], 1, 3), ([], 5, 0)],
)
def test_checkpoints_stand_every_so_often_and_at_each_epoch_s_end(
    steps: list[int], save_steps: int, expected: int
) -> None:
    assert num_checkpoints(steps, save_steps) == expected


def test_sizes() -> None:
    assert checkpoint_bytes(10) == 120
    assert [size(number) for number in (0, 1023, 1536, 5 << 20, 3 << 40)] == [
        *("0 bytes", "1023 bytes", "1.5 KiB", "5.0 MiB", "3.0 TiB")
    ]
