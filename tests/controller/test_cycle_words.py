"""What `refrain cycle` says: tables, changes, advice, errors, and what is taken out of a bug report."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from controller_world import WINNER, World
from cyclespecs import MINIMAL, one_field_each
from hypothesis import given
from hypothesis import strategies as st

from controller.api import ApiError
from controller.cli import advice, command
from controller.cli.cluster import refusal
from controller.cli.creating import read_document
from controller.cli.logs import in_order
from controller.cli.redaction import REMOVED, document, masked
from controller.cli.tables import age, cycle_table, duration, stage_table
from controller.cli.told import changes, described, end_words, failure, newest, status_line
from controller.cycles import Cycle, read_cycle
from controller.objects import written
from controller.structural import structural_schema
from jobs.contracts.cycle import load_cycle
from jobs.contracts.cycle.spec import CycleSpec, RetrainCycle
from jobs.contracts.errors import AccessError, ConfigError, InputError, MissingInputError, RefrainError, TransientError

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)


def cycle(state: str = "Running", name: str = "w1", minutes: float = 0, **status: Any) -> Cycle:
    world = World(now=NOW - timedelta(minutes=90))
    world.add(name)
    raw = world.cycles[name]
    raw["status"] = {"state": state, **status}
    return read_cycle(raw)


def entry(name: str, state: str, minutes: float, **others: Any) -> dict[str, Any]:
    started = NOW - timedelta(minutes=minutes)
    ended = {} if state == "Running" else {"completedAt": written(started + timedelta(seconds=95))}
    return {"name": name, "state": state, "job": f"w1-{name}-0-0-abc", "startedAt": written(started), **ended, **others}


def condition(kind: str, truth: str, reason: str, message: str = "") -> dict[str, Any]:
    since = written(NOW - timedelta(minutes=3))
    return {"type": kind, "status": truth, "reason": reason, "message": message, "lastTransitionTime": since}


# ---- tables


def test_a_table_of_cycles():
    rows = [
        cycle(
            stage="train",
            windowIdx=212,
            progress={"percent": 43.4},
            stages=[entry("train", "Running", 5)],
        ),
        cycle(
            "Promoted",
            "linux-raid-2026-w47",
            stage="promote",
            decision={"outcome": "Promote", "delta": 0.03127},
            conditions=[condition("Promoted", "True", "Better")],
        ),
        cycle("Pending", "new"),
    ]
    assert list(cycle_table(rows, NOW)) == [
        "NAME                 ARCHIVE   STATE     STAGE    PROGRESS  WINDOW    DELTA  PROMOTED    AGE",
        "w1                   workshop  Running   train         43%     212        -  -         1h30m",
        "linux-raid-2026-w47  workshop  Promoted  promote         -       -  +0.0313  True      1h30m",
        "new                  workshop  Pending   -               -       -        -  -         1h30m",
    ]


def test_a_table_of_stages():
    stages = cycle(
        stages=[
            entry("parse", "Succeeded", 80, result={"num_mails": 1200, "sha256": "ab" * 32, "skipped": False, "x": {}}),
            entry("train", "Failed", 5, attempt=1, run=2, message="train: \x1b[31mno"),
        ]
    ).status.stages
    assert list(stage_table(stages, NOW)) == [
        "STAGE  ATTEMPT  RUN  STATE      STARTED                TOOK  RESULT",
        "parse        0    0  Succeeded  2026-01-05 04:40:00Z  1m35s  1,200 mails, sha256 abababababab",
        "train        1    2  Failed     2026-01-05 05:55:00Z  1m35s  train:  [31mno",
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-3, "0s"),
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (200, "3m20s"),
        (1260, "21m"),
        (18_600, "5h10m"),
        (864_000, "10d"),
    ],
)
def test_durations(seconds: float, said: str):
    assert duration(seconds) == said
    assert age(written(NOW), NOW + timedelta(seconds=seconds)) == said


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_a_longer_duration_never_reads_as_a_shorter_one(one: float, other: float):
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

    def read(text: str) -> int:
        return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([smhd])", text))

    assert (read(duration(one)) <= read(duration(other))) == (one <= other) or read(duration(one)) == read(
        duration(other)
    )
    assert 0 <= one - read(duration(one)) < max(1, one / 5)


# ---- one cycle in words


def test_a_failed_cycle_says_once_what_to_do():
    failed = cycle(
        "Failed",
        stage="train",
        stages=[entry("train", "Failed", 5, message="train: cut (exit code 65)")],
        conditions=[
            condition("Accepted", "True", "Accepted", "the spec is followed as it stands"),
            condition("Complete", "True", "StageFailed", "train: cut (exit code 65)"),
            condition("Succeeded", "False", "StageFailed", "train: cut (exit code 65)"),
            condition("Promoted", "False", "StageFailed", "train: cut (exit code 65)"),
        ],
    )
    event = {"type": "Warning", "reason": "StageFailed", "message": "cut", "lastTimestamp": written(NOW)}
    lines = list(described(failed, [event], NOW))
    assert lines[:3] == [
        "cycle     w1 in namespace mail, created 1h30m ago",
        "state     Failed: train",
        "archive   workshop in s3://refrain",
    ]
    assert "  Succeeded False: StageFailed, 3m ago" in lines
    (todo,) = [line for line in lines if "→" in line]
    assert "refrain cycle retry w1" in todo
    assert "refrain cycle logs w1 train" in todo
    assert lines[-1] == "  0s ago  Warning StageFailed: cut"


def test_a_cycle_that_awaits_approval_shows_its_candidate():
    waiting = cycle(
        "AwaitingApproval",
        stage="select",
        candidate={"adapter": "cycles/w1/step_4", "sha256": WINNER, "scores": {"ppl": 3.5}},
        decision={"outcome": "Promote", "reason": "Better", "delta": 0.1, "interval": [0.05, 0.15], "message": "well"},
        conditions=[condition("Progressing", "Unknown", "AwaitingApproval", "set it")],
    )
    lines = list(described(waiting, [], NOW))
    assert f"candidate cycles/w1/step_4 {WINNER} ppl 3.5" in lines
    assert "decision  Promote (Better): +0.1000 (+0.0500 to +0.1500): well" in lines
    assert "    → look at it with refrain cycle show w1, then refrain cycle approve w1" in lines


def test_a_cycle_of_a_newer_version_is_shown_all_the_same():
    world = World(now=NOW)
    world.add("w1", archive={"is": "a map now"})
    lines = list(described(read_cycle(world.cycles["w1"]), [], NOW))
    assert any(line.startswith("problem   spec.archive: ") for line in lines)


def test_what_changes_is_told_once():
    running = {"stage": "train", "stages": [entry("parse", "Succeeded", 80, result={"num_mails": 3})]}
    first = cycle("Queued", conditions=[condition("Progressing", "Unknown", "Queued", "waits for w0")])
    second = cycle(**running, conditions=[condition("Progressing", "True", "StageRunning", "parse runs")])
    running["stages"] = [*running["stages"], entry("train", "Running", 5, attempt=1)]
    at = written(NOW)
    third = cycle(**running, progress={"percent": 43, "etaSeconds": 1260, "loss": 2.13, "at": at})
    fourth = cycle(**running, progress={"percent": 49, "etaSeconds": 1200, "loss": 2.1, "at": at})
    assert list(changes(None, first, NOW)) == ["2026-01-05 05:57:00Z  Queued: waits for w0; wait, or resume that cycle"]
    assert list(changes(first, second, NOW)) == ["2026-01-05 04:41:35Z  parse: done in 1m35s: 3 mails"]
    assert list(changes(second, third, NOW)) == [
        "2026-01-05 05:55:00Z  train, attempt 1: runs as w1-train-0-0-abc",
        "2026-01-05 06:00:00Z  train: 43%, 21m left, loss 2.13",
    ]
    assert list(changes(third, third, NOW)) == []
    assert list(changes(third, fourth, NOW)) == []
    assert status_line(fourth, NOW) == "train ██████████░░░░░░░░░░ 49%, 20m left, loss 2.1"
    assert status_line(first, NOW) == "Queued, for 3m"


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("train: x: cut (exit code 65)", InputError),
        ("train: it crashed (exit code 1)", RefrainError),
        ("split: no such bucket (exit code 66)", MissingInputError),
        ("train: killed (exit code 137)", TransientError),
        ("the cycle has taken longer than its deadlineSeconds of 5", TransientError),
    ],
)
def test_a_failure_has_the_exit_code_of_its_stage(message: str, kind: type[RefrainError]):
    ended = [condition("Succeeded", "False", "StageFailed", message), condition("Complete", "True", "X", message)]
    failed = cycle("Failed", stage="train", conditions=ended)
    error = failure(failed)
    assert type(error) is kind
    assert (error.where, error.what) == ("w1", message)
    assert "refrain cycle retry w1" in error.hint
    assert end_words(failed) == f"Failed: {message}"


def test_the_newest_events():
    times = [{"metadata": {"creationTimestamp": written(NOW - timedelta(seconds=n))}, "n": n} for n in (3, 1, 2)]
    assert [one["n"] for one in newest(times, 2)] == [2, 1]


# ---- advice, and docs/operate.md


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


def test_help_loads_nothing_heavy():
    program = """
