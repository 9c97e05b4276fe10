"""Adapters as files: what is written, what is told apart, and what is refused."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from jobs.contracts.errors import ConfigError, InputError, MissingInputError, OutputError
from jobs.ml.adapters import (
    CONFIG,
    ORIGIN,
    WEIGHTS,
    adapter_digest,
    adapter_weights,
    add_adapter,
    export_adapter,
    load_adapter,
    num_trainable,
    save_adapter,
    write_adapter,
)
from jobs.ml.base_model import load_model

SETTINGS = {"rank": 4, "alpha": 8.0, "dropout": 0.1, "seed": 1}
IDS = torch.arange(20, 60)[None]


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.fixture
def copy(adapter, tmp_path) -> Path:
    return Path(shutil.copytree(adapter, tmp_path / "copy"))


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def linear_layers(model) -> dict[str, torch.nn.Linear]:
    return {name: one for name, one in model.named_modules() if isinstance(one, torch.nn.Linear) and name != "lm_head"}


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_all_linear_layers_but_the_head_are_trained_and_nothing_else(model, rank):
    layers = linear_layers(model)
    expected = sum(rank * (one.in_features + one.out_features) for one in layers.values())
    peft_model = add_adapter(model, **SETTINGS | {"rank": rank})
    assert num_trainable(peft_model) == expected
    trained = {name for name, one in peft_model.named_parameters() if one.requires_grad}
    assert len(trained) == 2 * len(layers)
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    assert {one.dtype for one in peft_model.parameters() if one.requires_grad} == {torch.float32}


def test_named_layers_alone(model):
    peft_model = add_adapter(model, **SETTINGS, target_modules="q_proj, v_proj")
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in adapter_weights(peft_model)}
    assert layers == {"q_proj", "v_proj"}


def test_a_fresh_adapter_changes_nothing(model):
    before = logits(model)
    assert torch.equal(logits(add_adapter(model, **SETTINGS).eval()), before)


def test_the_start_depends_on_the_seed_alone(base):
    def start(seed: int, noise: int, modules: str = "all-linear") -> dict[str, torch.Tensor]:
        torch.manual_seed(noise)
        random.seed(noise)
        model = load_model(base, device=torch.device("cpu"))
        before = torch.get_rng_state()
        weights = adapter_weights(add_adapter(model, **SETTINGS | {"seed": seed}, target_modules=modules))
        assert torch.equal(torch.get_rng_state(), before)
        return weights

    one, again, other, part = start(1, 0), start(1, 99), start(2, 0), start(1, 0, "up_proj")
    for name in one:
        assert torch.equal(one[name], again[name])
        assert torch.equal(one[name], other[name]) == (".lora_B." in name)
        assert (one[name] == 0).all() == (".lora_B." in name)
    assert part.keys() < one.keys()
    assert all(torch.equal(part[name], one[name]) for name in part)
    matrices = [one[name] for name in sorted(one) if ".lora_A." in name and "up_proj" in name]
    assert not torch.equal(*matrices)
    bound = matrices[0].shape[1] ** -0.5
    assert 0.9 * bound < matrices[0].abs().max() <= bound


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"target_modules": "q_proj,w_proj"}, "no layer 'w_proj'"),
        ({"target_modules": "input_layernorm"}, "no layer"),
        ({"rank": 0}, "no such adapter"),
        ({"target_modules": "lm_head"}, "shares its weights"),
    ],
)
def test_settings_that_fit_no_adapter(model, settings, what):
    with pytest.raises(ConfigError, match=what):
        add_adapter(model, **SETTINGS | settings)


def test_a_saved_adapter_is_loaded_as_it_was(base, model, adapter):
    weights = load_file(adapter / WEIGHTS)
    peft_model = load_adapter(model, adapter, base=base)
    found = adapter_weights(peft_model)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert num_trainable(peft_model) == 0
    assert not peft_model.training


def test_an_adapter_is_trained_further(base, model, adapter):
    peft_model = load_adapter(model, adapter, base=base, trainable=True, dropout=0.0)
    assert num_trainable(peft_model) == sum(one.numel() for one in load_file(adapter / WEIGHTS).values())
    assert peft_model.training
    assert peft_model.peft_config["default"].lora_dropout == 0.0
    loss = peft_model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    assert all(one.grad.abs().sum() > 0 for one in peft_model.parameters() if one.requires_grad)
    with torch.no_grad():
        next(one for one in peft_model.parameters() if one.requires_grad).add_(1)


def test_peft_loads_what_we_write_and_computes_the_same(base, model, adapter):
    ours = logits(load_adapter(model, adapter, base=base))
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.folder), adapter)
    assert torch.equal(logits(theirs), ours)
    assert not torch.allclose(logits(load_model(base, device=torch.device("cpu"))), ours, atol=1e-2)


def test_equal_weights_are_equal_bytes(base, model, tmp_path):
    peft_model = add_adapter(model, **SETTINGS)
    first, second = (save_adapter(peft_model, tmp_path / name, base=base) for name in ("a", "b"))
    assert first == second == adapter_digest(tmp_path / "a")
    for name in (WEIGHTS, CONFIG, ORIGIN):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    written = json.loads((tmp_path / "a" / CONFIG).read_text())
    assert written["base_model_name_or_path"] == base.name
    assert "peft_version" not in written
    assert json.loads((tmp_path / "a" / ORIGIN).read_text()) == {
        "base": base.name,
        "revision": None,
        "base_digest": base.digest,
        "tokenizer_digest": base.tokenizer_digest,
        "template_digest": "c4896193c76e86af3963e13dfedc1aa7",
    }


def test_the_digest_is_of_what_an_adapter_does(base, adapter, copy, tmp_path):
    digest = adapter_digest(adapter)
    assert len(digest) == 64
    change(copy / CONFIG, base_model_name_or_path="elsewhere", lora_dropout=0.5)
    assert adapter_digest(copy) == digest
    change(copy / CONFIG, lora_alpha=9)
    assert adapter_digest(copy) != digest
    change(copy / CONFIG, lora_alpha=8, use_rslora=True)
    assert adapter_digest(copy) != digest
    change(copy / CONFIG, use_rslora=False)
    assert adapter_digest(copy) == digest
    weights = load_file(copy / WEIGHTS)
    name = sorted(weights)[0]
    weights[name][0, 0] += 1e-6
    save_file(weights, copy / WEIGHTS)
    assert adapter_digest(copy) != digest
    settings = {"r": 4, "lora_alpha": 8.0, "lora_dropout": 0.1, "target_modules": ["b", "a"]}
    settings |= {"use_rslora": False, "fan_in_fan_out": False}
    again = write_adapter(load_file(adapter / WEIGHTS), settings, tmp_path / "again", base=base)
    assert again == digest


@pytest.mark.parametrize(
    ("field", "what"),
    [("digest", "base model"), ("tokenizer_digest", "tokenizer")],
)
def test_an_adapter_of_another_base(base, model, adapter, field, what):
    with pytest.raises(ConfigError, match=f"another {what}") as raised:
        load_adapter(model, adapter, base=replace(base, **{field: "0123"}))
    assert base.name in raised.value.hint


def test_an_adapter_of_another_template(base, model, copy):
    change(copy / ORIGIN, template_digest="0123")
    with pytest.raises(ConfigError, match="another template"):
        load_adapter(model, copy, base=base)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, ORIGIN])
def test_a_missing_file(base, model, copy, name):
    (copy / name).unlink()
    with pytest.raises(MissingInputError, match=name):
        load_adapter(model, copy, base=base)
    with pytest.raises(MissingInputError, match="no such folder"):
        load_adapter(model, copy / "none", base=base)


class _Bomb:
    def __reduce__(self):
        return Path.touch, (Path("was_run"),)


def test_a_pickle_is_never_loaded(base, model, copy, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (copy / WEIGHTS).unlink()
    torch.save(_Bomb(), copy / "adapter_model.bin")
    with pytest.raises(InputError, match="pickled"):
        load_adapter(model, copy, base=base)
    with pytest.raises(InputError, match="pickled"):
        adapter_digest(copy)
    assert not Path("was_run").exists()


def test_a_damaged_file(base, model, copy):
    data = (copy / WEIGHTS).read_bytes()
    for damaged in (data[:-8], b"", b"\xff" * 100):
        (copy / WEIGHTS).write_bytes(damaged)
        with pytest.raises(InputError, match="damaged"):
            load_adapter(model, copy, base=base)


def respoil(copy: Path, spoil) -> None:
    weights = load_file(copy / WEIGHTS)
    spoil(weights, sorted(weights)[0])
    save_file(weights, copy / WEIGHTS)


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda weights, name: weights.pop(name), "missing"),
        (lambda weights, name: weights.update({name + "x": weights[name].clone()}), "absent"),
        (lambda weights, name: weights.update({name: weights[name][:, :-1].contiguous()}), "should be"),
        (lambda weights, name: weights.update({name: weights[name][:-1].contiguous()}), "rank 3, but"),
        (lambda weights, name: weights[name].fill_(float("nan")), "not finite"),
        (lambda weights, name: weights.update({name: weights[name][0].clone()}), "rank None"),
    ],
    ids=["missing", "more", "width", "rank", "nan", "vector"],
)
def test_weights_that_are_not_what_they_should_be(base, model, copy, spoil, what):
    respoil(copy, spoil)
    with pytest.raises(InputError, match=what):
        load_adapter(model, copy, base=base)


@pytest.mark.parametrize(
    "fields",
    [
        {"peft_type": "IA3"},
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 2}},
        {"r": None},
        {"r": True},
        {"lora_alpha": "16"},
        {"target_modules": "all-linear"},
    ],
    ids=str,
)
def test_settings_of_another_kind_of_adapter(base, model, copy, fields):
    change(copy / CONFIG, **fields)
    with pytest.raises(InputError):
        load_adapter(model, copy, base=base)


def test_settings_that_say_another_rank(base, model, copy):
    change(copy / CONFIG, r=8)
    with pytest.raises(InputError, match=r"rank 4, but adapter_config\.json says 8"):
        load_adapter(model, copy, base=base)


def test_a_model_has_one_adapter(base, model, adapter):
    load_adapter(model, adapter, base=base)
    with pytest.raises(ValueError, match="adapter already"):
        load_adapter(model, adapter, base=base)
    with pytest.raises(ValueError, match="adapter already"):
        add_adapter(model, **SETTINGS)


def test_where_nothing_can_be_written(base, model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        save_adapter(add_adapter(model, **SETTINGS), tmp_path / "file", base=base)


def test_an_export_is_what_peft_loads(base, adapter, tmp_path):
    export_adapter(adapter, tmp_path / "out", "# card\n")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", CONFIG, WEIGHTS, ORIGIN]
    assert (tmp_path / "out/README.md").read_text() == "# card\n"
    assert adapter_digest(tmp_path / "out") == adapter_digest(adapter)
    with pytest.raises(OutputError, match="something already"):
        export_adapter(adapter, tmp_path / "out", "")
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_libraries_keep_quiet(base, model, adapter, tmp_path, capfd):
    save_adapter(load_adapter(model, adapter, base=base), tmp_path / "a", base=base)
    assert capfd.readouterr() == ("", "")
