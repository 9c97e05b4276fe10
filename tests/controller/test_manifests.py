"""Jobs and Services as they are created: YAML goldens, input and output side by side in `goldens/`.

REFRAIN_WRITE_GOLDENS=1 pytest tests/controller/test_manifests.py     writes the outputs anew
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from stage_jobs import wanted

from controller.manifests import asking_job, document, gathering_job, job_name, ranks_service, stage_job
from controller.objects import SPEC_HASH
from controller.planning import Planning
from controller.train_jobs import is_handed_over, train_job
from jobs.contracts.cycle import RetrainCycle
from jobs.contracts.cycle.status import StageStatus
from jobs.contracts.errors import permanent_exit_codes
from jobs.contracts.progression import Step
from jobs.contracts.stages import STAGES

GOLDENS = Path(__file__).parent / "goldens"
INPUTS = sorted(path.name.removesuffix(".input.yaml") for path in GOLDENS.glob("*.input.yaml"))


@pytest.mark.parametrize("name", INPUTS)
def test_golden(name: str) -> None:
    given = yaml.safe_load((GOLDENS / f"{name}.input.yaml").read_text())
    planning, entry = wanted(given)
    if (lost := given.get("gathers")) is not None:
        made = [gathering_job(planning, entry, lost)]
    else:
        made = [_begun(planning, entry)] if not given.get("asks") else [asking_job(planning, entry)]
    made += [service for service in [ranks_service(planning, entry)] if service]
    path = GOLDENS / f"{name}.output.yaml"
    if os.environ.get("REFRAIN_WRITE_GOLDENS"):
        path.write_text(yaml.safe_dump_all(made, sort_keys=False))
    assert made == list(yaml.safe_load_all(path.read_text()))


def _begun(planning: Planning, entry: StageStatus) -> dict[str, Any]:
    return train_job(planning, entry) if is_handed_over(planning, entry.name) else stage_job(planning, entry)


def test_there_are_goldens() -> None:
    assert len(INPUTS) >= 7


def _pod(stage: str, **given: Any) -> Any:
    spec = {"archive": "a", "store": {"url": "s3://b"}, "model": {"base": "org/model"}} | given.pop("spec", {})
    planning, entry = wanted({"spec": spec, "stage": stage} | given)
    return stage_job(planning, entry)["spec"]["template"]["spec"]


@pytest.mark.parametrize("stage", [row.name for row in STAGES])
def test_every_pod_is_restricted_bounded_and_without_a_token(stage: str) -> None:
    pod = _pod(stage)
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["requests"]["cpu"]
    assert container["resources"]["limits"]["memory"]
    row = next(row for row in STAGES if row.name == stage)
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (row.device == "gpu")


def test_permanent_errors_fail_the_job_and_disruptions_do_not_count() -> None:
    planning, entry = wanted(
        {"spec": {"archive": "a", "store": {"url": "s3://b"}, "model": {"base": "m/m"}}, "stage": "train"}
    )
    first, second = stage_job(planning, entry)["spec"]["podFailurePolicy"]["rules"]
    assert first == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert second["onExitCodes"]["values"] == permanent_exit_codes()
    assert 75 not in permanent_exit_codes()
    assert 143 not in permanent_exit_codes()


def test_a_stage_reads_a_cycle_that_is_one() -> None:
    spec = {
        "archive": "a",
        "store": {"url": "s3://b"},
        "model": {"base": "m/m"},
        "sources": [{"mbox": "s3://mail/2.mbox"}],
        "stages": {"train": {"labels": {"x": "y"}}},
        "suspend": False,
    }
    status = {"takenSources": [{"mbox": "s3://mail/1.mbox"}]}
    planning, _ = wanted({"spec": spec, "stage": "parse", "status": status})
    said = document(planning.cycle)
    read = RetrainCycle.model_validate(said)
    assert [one.mbox for one in read.spec.sources] == ["s3://mail/1.mbox", "s3://mail/2.mbox"]
    assert set(said["spec"]) == {"archive", "store", "model", "sources"}


def test_the_gpus_of_the_cycle_of_70b_on_two_nodes() -> None:
    """That of docs/sizing.md: as many for each pod of train as it has processes, and what evaluate is given."""
    page = (Path(__file__).parents[2] / "docs/sizing.md").read_text()
    (text,) = re.findall(r"```yaml\n# cycle.yaml\n(.*?)```", page, re.DOTALL)
    spec = yaml.safe_load(text)["spec"]
    assert spec["training"]["shardModel"]
    found = {}
    for stage in ("train", "evaluate"):
        job = stage_job(*wanted({"spec": spec, "stage": stage}))["spec"]
        limits = job["template"]["spec"]["containers"][0]["resources"]["limits"]
        found[stage] = (job["completions"], limits["nvidia.com/gpu"], limits["memory"])
    assert found == {"train": (2, "8", "256Gi"), "evaluate": (1, "4", "64Gi")}


def test_names_fit_and_differ() -> None:
    long = "a" * 63
    names = {
        job_name(uid, long, Step(row.name, attempt), run)
        for uid in ("one", "two")
        for row in STAGES
        for attempt in (0, 10)
        for run in (0, 99)
    }
    assert len(names) == 2 * len(STAGES) * 4
    assert all(len(name) <= 52 and name[0].isalnum() and name == name.lower() for name in names)


NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,60}[a-z0-9])?){0,3}", fullmatch=True)


@given(cycles=st.lists(NAMES, min_size=2, max_size=2), attempt=st.integers(0, 10), run=st.integers(0, 999))
def test_jobset_takes_the_name_of_a_train_job(cycles: list[str], attempt: int, run: int) -> None:
    """Its webhook wants a DNS label (RFC 1035), at most 63 characters, for the last pod of as many nodes as may be."""
    steps = [(uid, cycle, Step("train", attempt)) for uid, cycle in zip(("one", "two"), cycles, strict=True)]
    names = [job_name(*step, run, is_handed_over=True) for step in steps]
    assert len(set(names)) == 2
    for name in names:
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", f"{name}-node-0-1023-abcde"), name


def test_a_different_job_has_another_hash() -> None:
    one, other = (
        stage_job(
            *wanted({"spec": {"archive": "a", "store": {"url": "s3://b"}, "model": {"base": base}}, "stage": "train"})
        )
        for base in ("m/one", "m/two")
    )
    assert one["metadata"]["annotations"][SPEC_HASH] != other["metadata"]["annotations"][SPEC_HASH]
