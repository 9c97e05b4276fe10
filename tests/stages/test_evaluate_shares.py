"""Evaluation shared among machines: the same bytes as one machine's, whatever the shares."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from components import require

try:
    from evaluating import CYCLE, World, make_world, write_adapter
except ImportError:
    make_world = None  # type: ignore[assignment]

from jobs.contracts.errors import InputError, IntegrityError
from jobs.contracts.shares import Share
from jobs.evaluation.shares import dealt, gathered
from jobs.items import LocalItems
from jobs.selection.decision import decide
from jobs.selection.evaluation import read_evaluations
from jobs.selection.rules import Rules
from jobs.stages import Inputs, Outputs, evaluate

STEPS = (4, 12, 20)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Base, incumbent and three checkpoints."""
    require(make_world, "torch is not installed")
    world = make_world(tmp_path_factory.mktemp("world"))
    items = LocalItems(world.folder / "checkpoints")
    write_adapter(world.base, items.folder / "step_20", seed=20, size=0.02)
    items.publish("step_20")
    return world


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, Any]]:
    """What one machine writes, and its result."""
    out = tmp_path_factory.mktemp("whole") / "eval_results.json"
    result = evaluate.run(world.config(), inputs_of(world), Outputs({"eval_results": out}))
    return out.read_bytes(), result


@pytest.fixture(scope="module")
def thirds(world: World) -> list[dict[str, Any]]:
    return [one_share(world, Share(index, 3)) for index in range(3)]


def inputs_of(world: World) -> Inputs:
    return Inputs(world.paths, world.archive, CYCLE)


def one_share(world: World, share: Share) -> dict[str, Any]:
    """A share as it lies in the store."""
    part = evaluate.share(world.config(), inputs_of(world), share)
    return json.loads(json.dumps(part))  # type: ignore[no-any-return]


def put_together(world: World, parts: Sequence[dict[str, Any] | None], folder: Path) -> tuple[bytes, dict[str, Any]]:
    """As a machine does it that has no model and no artifact."""
    out = folder / "eval_results.json"
    outputs = Outputs({"eval_results": out})
    result = evaluate.gather(world.config(base="/nowhere"), Inputs({}, world.archive, CYCLE), outputs, parts)
    return out.read_bytes(), result


@pytest.mark.parametrize("num", [1, 2, 7])
def test_shares_give_the_bytes_of_one_machine(
    world: World, whole: tuple[bytes, dict[str, Any]], tmp_path: Path, num: int
) -> None:
    """Two: the best is scored beside others; seven are more than there are adapters."""
    assert put_together(world, [one_share(world, Share(index, num)) for index in range(num)], tmp_path) == whole


def test_three_shares_give_the_bytes_of_one_machine(
    world: World, whole: tuple[bytes, dict[str, Any]], thirds: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert put_together(world, thirds, tmp_path) == whole
    assert json.loads(whole[0])["not_scored"] == []
    assert [[one["place"] for one in part["scored"]] for part in thirds] == [[0, 1], [3], [2, 4]]


def test_what_was_not_scored_is_named_and_the_rest_is_as_it_was(
    world: World, whole: tuple[bytes, dict[str, Any]], thirds: list[dict[str, Any]], tmp_path: Path
) -> None:
    data, result = put_together(world, [thirds[0], thirds[1], None], tmp_path)
    found, all_of_it = json.loads(data), json.loads(whole[0])
    assert found["not_scored"] == ["step_4", "step_20"]
    assert found["notes"][-1] == "not scored, for their pods failed: step_4, step_20"
    assert found["checkpoints"] == [one for one in all_of_it["checkpoints"] if one["path"] == "step_12"]
    for name in ("base", "incumbent", "val", "test", "retrieval", "people"):
        assert found[name] == all_of_it[name], name
    assert found["controls"]["model"] == found["forgetting"]["best_path"] == "step_12"
    assert (result["num_checkpoints"], result["num_not_scored"], result["not_scored"]) == (1, 2, ["step_4", "step_20"])
    decision = decide(read_evaluations([(found, "eval_results.json")]), Rules())
    assert [one.path for one in decision.evaluation.candidates] == ["step_12"]
    assert "not scored, and so no candidates: step_4, step_20" in decision.notes


def test_without_what_is_in_service_nothing_is_chosen(
    world: World, thirds: list[dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="bare base model was not scored"):
        put_together(world, [None, *thirds[1:]], tmp_path)
    only_base = thirds[0] | {"scored": [one for one in thirds[0]["scored"] if one["place"] == 0]}
    with pytest.raises(InputError, match="what is in service was not scored"):
        put_together(world, [only_base, *thirds[1:]], tmp_path)
    assert not (tmp_path / "eval_results.json").exists()


def test_without_a_checkpoint_nothing_is_chosen(world: World, thirds: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint was scored"):
        put_together(world, [thirds[0], None, None], tmp_path)
    with pytest.raises(InputError, match="nothing was scored"):
        put_together(world, [None, None, None], tmp_path)


def test_shares_of_different_mail_are_refused(world: World, thirds: list[dict[str, Any]]) -> None:
    other = thirds[1] | {"work": thirds[1]["work"] | {"window_idx": 99}}
    with pytest.raises(IntegrityError, match="different mail"):
        gathered([thirds[0], other, thirds[2]])


def test_a_share_alone_does_not_score_the_others(world: World, tmp_path: Path) -> None:
    """What is damaged is found by all, but only the own adapters go through the model."""
    copied = tmp_path / "checkpoints"
    shutil.copytree(world.paths["checkpoints"][0], copied)
    part = evaluate.share(
        world.config(max_queries=0), Inputs(world.paths | {"checkpoints": [copied]}, world.archive, CYCLE), Share(6, 7)
    )
    assert [one["entry"]["path"] for one in part["scored"]] == ["step_4"]


@pytest.mark.parametrize("num_others", [1, 2])
@pytest.mark.parametrize("num_checkpoints", [1, 3, 10])
@pytest.mark.parametrize("num", [1, 2, 3, 4, 16])
def test_every_adapter_is_dealt_once_and_evenly(num: int, num_checkpoints: int, num_others: int) -> None:
    total = num_others + num_checkpoints
    shares = [dealt(total, num_others, Share(index, num)) for index in range(num)]
    assert sorted(place for share in shares for place in share) == list(range(total))
    assert shares[0][:num_others] == list(range(num_others))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= max(1, num_others if num > num_checkpoints else 1)
