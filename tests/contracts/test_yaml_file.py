"""A cycle's file as JSON: what a pod is given, and what `kubectl get -o json` prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contracts.cycle import load_cycle
from jobs.contracts.errors import ConfigError, MissingInputError
from jobs.contracts.yaml_file import read_yaml

CYCLE: dict[str, Any] = {
    "apiVersion": "refrain.dev/v1alpha1",
    "kind": "RetrainCycle",
    "metadata": {"name": "week-27", "uid": "7", "managedFields": [{"time": "2025-07-01T00:00:00Z"}]},
    "spec": {
        "archive": "workshop",
        "store": {"url": "s3://refrain"},
        "model": {"base": "org/model"},
        "training": {"learningRate": 1e-05},
        "rehearsal": {"ratio": "1:4"},
        "filters": {"exclude": [{"subject": "\U0001f600 *\u2028é\x7f"}]},
    },
    "status": {"state": "Running"},
}


@pytest.mark.parametrize("indent", [None, 4, "\t"])
@pytest.mark.parametrize("ascii_alone", [True, False])
def test_a_cycle_as_json(tmp_path: Path, indent: int | str | None, ascii_alone: bool) -> None:
    (tmp_path / "cycle.json").write_text(json.dumps(CYCLE, indent=indent, ensure_ascii=ascii_alone))
    spec = load_cycle(tmp_path / "cycle.json").spec
    assert (spec.training.learning_rate, spec.rehearsal.ratio) == (1e-05, "1:4")
    assert spec.filters.exclude[0].subject == "\U0001f600 *\u2028é\x7f"


@given(st.recursive(st.none() | st.integers() | st.text(), lambda one: st.dictionaries(st.text(), one) | st.lists(one)))
def test_json_is_read_as_json(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "document.json"
    path.write_text(json.dumps({"value": value}))
    assert read_yaml(path).value == {"value": value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(CYCLE, indent=2).replace('"base"', '"bass"'), r"cycle.json, line 18: spec.model.base: is required"),
        (
            json.dumps(CYCLE, indent="\t").replace('"base"', '"bass"'),
            "cycle.json, line 1: spec.model.base: is required",
        ),
        ('{"kind": "RetrainCycle", "kind": "RetrainCycle"}', "'kind' twice"),
        ('{"kind": NaN}', "apiVersion"),
        ('{"kind": "RetrainCycle"', "not YAML"),
    ],
)
def test_what_is_wrong_in_json_is_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "cycle.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_cycle(tmp_path / "cycle.json")


def test_yaml_that_begins_like_json(tmp_path: Path) -> None:
    (tmp_path / "cycle.yaml").write_text("{kind: RetrainCycle, ratio: 1:4}")
    assert read_yaml(tmp_path / "cycle.yaml").value == {"kind": "RetrainCycle", "ratio": "1:4"}


def test_a_variable_may_hold_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a TrainJob's pod, which has no annotations of ours."""
    monkeypatch.setenv("REFRAIN_CYCLE", '{"a": 1}')
    assert read_yaml(Path("env:REFRAIN_CYCLE")).value == {"a": 1}
    with pytest.raises(MissingInputError, match="no such variable"):
        read_yaml(Path("env:REFRAIN_OTHER"))
