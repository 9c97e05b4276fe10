"""The RetrainCycle's models, and the messages for files that are wrong."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

import pytest
import yaml

from jobs.contracts.cycle import RetrainCycle, json_schema, load_cycle
from jobs.contracts.errors import ConfigError, MissingInputError
from jobs.mail.filters import parse_rule

EXAMPLES = Path(__file__).parents[2] / "examples"

FULL = """
apiVersion: refrain.dev/v1alpha1
kind: RetrainCycle
metadata: {name: linux-raid-2026-w47}
spec:
  archive: linux-raid
  store: {url: s3://refrain, endpoint: http://minio:9000, secretRef: {name: refrain-s3}}
  sources:
    - mbox: s3://mail/incoming/2026-W47.mbox.gz
  split: {ratios: {train: 80, val: 10, test: 10}, seed: 42, windowSize: 100, windowOverlap: 10, maxTokens: 2048}
  window: {period: week, active: 1, minNewMessages: 10}
  filters: {exclude: [{header: Auto-Submitted}, {from: "*@notifications.example"}]}
  persona: []
  rehearsal: {ratio: "1:4", maxShare: 0.2, minPerBucket: 2, maxSamples: 20000}
  retention: {checkpoints: 3, cycles: 12}
  model:
    base: Qwen/Qwen3-0.6B
    startFrom: Incumbent
    lora: {rank: 16, alpha: 32, dropout: 0.05, targetModules: all-linear}
  training: {epochs: 3, learningRate: 2e-4, saveSteps: 500, earlyStopping: {patience: 3, minDelta: 0.001},
             nodes: 1, processesPerNode: 1, precision: bf16}
  evaluation: {topK: 5, embeddingModel: sentence-transformers/all-MiniLM-L6-v2, maxQueries: 500}
  selection: {strategy: Weighted, weights: {ppl: 0.5, rag: 0.5}, thresholds: ["val_perplexity <= 15"],
              improvementThreshold: 0.02, maxRetrainAttempts: 2}
  promotion: {mode: Automatic, gate: {confidence: 0.95}, timeoutSeconds: 600}
  stages:
    train: {resources: {limits: {nvidia.com/gpu: 1}}, nodeSelector: {}, tolerations: [], deadlineSeconds: 86400}
  suspend: false
  ttlSecondsAfterFinished: 2592000
"""

MINIMAL = """\
apiVersion: refrain.dev/v1alpha1
kind: RetrainCycle
metadata: {name: week-27}
spec:
  archive: workshop
  store: {url: file:///archives}
  model: {base: models/tiny}
"""


def load(tmp_path: Path, text: str) -> RetrainCycle:
    (tmp_path / "cycle.yaml").write_text(text)
    return load_cycle(tmp_path / "cycle.yaml")


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_a_cycle_with_every_part_says_the_same_after_a_round_trip(tmp_path):
    cycle = load(tmp_path, FULL)
    as_written = yaml.safe_load(FULL.replace("2e-4", "0.0002"))
    assert cycle.model_dump(by_alias=True, exclude_unset=True) == as_written
    everything = cycle.model_dump(by_alias=True)
    assert RetrainCycle.model_validate(everything) == cycle
    assert load(tmp_path, yaml.safe_dump(everything)) == cycle


def test_a_few_lines_are_enough(tmp_path):
    cycle = load(tmp_path, MINIMAL)
    spec = cycle.spec
    assert (spec.split.seed, spec.split.window_size, spec.split.window_overlap, spec.split.max_tokens) == (
        42,
        100,
        10,
        2048,
    )
    assert (spec.split.ratios.train, spec.split.ratios.val, spec.split.ratios.test) == (80, 10, 10)
    assert (spec.rehearsal.ratio, spec.rehearsal.max_share, spec.window.min_new_messages) == ("1:4", 0.2, 10)
    assert spec.model.start_from == "Incumbent"
    assert spec.archive_url == "file:///archives/workshop"


def test_sources_and_filters_are_what_parse_takes(tmp_path):
    spec = load(tmp_path, FULL).spec
    assert [str(source) for source in spec.sources] == ["s3://mail/incoming/2026-W47.mbox.gz"]
    assert [str(rule) for rule in spec.filters.exclude] == ["header:Auto-Submitted", "from:*@notifications.example"]
    assert [parse_rule(str(rule)).kind for rule in spec.filters.exclude] == ["header", "from"]


def test_the_example_is_one(tmp_path):
    cycle = load_cycle(EXAMPLES / "cycle.yaml")
    assert cycle.spec.archive_url == "s3://refrain/workshop"
    assert len((EXAMPLES / "cycle.yaml").read_text().splitlines()) <= 12


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "persona: [ann]",
            "cycle.yaml, line 8: spec.persona[0]: should be an address such as ann@example.org, not 'ann'",
        ),
        ("rehearsal: {ratio: 1:0}", "spec.rehearsal.ratio: should be replay to new, such as 1:4, or a share below 1"),
        ("rehearsal: {ratio: '1.5'}", "spec.rehearsal.ratio: should be replay to new"),
        (
            "rehearsal: {ratio: 0.25}",
            'spec.rehearsal.ratio: input should be a valid string, not 0.25\n  put it in quotation marks: "0.25"',
        ),
        ("rehearsal: {maxShare: 1}", "spec.rehearsal.maxShare: input should be less than 1, not 1"),
        ("rehersal: {ratio: 1:4}", "line 8: spec.rehersal: there is no such field\n  did you mean rehearsal?"),
        ("training: {epoch: 3}", "spec.training.epoch: there is no such field\n  did you mean epochs?"),
        ("training: {earlyStopping: {patients: 3}}", "spec.training.earlyStopping.patients: there is no such field"),
        ("training: {epochs: three}", "spec.training.epochs: input should be a valid integer"),
        ("training: {epochs: '3'}", "spec.training.epochs: input should be a valid integer, not '3'"),
        ("training: {save_steps: 3}", "spec.training.save_steps: there is no such field\n  did you mean saveSteps?"),
        ("training: 3", "spec.training: should be a map of fields, not 3"),
        ("split: {ratios: {train: 0}}", "spec.split.ratios.train: input should be greater than 0, not 0"),
        ("split: {ratios: {val: -1}}", "spec.split.ratios.val: input should be greater than or equal to 0, not -1"),
        ("split: {windowSize: 10}", "spec.split: windowOverlap 10 must be less than windowSize 10"),
        ("window: {period: day}", "spec.window.period: input should be 'week' or 'month', not 'day'"),
        ("sources: [{}]", "spec.sources[0]: needs exactly one of mbox, maildir, eml, imap"),
        ("sources: [{mbox: a, eml: b}]", "spec.sources[0]: needs exactly one of"),
        ("sources: [{mbox: null}]", "spec.sources[0]: needs exactly one of"),
        ("sources: [{imap: 'imaps://ann:pw@mail.example/INBOX'}]", "spec.sources[0]: a password has no place here"),
        ("sources: [{imap: mail.example}]", "spec.sources[0].imap: should be a URL such as imaps://"),
        (
            "filters: {exclude: [{}]}",
            "spec.filters.exclude[0]: needs exactly one of from, to, list, header",
        ),
        ("filters: {include: [{from: a, list: b}]}", "spec.filters.include[0]: needs exactly one of from, to, list"),
        (
            "selection: {weights: {test_ppl: 1}}",
            "spec.selection.weights: test_ppl is a test metric: val chooses, test reports",
        ),
        ("selection: {weights: {blue: 1}}", "no weight is called 'blue': there are ppl, rag, recall"),
        ("selection: {weights: {ppl: 0}}", "spec.selection.weights: at least one weight must be above 0"),
        (
            "selection: {thresholds: ['test_perplexity <= 15']}",
            "test_perplexity is a test metric: val chooses, test reports",
        ),
        ("selection: {thresholds: ['val_perplexity 15']}", "not a threshold: 'val_perplexity 15'"),
        ("selection: {thresholds: ['val_perplexty <= 15']}", "no metric is called 'val_perplexty'"),
        ("selection: {ladder: []}", "spec.selection.ladder: list should have at least 1 item"),
        (
            "selection: {ladder: [{learningRateFactor: 0}]}",
            "spec.selection.ladder[0].learningRateFactor: input should be greater than 0, not 0",
        ),
        ("selection: {ladder: [{replay: cap}]}", "spec.selection.ladder[0].replay: there is no such field"),
        (
            "selection: {strategy: Best}",
            "spec.selection.strategy: input should be 'LowestLoss', 'Weighted' or 'Pareto'",
        ),
        ("promotion: {approve: yes-please}", "spec.promotion.approve: should be 64 hex digits"),
        ("stages: {trian: {}}", "spec.stages.trian: input should be 'parse', 'split'"),
        (
            "stages: {train: {image: x}}",
            "spec.stages.train.image: there is no such field\n  the fields here are resources",
        ),
        (f"persona: [{', '.join(['a@b'] * 101)}]", "spec.persona: list should have at most 100 items"),
        ("suspend: 2", "spec.suspend: input should be a valid boolean"),
        ("archive: other", "cycle.yaml, line 8: not YAML: 'archive' twice"),
        ("window: {active", "not YAML: "),
    ],
)
def test_a_wrong_field_is_named_with_its_line_and_what_to_do(tmp_path, line, message):
    found = refusal(tmp_path, f"{MINIMAL}  {line}\n")
    assert message in found
    assert found.startswith("cycle.yaml, line ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cycle.yaml: empty"),
        ("a: 1\n---\nb: 2\n", "cycle.yaml, line 2: not YAML: but found another document"),
        ("- 1", "line 1: the file: should be a map of fields, not [1]"),
        (MINIMAL.replace("kind: RetrainCycle\n", ""), "kind: is required"),
        (MINIMAL.replace("v1alpha1", "v1"), "apiVersion: input should be 'refrain.dev/v1alpha1', not 'refrain.dev/v1'"),
        (MINIMAL.replace("week-27", "Week_27"), "metadata.name: should be lower-case letters and digits"),
        (MINIMAL.replace("file:///archives", "ftp://archives"), "spec.store.url: should be s3://bucket"),
        ("[" * 100_000, "cycle.yaml: nested too deeply"),
        ("#" * 2_000_000, "cycle.yaml: larger than 1,048,576 bytes"),
        ("a: \x00", "cycle.yaml: not YAML: "),
    ],
)
def test_a_file_that_is_no_cycle_is_refused_in_one_message(tmp_path, text, message):
    assert message in refusal(tmp_path, text)


def test_text_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "cycle.yaml").write_bytes(MINIMAL.encode().replace(b"workshop", b"w\xe4rk"))
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        load_cycle(tmp_path / "cycle.yaml")


def test_a_file_that_is_not_there():
    with pytest.raises(MissingInputError, match=r"nowhere\.yaml: no such file"):
        load_cycle(Path("nowhere.yaml"))


def test_several_wrong_fields_are_counted_and_the_first_is_named(tmp_path):
    found = refusal(tmp_path, f"{MINIMAL}  suspend: 2\n  persona: [x, y]\n")
    assert "line 8: spec.suspend" in found
    assert found.endswith("(2 more in this file)")


def test_values_are_read_as_kubernetes_reads_them(tmp_path):
    cycle = load(tmp_path, f"{MINIMAL}  rehearsal: {{ratio: 1:4}}\n  training: {{learningRate: 1e-4}}\n  persona: []\n")
    assert cycle.spec.rehearsal.ratio == "1:4"
    assert cycle.spec.training.learning_rate == 0.0001
    assert load(tmp_path, f"{MINIMAL}  training: {{epochs: 3.0, batchTokens: null}}\n").spec.training.epochs == 3
    assert load(tmp_path, MINIMAL.replace("week-27", "2026-11-23")).metadata.name == "2026-11-23"


def definitions() -> list[tuple[str, dict]]:
    schema = json_schema()
    return [("RetrainCycle", schema), *schema["$defs"].items()]


def test_every_field_is_described_and_bounded():
    undescribed, unbounded = [], []
    for model, schema in definitions():
        assert schema["description"], model
        for name, field in schema.get("properties", {}).items():
            if "description" not in field and "$ref" not in field:
                undescribed.append(f"{model}.{name}")
            if not ((model, name) in THE_SERVERS_OWN or is_bounded(field)):
                unbounded.append(f"{model}.{name}")
    assert undescribed == []
    assert unbounded == []


THE_SERVERS_OWN = {("RetrainCycle", "status"), ("Metadata", "annotations")} | {
    ("Affinity", name) for name in ("nodeAffinity", "podAffinity", "podAntiAffinity")
}


def is_bounded(field: dict) -> bool:
    if "anyOf" in field:
        return all(is_bounded(option) for option in field["anyOf"])
    if "enum" in field or "const" in field or "$ref" in field:
        return True
    kind = field["type"]
    if kind == "array":
        return "maxItems" in field and is_bounded(field["items"])
    if kind == "object":
        return "maxProperties" in field and is_bounded(field["additionalProperties"])
    limits = {"string": {"maxLength", "pattern"}, "integer": {"maximum"}, "number": {"maximum", "exclusiveMaximum"}}
    return kind in ("boolean", "null") or bool(limits[kind] & field.keys())


def test_names_in_the_file_are_camel_case():
    names = set(chain.from_iterable(schema.get("properties", {}) for _, schema in definitions()))
    assert [name for name in names if not re.fullmatch(r"[a-z]+([A-Z][a-z]*)*", name)] == []
