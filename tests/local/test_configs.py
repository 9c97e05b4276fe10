"""From a cycle's spec to the stages' settings: every field of it arrives somewhere."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from local.cycles import cycle_of, document, spec_of
from pydantic import BaseModel

from jobs.contracts.cycle import CycleSpec, RetrainCycle
from jobs.contracts.cycle.data import FilterRule, Source
from jobs.contracts.stages import STAGES
from jobs.local.configs import POD_FIELDS, RUN_FIELDS, Machine, ignored_fields, stage_config
from jobs.local.places import located
from jobs.local.spec_fields import field_of
from jobs.stages import settings_of

COMMIT = "0123456789abcdef" * 2 + "01234567"

MAPPED: dict[str, tuple[Any, dict[str, Any]]] = {
    "sources": ([{"imap": "imaps://ann@mail.example/INBOX"}], {"parse.sources": ("imaps://ann@mail.example/INBOX",)}),
    "filters.include": ([{"list": "raid*"}], {"parse.include": ("list:raid*",)}),
    "filters.exclude": ([{"from": "*@spam.example"}], {"parse.exclude": ("from:*@spam.example",)}),
    "split.ratios.train": (70, {"split.ratios": (70.0, 10.0, 10.0)}),
    "split.ratios.val": (20, {"split.ratios": (80.0, 20.0, 10.0)}),
    "split.ratios.test": (20, {"split.ratios": (80.0, 10.0, 20.0)}),
    "split.seed": (
        7,
        {"split.seed": 7, "rehearse.seed": 7, "sample.seed": 7, "train.seed": 7, "evaluate.seed": 7},
    ),
    "split.windowSize": (50, {"split.window_size": 50}),
    "split.windowOverlap": (5, {"split.window_overlap": 5}),
    "split.maxTokens": (512, {"split.max_tokens": 512}),
    "window.period": ("month", {"split.window_period": "month"}),
    "window.active": (3, {"rehearse.active_windows": 3, "sample.active_windows": 3}),
    "window.minNewMessages": (33, {"window.min_new_messages": 33}),
    "persona": (["ann@x.example"], {"evaluate.persona": ("ann@x.example",)}),
    "rehearsal.ratio": ("1:9", {"sample.replay_ratio": "1:9"}),
    "rehearsal.maxShare": (0.1, {"sample.max_share": "0.1"}),
    "rehearsal.minPerBucket": (5, {"sample.min_per_bucket": 5}),
    "rehearsal.maxPerBucket": (6, {"rehearse.max_per_bucket": 6}),
    "rehearsal.maxSamples": (123, {"rehearse.max_rehearsal_samples": 123, "sample.max_samples": 123}),
    "model.base": (
        "org/model",
        {"split.tokenizer": "org/model", "train.base": "org/model", "evaluate.base": "org/model"},
    ),
    "model.revision": (COMMIT, {"train.revision": COMMIT, "evaluate.revision": COMMIT}),
    "model.startFrom": ("Base", {"train.start_from": "Base"}),
    "model.lora.rank": (4, {"train.rank": 4, "train.alpha": 8.0}),
    "model.lora.alpha": (8, {"train.alpha": 8.0}),
    "model.lora.dropout": (0.25, {"train.dropout": 0.25}),
    "model.lora.targetModules": ("q_proj,v_proj", {"train.target_modules": "q_proj,v_proj"}),
    "training.epochs": (5, {"sample.epochs": 5}),
    "training.learningRate": (0.5, {"train.learning_rate": 0.5}),
    "training.batchSize": (3, {"sample.batch_size": 3}),
    "training.batchTokens": (999, {"sample.batch_tokens": 999}),
    "training.learningRateSchedule": ("linear", {"train.learning_rate_schedule": "linear"}),
    "training.warmupRatio": (0.5, {"train.warmup_ratio": 0.5}),
    "training.weightDecay": (0.5, {"train.weight_decay": 0.5}),
    "training.maxGradNorm": (3.5, {"train.max_grad_norm": 3.5}),
    "training.gradientAccumulation": (4, {"train.gradient_accumulation": 4}),
    "training.microBatchTokens": (777, {"train.micro_batch_tokens": 777}),
    "training.gradientCheckpointing": (True, {"train.gradient_checkpointing": True}),
    "training.quantization": ("4bit", {"train.quantization": "4bit"}),
    "training.reportTo": (["tensorboard"], {"train.report_to": ("tensorboard",)}),
    "training.saveSteps": (9, {"train.save_steps": 9}),
    "training.earlyStopping.patience": (8, {"train.patience": 8, "train.min_delta": 0.001}),
    "training.earlyStopping.minDelta": (0.5, {"train.patience": 3, "train.min_delta": 0.5}),
    "training.processesPerNode": (2, {"train.processes": 2}),
    "training.shardModel": (True, {"train.shard_model": True}),
    "training.precision": ("fp32", {"train.precision": "fp32", "evaluate.precision": "fp32"}),
    "evaluation.topK": (9, {"evaluate.top_k": 9, "select.top_k": 9}),
    "evaluation.embeddingModel": (
        "org/embed",
        {"index.embedding_model": "org/embed", "evaluate.embedding_model": "org/embed"},
    ),
    "evaluation.maxQueries": (11, {"evaluate.max_queries": 11}),
    "evaluation.maxNewTokens": (12, {"evaluate.max_new_tokens": 12}),
    "evaluation.ragMetric": ("bleu", {"evaluate.rag_metric": "bleu"}),
    "evaluation.batchTokens": (512, {"evaluate.batch_tokens": 512}),
    "selection.strategy": ("Pareto", {"select.strategy": "Pareto"}),
    "selection.weights": ({"ppl": 0.4, "recall": 0.2}, {"select.weights": (("ppl", 0.4), ("recall", 0.2))}),
    "selection.thresholds": (["val_perplexity <= 15"], {"select.thresholds": ("val_perplexity <= 15",)}),
    "selection.improvementThreshold": (0.5, {"select.improvement_threshold": 0.5}),
    "selection.maxRetrainAttempts": (5, {"select.max_retrain_attempts": 5}),
    "selection.ladder": ([{"learningRateFactor": 3, "replayAtCap": True}], {"select.ladder": ("3.0:cap",)}),
    "promotion.mode": ("Manual", {"promote.mode": "Manual"}),
    "promotion.gate.confidence": (0.9, {"select.confidence": 0.9}),
    "promotion.gate.minThreads": (44, {"select.min_threads": 44}),
    "promotion.approve": ("a" * 64, {"promote.approve": "a" * 64}),
}
"""Each field with a value that is not its default, and what the stages' settings are then."""

