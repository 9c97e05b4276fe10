"""The controller's settings: one file, read whole or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from controller_process import ROLE

from controller.serving import INFERENCE_RIGHTS, RIGHTS
from controller.settings import load_settings
from jobs.contracts.errors import ConfigError, MissingInputError

ROOT = Path(__file__).parents[2]


def test_the_example() -> None:
    settings = load_settings(ROOT / "examples/operator/config.yaml")
    assert settings.store.secrets == ["refrain-s3"]
    assert settings.inference is None
    assert settings.heavy_resources.limits["memory"] == "32Gi"


def test_the_role_has_just_the_rights() -> None:
    role = next(one for one in yaml.safe_load_all(ROLE.read_text()) if one["kind"] == "Role")
    given = {(rule["apiGroups"][0], rule["resources"][0], tuple(rule["verbs"])) for rule in role["rules"]}
    assert given == set(RIGHTS + INFERENCE_RIGHTS)
    assert not any("*" in (group, resource, *verbs) for group, resource, verbs in given)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("{}", "namespace"),
        ("{namespace: mail, imagez: {}}", "imagez"),
        ("{namespace: mail, inference: {deployment: serve}}", "inference.archive"),
        ("{namespace: mail, resyncSeconds: 0}", "resyncSeconds"),
    ],
)
def test_a_wrong_one_says_where(tmp_path: Path, text: str, where: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path / "config.yaml")
    assert caught.value.where.endswith(f"config.yaml: {where}")


def test_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        load_settings(tmp_path / "config.yaml")
