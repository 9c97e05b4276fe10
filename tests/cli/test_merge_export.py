"""`refrain merge` and `refrain export`, as users call them; what comes out is loaded by other programs' means."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import orjson
import pytest
import yaml
from components import require

try:
    import torch
    from ml.tiny import tiny_base
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from jobs.ml.adapters import add_adapter, save_adapter
    from jobs.ml.base_model import find_base, load_model
except ImportError:
    torch = None

from jobs.cli import main
from jobs.contracts.store import open_store
from jobs.items import StoreItems
from jobs.production import Production, append


def refrain(*args: object) -> int:
    """The exit code of `refrain args…`."""
    try:
        return int(main([str(arg) for arg in args]))
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.fixture(autouse=True)
def no_store(monkeypatch):
    monkeypatch.delenv("REFRAIN_STORE", raising=False)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    require(torch, "torch is not installed")
    return find_base(
        str(tiny_base(tmp_path_factory.mktemp("model") / "base", ["From: ann@example.org\n\nthe disk"] * 3))
    )


def trained(base, folder: Path, seed: int = 0) -> str:
    """Saves an adapter that changes something; its digest."""
    peft_model = add_adapter(load_model(base, device=torch.device("cpu")), rank=3, alpha=6, dropout=0, seed=seed)
    for name, parameter in peft_model.named_parameters():
        if ".lora_B." in name:
            parameter.data.fill_(0.03)
    return save_adapter(peft_model, folder, base=base)


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("adapter") / "step_3"
    return folder, trained(base, folder)


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(30, 50)[None]).logits


def beside(base, folder: Path):
    return logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.folder), folder))


def test_a_merged_model_needs_no_adapter(base, adapter, tmp_path, capfd):
    assert refrain("merge", "--adapter", adapter[0], "--base", base.folder, "--out", tmp_path / "merged") == 0
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err == f"merge: {adapter[0]} in {base.folder}, written to {tmp_path / 'merged'}\n"
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), beside(base, adapter[0]), atol=1e-5, rtol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged")("the disk").input_ids
    assert json.loads((tmp_path / "merged/refrain.json").read_text())["adapter_sha256"] == adapter[1]


def test_the_base_is_by_default_the_adapter_s(base, adapter, tmp_path, capfd):
    assert refrain("merge", "--adapter", adapter[0], "-o", tmp_path / "merged") == 0
    assert refrain("merge", "--adapter", adapter[0], "-o", tmp_path / "merged") == 73
    assert "something already" in capfd.readouterr().err


def test_another_base_is_refused(base, adapter, tmp_path, capfd):
    other = tiny_base(tmp_path / "other", ["something else"], seed=1)
    assert refrain("merge", "--adapter", adapter[0], "--base", other, "--out", tmp_path / "merged") == 78
    told = capfd.readouterr().err
    assert "another base model" in told
    assert "; the weights or config.json differ\n" in told
    assert f"it was trained on {base.folder}; here is {other}" in told
    assert refrain("merge", "--adapter", base.folder, "--out", tmp_path / "merged") == 66
    assert not (tmp_path / "merged").exists()


def taken_apart(adapter: Path, folder: Path, kind: str, **settings: object) -> Path:
    """The adapter as others leave theirs: without refrain.json, as PEFT's folder or as a flat file."""
    folder.mkdir(exist_ok=True)
    names = {
        "folder": ("checkpoint-3/adapter_model.safetensors", "checkpoint-3/adapter_config.json"),
        "flat": ("step_1000.safetensors", "adapter_config.json"),
        "flat, settings of its own": ("step_1000.safetensors", "step_1000.json"),
    }[kind]
    said = json.loads((adapter / "adapter_config.json").read_text())
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
    (folder / names[0]).write_bytes((adapter / "adapter_model.safetensors").read_bytes())
    (folder / names[1]).write_text(json.dumps(said | settings))
    return folder / "checkpoint-3" if kind == "folder" else folder / names[0]


KINDS = ["folder", "flat", "flat, settings of its own"]


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_of_others_are_merged_as_ours(base, adapter, tmp_path, capfd, kind):
    theirs = taken_apart(adapter[0], tmp_path / "theirs", kind)
    before = sorted(path.name for path in (tmp_path / "theirs").rglob("*"))
    assert refrain("merge", "--adapter", theirs, "--base", base.folder, "--out", tmp_path / "merged") == 0
    told = capfd.readouterr().err
    assert f"{theirs}: it does not say which base model it is of: it is taken for one of {base.folder}" in told
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), beside(base, adapter[0]), atol=1e-5, rtol=1e-4)
    said = json.loads((tmp_path / "merged/refrain.json").read_text())
    assert (said["adapter_sha256"], said["base_digest"]) == (adapter[1], base.digest)
    assert sorted(path.name for path in (tmp_path / "theirs").rglob("*")) == before