OF_PODS: dict[str, Any] = {
    "store.secretRef.name": "secret",
    "training.nodes": 4,
    "evaluation.pods": 3,
    "promotion.timeoutSeconds": 5,
    "promotion.approvalTimeoutSeconds": 5,
    "deadlineSeconds": 5,
    "stages": {"train": {"deadlineSeconds": 5}},
    "ttlSecondsAfterFinished": 5,
}
OF_RUNS = {
    *("archive", "store.url", "store.endpoint", "store.region", "store.sse", "store.sseKmsKeyId"),
    *("store.addressingStyle", "retention.checkpoints", "retention.cycles", "suspend"),
}

ANY_TIME = {"micro_batch_tokens", "report_to", "processes", "shard_model", "mode", "approve"}
"""Settings that may change where a stage has finished."""


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted names of all fields that are no models themselves, lists and maps whole."""
    for name, field in model.model_fields.items():
        dotted = f"{prefix}{field.alias or name}"
        inner = [one for one in (field.annotation, *get_args(field.annotation)) if is_model(one)]
        if inner and get_origin(field.annotation) in (list, dict):
            yield dotted
        elif inner:
            yield from leaves(inner[0], f"{dotted}.")
        else:
            yield dotted


def is_model(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def cycle_with(path: str, value: Any) -> RetrainCycle:
    spec = copy.deepcopy(spec_of())
    place = spec
    *steps, last = path.split(".")
    for step in steps:
        place = place.setdefault(step, {})
    place[last] = value
    if last == "sseKmsKeyId":
        place["sse"] = "aws:kms"
    if last == "shardModel":
        place["nodes"] = 2  # no setting of a stage
    return located(RetrainCycle.model_validate(document("w1", spec)), Path("/there"))


def settings(cycle: RetrainCycle, attempt: int = 0) -> dict[str, Any]:
    """All settings of all stages, by `stage.field`."""
    return {
        f"{row.name}.{name}": value
        for row in STAGES
        if find_spec(row.module)
        for name, value in asdict(stage_config(row.name, cycle, attempt)).items()
    }


def test_every_field_of_the_spec_is_mapped_or_known_to_be_no_setting():
    assert set(leaves(CycleSpec)) == {*MAPPED, *OF_PODS, *OF_RUNS}
    assert all(name.startswith(POD_FIELDS) for name in OF_PODS)
    assert all(name.split(".")[0] in RUN_FIELDS for name in OF_RUNS)


@pytest.mark.parametrize("path", MAPPED)
def test_a_field_changes_these_settings_and_no_others(path):
    value, expected = MAPPED[path]
    before, after = settings(cycle_with("suspend", False)), settings(cycle_with(path, value))
    changed = {name: after[name] for name in after if after[name] != before[name]}
    expected = {name: value for name, value in expected.items() if name in after and before[name] != value}
    assert changed == expected
    assert changed


@pytest.mark.parametrize("path", [*OF_PODS, *sorted(OF_RUNS - {"archive", "store.url"})])
def test_what_is_about_pods_or_the_run_changes_no_setting(path):
    values = OF_PODS | {
        "store.endpoint": "http://minio:9000",
        "store.region": "eu-1",
        "store.sse": "aws:kms",
        "store.sseKmsKeyId": "key",
        "store.addressingStyle": "path",
        "retention.checkpoints": 9,
        "retention.cycles": 9,
        "suspend": True,
    }
    cycle = cycle_with(path, values[path])
    assert settings(cycle) == settings(cycle_with("suspend", False))
    ignored = [name for name in POD_FIELDS if path.startswith(name)]
    assert ignored_fields(cycle.spec) == ignored
    assert bool(ignored) == (path in OF_PODS)


def test_a_spec_of_defaults_has_nothing_to_be_ignored():
    assert ignored_fields(cycle_of(Path("/there")).spec) == []


@pytest.mark.parametrize("kind", Source.model_fields)
def test_every_kind_of_source_is_read(kind):
    place = "imaps://ann@mail.example/INBOX" if kind == "imap" else f"/mail/{kind}"
    assert stage_config("parse", cycle_with("sources", [{kind: place}])).sources == (place,)


@pytest.mark.parametrize("name", FilterRule.model_fields)
def test_every_kind_of_filter_rule_is_understood_by_parse(name):
    from jobs.mail.filters import Filters

    alias = FilterRule.model_fields[name].alias or name
    config = stage_config("parse", cycle_with("filters", {"include": [{alias: "x*"}], "exclude": [{alias: "y*"}]}))
    assert (config.include, config.exclude) == ((f"{alias}:x*",), (f"{alias}:y*",))
    Filters.parse(config.include, config.exclude)


def test_further_attempts_go_down_the_ladder():
    cycle = cycle_of(Path("/there"), rehearsal={"ratio": "1:9", "maxShare": 0.15})
    first, second, third = (settings(cycle, attempt) for attempt in range(3))
    assert [one["train.learning_rate"] for one in (first, second, third)] == [2e-4, 1e-4, 5e-5]
    assert [one["sample.replay_ratio"] for one in (first, second, third)] == ["1:9", "1:9", "0.15"]
    assert [one["sample.seed"] for one in (first, second, third)] == [42, 43, 44]
    same = {name for name in first if first[name] == second[name] == third[name]}
    assert set(first) - same == {"train.learning_rate", "sample.replay_ratio", "sample.seed"}


def test_a_ladder_of_ones_own():
    ladder = [{"learningRateFactor": 2.0, "replayAtCap": True}, {}, {"learningRateFactor": 0.25}]
    cycle = cycle_of(Path("/there"), rehearsal={"ratio": "1:9", "maxShare": 0.15}, selection={"ladder": ladder})
    attempts = [settings(cycle, attempt) for attempt in range(6)]
    rates = [one["train.learning_rate"] for one in attempts]
    assert rates == pytest.approx([2e-4, 4e-4, 2e-4, 5e-5, 5e-5, 5e-5])
    assert [one["sample.replay_ratio"] for one in attempts] == ["1:9", "0.15", "1:9", "1:9", "1:9", "1:9"]
    assert {one["select.ladder"] for one in attempts} == {("2.0:cap", "1.0", "0.25")}


def test_the_ladder_of_the_spec_is_that_of_select():
    from jobs.selection.ladder import LADDER
    from jobs.stages.select import Config, rules_of

    assert settings(cycle_of(Path("/there")))["select.ladder"] == Config().ladder
    assert rules_of(Config()).ladder == LADDER


def test_replay_at_its_cap_is_what_sample_takes():
    from jobs.replay.allocation import parse_ratio, parse_share

    for max_share in (0, 0.2, 1e-5, 0.99):
        cycle = cycle_of(Path("/there"), rehearsal={"maxShare": max_share})
        config = stage_config("sample", cycle, 2)
        parse_share(config.max_share, "cap")
        assert parse_ratio(config.replay_ratio) >= 0


def test_the_tokenizer_of_a_model_on_the_hub_is_pinned():
    cycle = cycle_of(Path("/there"), model={"base": "org/model", "revision": COMMIT})
    assert stage_config("split", cycle).tokenizer == f"org/model@{COMMIT}"


def test_the_machine_changes_how_alone():
    cycle = cycle_of(Path("/there"))
    machine = Machine(workers=3, device="cpu", progress_port=9)
    for row in STAGES:
        if find_spec(row.module):
            here, there = stage_config(row.name, cycle, machine=machine), stage_config(row.name, cycle)
            assert settings_of(here) == settings_of(there)
    assert stage_config("split", cycle, machine=machine).workers == 3
    assert stage_config("train", cycle, machine=machine).device == "cpu"


def test_the_commit_of_an_embedding_model_stands_behind_its_name():
    cycle = cycle_of(Path("/there"), evaluation={"embeddingModel": f"org/embed@{'a' * 40}"})
    given = settings(cycle)
    assert (given["index.embedding_model"], given["index.embedding_revision"]) == ("org/embed", "a" * 40)
    assert given["evaluate.embedding_model"] == "org/embed"


def test_each_setting_is_told_by_the_field_that_it_comes_from() -> None:
    for setting in {place.partition(".")[2] for _, moved in MAPPED.values() for place in moved}:
        fields = [field for field, (_, moved) in MAPPED.items() if any(one.endswith(f".{setting}") for one in moved)]
        told = field_of(setting)
        if told is None:
            assert setting in ANY_TIME
        else:
            assert any(field == told or field.startswith(f"{told}.") for field in fields), setting
