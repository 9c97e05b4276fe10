"""Advice for each reason of the code, on the command line and in docs/operate.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from controller.cli import advice, command

ROOT = Path(__file__).parents[2]


def reasons_in_the_code() -> set[str]:
    """Words in CamelCase of the modules that plan, and of `select`: reasons, and what is known to be something else."""
    modules = (
        "plan",
        "planning",
        "accepting",
        "running",
        "symptoms",
        "noting",
        "promoting",
        "former",
        "healing",
        "turns",
        "status",
    )
    files = [ROOT / "controller" / f"{name}.py" for name in modules]
    words = {
        node.value
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    chosen = (ROOT / "jobs" / "selection" / "decision.py").read_text()
    words |= set(re.findall(r'reason="(\w+)"', chosen))
    return {word for word in words if re.fullmatch(r"[A-Z][a-z]+([A-Z][a-z]+)*", word)} - NO_REASONS


NO_REASONS = {
    *("True", "False", "Unknown", "Complete", "Succeeded", "Progressing", "Running", "Failed", "Skipped"),
    *("Announced", "Restoring", "Withheld", "Promote", "Automatic"),
    *("PodFailurePolicy", "TrainingRuntimeNotSupported", "FailedIndexes", "PodScheduled", "Ready", "ReplicaFailure"),
    *("Error",),
    *("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"),
    *("CreateContainerConfigError", "CreateContainerError", "RunContainerError"),
}
"""States, phases, and Kubernetes' own words."""
NOT_IN_THE_CODE = {"SchedulingGated", "SchedulerError", "NotPromoted"}
"""The scheduler's, taken over as they come; and the fallback of a result without a reason."""


def test_every_reason_is_explained_and_no_other():
    assert reasons_in_the_code() - advice.REASONS.keys() == set(), (
        "say them in controller/cli/advice.py, `make generate`"
    )
    assert advice.REASONS.keys() - reasons_in_the_code() == NOT_IN_THE_CODE


def test_each_reason_stands_once():
    assert sum(len(group) for group in advice.GROUPS.values()) == len(advice.REASONS)


def test_the_page_has_every_reason():
    text = (ROOT / "docs" / "operate.md").read_text()
    assert "\n".join(advice.page()).rstrip() in text, "make generate"


def test_commands_that_are_advised_are_there():
    named = [(ROOT / "docs" / "operate.md").read_text(), *(word for pair in advice.REASONS.values() for word in pair)]
    named += [path.read_text() for path in (ROOT / "controller").rglob("*.py")]
    found = {word for text in named for word in re.findall(r"refrain cycle ([a-z]+)", text)}
    assert found - {"follows"} <= command.commands.keys()
    table = re.findall(r"\| `([a-z]+) [^|]*\| `?", (ROOT / "docs" / "operate.md").read_text())
    assert set(table) >= command.commands.keys() - {"list", "resume"}


def test_advice_names_the_cycle():
    assert advice.what_to_do("Suspended", "w1") == "refrain cycle resume w1"
    assert advice.what_to_do("NotBetter", "w1") == ""
    assert advice.what_to_do("OfTomorrow", "w1") == ""