@pytest.mark.parametrize("kind", KINDS)
def test_the_base_of_an_adapter_of_others_is_what_peft_wrote(base, adapter, tmp_path, capfd, kind):
    named = taken_apart(adapter[0], tmp_path / "named", kind, base_model_name_or_path=str(base.folder), revision="main")
    assert refrain("merge", "--adapter", named, "--out", tmp_path / "merged") == 0
    unnamed = taken_apart(adapter[0], tmp_path / "unnamed", kind, base_model_name_or_path=None)
    assert refrain("merge", "--adapter", unnamed, "--out", tmp_path / "other") == 2
    told = capfd.readouterr().err
    assert f"{unnamed}: the adapter does not say which base model it is of\n  name it: --base" in told
    assert refrain("export", "--adapter", unnamed, "--output", tmp_path / "other") == 2
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_of_others_are_exported_as_ours(base, adapter, tmp_path, kind):
    theirs = taken_apart(adapter[0], tmp_path / "theirs", kind)
    (tmp_path / "decision.json").write_bytes(orjson.dumps(decision(adapter[1])))
    flags = ["--adapter", theirs, "--base", base.folder, "--decision", tmp_path / "decision.json"]
    assert refrain("export", *flags, "-o", tmp_path / "out") == 0
    assert torch.equal(beside(base, tmp_path / "out"), beside(base, adapter[0]))
    assert card(tmp_path / "out")[0]["refrain"]["base_digest"] == base.digest


def test_a_base_that_is_named_is_checked_by_export_too(base, adapter, tmp_path, capfd):
    other = tiny_base(tmp_path / "other", ["something else"], seed=1)
    assert refrain("export", "--adapter", adapter[0], "--base", other, "-o", tmp_path / "out") == 78
    assert "another base model" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("harm", "code", "told"),
    [
        (lambda flat: flat.with_name("adapter_config.json").unlink(), 66, "its settings are not beside it"),
        (lambda flat: flat.write_bytes(flat.read_bytes()[:-9]), 65, "copy or save it once more"),
        (lambda flat: flat.rename(flat.with_suffix(".bin")), 65, "pickles are never loaded"),
        (lambda flat: flat.unlink(), 66, "there is no step_1000.safetensors"),
        (lambda flat: flat.with_name("adapter_config.json").write_text('{"peft_type": "IA3"}'), 65, "not a LoRA"),
    ],
)
def test_flat_files_that_are_no_adapter(base, adapter, tmp_path, capfd, harm, code, told):
    flat = taken_apart(adapter[0], tmp_path / "theirs", "flat")
    harm(flat)
    assert refrain("merge", "--adapter", flat, "--base", base.folder, "--out", tmp_path / "merged") == code
    assert told in (said := capfd.readouterr().err)
    assert str(tmp_path / "theirs") in said
    assert not (tmp_path / "merged").exists()


def decision(sha256: str, **fields: object) -> dict[str, object]:
    winner = {"path": "step_3", "sha256": sha256, "scores": {"val_perplexity": 12.34567, "rag_accuracy_at_5": None}}
    said = {"format": 1, "outcome": "Promote", "message": "step_3 is better by 4.2%", "metric": "val_perplexity"}
    return said | {"winner": winner, "delta": 0.042, "interval": [0.01, 0.07], "confidence": 0.95} | fields


def card(folder: Path) -> tuple[dict[str, object], str]:
    """The card's front matter, and its text."""
    match = re.fullmatch(r"---\n(.*?)---\n(.*)", (folder / "README.md").read_text(), re.DOTALL)
    return yaml.safe_load(match[1]), match[2]


def test_an_exported_adapter_is_loaded_by_peft(base, adapter, tmp_path):
    (tmp_path / "decision.json").write_bytes(orjson.dumps(decision(adapter[1])))
    flags = ["--adapter", adapter[0], "--decision", tmp_path / "decision.json"]
    assert refrain("export", *flags, "-o", tmp_path / "out") == 0
    assert torch.equal(beside(base, tmp_path / "out"), beside(base, adapter[0]))
    front, text = card(tmp_path / "out")
    assert front["library_name"] == "peft"
    assert front["refrain"]["adapter_sha256"] == adapter[1]
    assert front["refrain"]["base_digest"] == base.digest
    assert "| perplexity, val | 12.35 |" in text
    assert "| rag accuracy at 5 | not measured |" in text
    assert "step_3 is better by 4.2%" in text
    assert "Gain in val_perplexity: +4.20% (+1.00% to +7.00%, at a confidence of 0.95)." in text
    assert str(base.folder.parent) not in (tmp_path / "out/README.md").read_text()