import sys
from jobs.cli import cli
try:
    cli.main(args=sys.argv[1:], prog_name="refrain")
finally:
    print(sorted({"kopf", "kubernetes", "pydantic", "prometheus_client", "urllib3", "orjson"} & sys.modules.keys()))
"""
    for arguments in (["--help"], ["cycle", "--help"], ["cycle", "watch", "--help"], ["controller", "--help"]):
        run = subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True)
        assert run.stdout.splitlines()[-1] == "[]"


# ---- files, refusals, pods


def as_sent(tmp_path: Path, value: Any) -> Any:
    file = tmp_path / "cycle.yaml"
    file.write_text(yaml.safe_dump(value))
    return read_document(file, name=None, suspend=False)


def test_what_is_sent_is_what_the_file_says(tmp_path):
    """Of every spec that is right: the same fields, the same values, nothing added."""
    num_right = 0
    for spec in one_field_each(structural_schema(CycleSpec)):
        value = {"apiVersion": "refrain.dev/v1alpha1", "kind": "RetrainCycle", "metadata": {"name": "w1"}, "spec": spec}
        try:
            sent = as_sent(tmp_path, value)
        except ConfigError:
            continue
        num_right += 1
        want = load_cycle(tmp_path / "cycle.yaml")
        assert RetrainCycle.model_validate(sent, by_alias=True, by_name=False) == want
        assert b".0" not in re.sub(rb'"[^"]*"', b"", orjson.dumps(sent)), "a whole number has no point"
        assert sent["spec"].keys() == {key for key, one in spec.items() if one is not None}
    assert num_right > 100


def test_a_status_and_what_a_server_adds_is_not_sent(tmp_path):
    metadata = {"name": "w1", "uid": "x", "resourceVersion": "7", "labels": {"a": "b"}}
    value = {"apiVersion": "refrain.dev/v1alpha1", "kind": "RetrainCycle", "metadata": metadata, "spec": MINIMAL}
    sent = as_sent(tmp_path, value | {"status": {"state": "Promoted"}})
    assert sent == value | {"metadata": {"name": "w1", "labels": {"a": "b"}}}


FORBIDDEN = (
    'retraincycles.refrain.dev is forbidden: User "ann" cannot create resource "retraincycles" in API group '
    '"refrain.dev" in the namespace "mail"'
)


@pytest.mark.parametrize(
    ("status", "reason", "message", "kind", "words"),
    [
        (401, "Unauthorized", "Unauthorized", AccessError, "log in"),
        (
            403,
            "Forbidden",
            FORBIDDEN,
            AccessError,
            "ann may not create retraincycles.refrain.dev\n  ask for a Role with apiGroups: ",
        ),
        (403, "Forbidden", "exceeded quota: small", AccessError, "exceeded quota: small"),
        (
            404,
            "NotFound",
            "the server could not find the requested resource",
            MissingInputError,
            "kubectl apply -f crds/",
        ),
        (404, "NotFound", 'namespaces "mail" not found', MissingInputError, 'namespaces "mail" not found'),
        (422, "Invalid", "spec.split: windowOverlap must be smaller", ConfigError, "windowOverlap must be smaller"),
        (400, "BadRequest", 'strict decoding error: unknown field "spec.x"', ConfigError, 'unknown field "spec.x"'),
        (409, "Conflict", "the object has been modified", ConfigError, "modified"),
        (429, "TooManyRequests", "later", TransientError, "429 TooManyRequests: later"),
        (503, "ServiceUnavailable", "away", TransientError, "503"),
    ],
)
def test_a_refusal_is_told_in_the_servers_words(status, reason, message, kind, words):
    error = refusal(ApiError(status, reason, message), "mail")
    assert type(error) is kind
    assert words in str(error)


def test_the_newest_pod_of_the_first_rank():
    def pod(name: str, **labels: str) -> dict[str, Any]:
        named = {f"refrain.dev/{key}": text for key, text in labels.items() if key != "rank"}
        named |= {"batch.kubernetes.io/job-completion-index": labels["rank"]} if "rank" in labels else {}
        return {"metadata": {"name": name, "labels": named, "creationTimestamp": written(NOW)}}

    pods = [
        pod("b", attempt="0", run="10", rank="0"),
        pod("c", attempt="0", run="10", rank="1"),
        pod("a", attempt="0", run="9"),
        pod("d", attempt="1", run="0"),
    ]
    assert [one["metadata"]["name"] for one in in_order(pods)] == ["a", "b", "d"]


# ---- what is taken out of a bug report


def test_secrets_are_taken_out_of_objects():
    env = [{"name": "HF_TOKEN", "value": "hunter2"}, {"name": "HOME", "value": "/tmp"}]
    last_applied = {"kubectl.kubernetes.io/last-applied-configuration": "hunter3"}
    thing = {"metadata": {"managedFields": [1], "annotations": last_applied}, "spec": [{"env": env}]}
    assert orjson.loads(document(thing)) == {
        "metadata": {"annotations": {}},
        "spec": [{"env": [{"name": "HF_TOKEN", "value": REMOVED}, env[1]]}],
    }


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("proxy http://ann:hunter2@proxy:3128/x", f"proxy http://{REMOVED}@proxy:3128/x"),
        ("GET /x?X-Amz-Signature=abc123&a=b", f"GET /x?X-Amz-Signature={REMOVED}&a=b"),
        ("Authorization: Bearer abc.def-123456", f"Authorization: Bearer {REMOVED}"),
        ("key AKIA" + "ABCDEFGHIJKLMNOP used", f"key {REMOVED} used"),
        ("from ann@example.org: loss 2.1", "from ann@example.org: loss 2.1"),
        ("s3://bucket/a, see ann@example.org", "s3://bucket/a, see ann@example.org"),
    ],
)
def test_credentials_are_taken_out_of_logs(text: str, left: str):
    assert masked(text.encode()).decode() == left
