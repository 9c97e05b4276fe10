"""The stage table is sound: it can be run in order, and everything in it exists."""

from __future__ import annotations

from graphlib import TopologicalSorter
from importlib import import_module
from inspect import signature
from itertools import chain

import click
import pytest

from jobs.cli import COMMANDS
from jobs.contracts.artifacts import ARTIFACTS
from jobs.contracts.stages import STAGES, Stage, stage, writer


def before(row: Stage) -> set[str]:
    """All stages that must have succeeded before, directly or not."""
    return set(row.after).union(*(before(stage(name)) for name in row.after))


def test_ten_stages_each_named_once():
    assert len(STAGES) == len({row.name for row in STAGES}) == 10


def test_the_order_of_the_table_is_an_order_to_run_in():
    graph = {row.name: row.after for row in STAGES}
    assert set(TopologicalSorter(graph).static_order()) == {row.name for row in STAGES}
    for number, row in enumerate(STAGES):
        assert set(row.after) <= {earlier.name for earlier in STAGES[:number]}


def test_every_artifact_has_one_writer():
    written = sorted(chain.from_iterable(row.writes for row in STAGES))
    assert written == sorted(ARTIFACTS)


@pytest.mark.parametrize("row", STAGES, ids=lambda row: row.name)
def test_what_a_stage_reads_was_written_before_it_runs(row):
    for kind in row.reads:
        assert writer(kind).name in before(row), f"{row.name} reads {kind}"
        assert writer(ARTIFACTS[kind]) == writer(kind)


@pytest.mark.parametrize("name", [row.name for row in STAGES])
def test_a_stage_has_its_module_and_its_command(name):
    module = import_module(stage(name).module)
    assert list(signature(module.run).parameters) == ["config", "inputs", "outputs"]
    assert module.Config.__dataclass_params__.frozen
    assert isinstance(import_module(f"jobs.cli.{name}").command, click.Command)
    assert COMMANDS[name] == stage(name).summary


def test_gpus_and_heavy_images_are_only_where_they_are_used():
    assert {row.name for row in STAGES if row.device == "gpu"} == {"train", "evaluate"}
    assert {row.name for row in STAGES if row.image == "heavy"} == {"train", "index", "evaluate"}


def test_an_unknown_stage_or_artifact_is_a_key_error():
    with pytest.raises(KeyError, match="deploy"):
        stage("deploy")
    with pytest.raises(KeyError, match="embeddings"):
        writer("embeddings")