def test_the_card_of_a_hub_s_base_names_it(base, adapter, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    for path in adapter[0].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    origin = json.loads((folder / "refrain.json").read_text()) | {"base": "org/model", "revision": "0" * 40}
    (folder / "refrain.json").write_text(json.dumps(origin))
    assert refrain("export", "--adapter", folder, "-o", tmp_path / "out") == 0
    front, text = card(tmp_path / "out")
    assert (front["base_model"], front["base_model_relation"]) == ("org/model", "adapter")
    assert f"from_pretrained('org/model', revision='{'0' * 40}')" in text
    assert "## Decision" not in text


def test_a_decision_of_another_adapter_is_not_its(adapter, tmp_path, capfd):
    (tmp_path / "decision.json").write_bytes(orjson.dumps(decision("0" * 64)))
    flags = ["--adapter", adapter[0], "--decision", tmp_path / "decision.json"]
    assert refrain("export", *flags, "-o", tmp_path / "out") == 65
    assert "did not choose this adapter" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def store(base, tmp_path) -> tuple[str, list[str]]:
    """Two cycles that promoted, the second by its second attempt, and a return to the first; the adapters' digests."""
    url = (tmp_path / "archive").as_uri()
    opened = open_store(url)
    digests = []
    for number, cycle in enumerate(["one", "two"]):
        items = StoreItems(opened, f"cycles/{cycle}/train/checkpoints", tmp_path / cycle)
        digests.append(trained(base, items.folder / "step_3", seed=number))
        items.publish("step_3")
        key = f"cycles/{cycle}/train/checkpoints/step_3"
        append(opened, Production(number + 1, "promote", cycle, key, digests[-1], 4 + number))
    append(opened, Production(3, "rollback", "one", "cycles/one/train/checkpoints/step_3", digests[0], 4))
    opened.put("cycles/two/select/decision.json", orjson.dumps({"outcome": "Retrain", "winner": None}))
    opened.put(
        "cycles/two/retrain-1/select/decision.json",
        orjson.dumps(decision(digests[1], message="not enough yet") | {"outcome": "Retrain"}),
    )
    opened.put(
        "cycles/two/retrain-2/select/decision.json", orjson.dumps(decision(digests[1], message="the second try"))
    )
    return url, digests


def test_what_is_in_service_is_exported(base, store, tmp_path):
    url, digests = store
    for name, flags, expected in (
        ("newest", [], (digests[0], "one", 3)),
        ("second", ["--seq", 2], (digests[1], "two", 2)),
        ("cycle", ["--cycle", "two"], (digests[1], "two", 2)),
    ):
        assert refrain("export", "--store", url, *flags, "-o", tmp_path / "out" / name) == 0
        front, text = card(tmp_path / "out" / name)
        own = front["refrain"]
        assert (own["adapter_sha256"], own["cycle"], own["production_seq"]) == expected
        assert ("the second try" in text) == (expected[0] == digests[1])
    assert own["window_idx"] == 5
    assert not torch.equal(beside(base, tmp_path / "out/newest"), beside(base, tmp_path / "out/second"))


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (["--seq", 9], 66, "no such production record"),
        (["--cycle", "three"], 66, "cycle three has put nothing into service"),
        (["--seq", 1, "--cycle", "one"], 2, "leave one out"),
        (["--adapter", "x"], 2, "--adapter are given"),
    ],
)
def test_what_cannot_be_exported(store, tmp_path, capfd, flags, code, told):
    assert refrain("export", "--store", store[0], *flags, "-o", tmp_path / "out") == code
    assert told in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_in_service_is_nothing_to_export(tmp_path, capfd):
    url = (tmp_path / "archive").as_uri()
    opened = open_store(url)
    assert refrain("export", "--store", url, "-o", tmp_path / "out") == 66
    assert "nothing has been put into service yet" in capfd.readouterr().err
    append(opened, Production(1, "rollback", "", None, "", -1, asdict(Production(0, "promote", "", None, "", -1))))
    assert refrain("export", "--store", url, "-o", tmp_path / "out") == 66
    assert "is the bare base model" in capfd.readouterr().err
    assert refrain("export", "-o", tmp_path / "out") == 2
