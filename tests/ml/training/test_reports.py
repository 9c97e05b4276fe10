"""Losses sent to tools that are not installed here, and to one that stands in for such a tool."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from ml.training.runs import cut, data_of, losses, of_train, schedule, train

from jobs.contracts.errors import ConfigError
from jobs.items import LocalItems


@pytest.fixture(scope="module")
def data(chunks: Any, encoder: Any) -> Any:
    return data_of(chunks, encoder, schedule(cut(of_train(chunks, 12), 4)))


@pytest.mark.parametrize("tool", ["wandb", "mlflow"])
def test_a_tool_that_is_not_installed(base: Any, data: Any, tmp_path: Path, tool: str) -> None:
    if find_spec(tool):
        pytest.skip(f"{tool} is installed")
    with pytest.raises(ConfigError, match=f"{tool} is not installed") as caught:
        train(base, data, tmp_path / "run", report_to=(tool,))
    assert f"pip install {tool}," in caught.value.hint
    assert LocalItems(tmp_path / "run").names() == []


STUBS = {
    "wandb/__init__.py": """\
run, logged, config = None, [], {}
class Run:
    def __init__(self): self.summary = {}
    def _label(self, **_): pass
def init(**_):
    global run
    run = Run()
def log(values): logged.append(values)
""",
    "wandb/sdk/lib/config_util.py": "class ConfigError(Exception): pass\n",
    "mlflow/__init__.py": """\
from types import SimpleNamespace
__version__, logged, active = "3.0.0", [], []
utils = SimpleNamespace(validation=SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100))
def is_tracking_uri_set(): return True
def get_tracking_uri(): return ""
def active_run(): return active[-1] if active else None
def start_run(**_): active.append(SimpleNamespace(info=SimpleNamespace(run_id="1")))
def end_run(): active.pop()
def log_params(*_, **__): pass
def log_metrics(metrics, step, synchronous): logged.append({**metrics, "train/global_step": step})
""",
}
"""As much of each tool as transformers' own callback for it calls."""


@pytest.mark.parametrize(("tool", "prefix"), [("wandb", ("train/", "eval/")), ("mlflow", ("", "eval_"))])
def test_transformers_own_callback_hands_the_losses_on(
    base: Any, data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str, prefix: tuple[str, str]
) -> None:
    for name, text in STUBS.items():
        (tmp_path / "stubs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "stubs" / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "stubs")
    before = set(sys.modules)
    try:
        outcome = train(base, data, tmp_path / "run", report_to=(tool,))
        stub = sys.modules[tool]
    finally:
        for name in set(sys.modules) - before:
            if name.partition(".")[0] == tool:
                del sys.modules[name]
    assert stub.__file__.startswith(str(tmp_path)), "the real one is installed"
    sent = {kind: {} for kind in prefix}
    for line in stub.logged:
        for kind in prefix:
            if f"{kind}loss" in line:
                sent[kind][line["train/global_step"]] = line[f"{kind}loss"]
    assert sent[prefix[0]] == dict(enumerate(losses(outcome), 1))
    assert list(sent[prefix[1]].values()) == losses(outcome, "eval_loss")
