"""Adapters merged into a base model: the same as beside it, exactly undone, and for good in files."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from jobs.contracts.errors import ConfigError, InputError, OutputError, RefrainError
from jobs.ml.adapters import (
    WEIGHTS,
    AdapterSwitch,
    adapter_digest,
    add_adapter,
    load_adapter,
    merge_adapter,
    save_adapter,
)
from jobs.ml.base_model import find_base, load_model

CPU = torch.device("cpu")
IDS = torch.arange(20, 60)[None]


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def weights(model) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in model.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_merged_is_as_beside_and_the_base_comes_back_bit_by_bit(base, model, make_adapter):
    folders = [make_adapter(), make_adapter(rank=9, alpha=3.0), make_adapter(target_modules="v_proj")]
    before, bare = weights(model), logits(model)
    switch = AdapterSwitch(model, base)
    for folder in [*folders, folders[0]]:
        found = logits(switch.use(folder))
        expected = logits(load_adapter(load_model(base, device=CPU), folder, base=base))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(found, bare, atol=1e-3)
    assert torch.equal(logits(switch.use(None)), bare)
    assert_same(weights(model), before)


def test_which_was_used_before_leaves_no_trace(base, model, make_adapter):
    one, other = make_adapter(), make_adapter(rank=2, target_modules="o_proj,down_proj")
    alone = weights(AdapterSwitch(load_model(base, device=CPU), base).use(other))
    switch = AdapterSwitch(model, base)
    switch.use(one)
    assert_same(weights(switch.use(other)), alone)


def test_a_scale_by_the_root_of_the_rank(base, model, adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "rs")
    text = (folder / "adapter_config.json").read_text()
    (folder / "adapter_config.json").write_text(text.replace('"use_rslora": false', '"use_rslora": true'))
    expected = logits(load_adapter(load_model(base, device=CPU), folder, base=base))
    switch = AdapterSwitch(model, base)
    plain = logits(switch.use(adapter))
    found = logits(switch.use(folder))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, plain, atol=1e-3)


def test_an_adapter_that_does_not_fit_changes_nothing(base, model, adapter, tmp_path):
    before = weights(model)
    switch = AdapterSwitch(model, base)
    broken = shutil.copytree(adapter, tmp_path / "broken")
    tensors = load_file(broken / WEIGHTS)
    last = sorted(tensors)[-1]
    save_file(tensors | {last: tensors[last][:-1].contiguous()}, broken / WEIGHTS)
    switch.use(adapter)
    with pytest.raises(InputError, match="in the adapter"):
        switch.use(broken)
    assert_same(weights(model), before)
    save_file({name: tensor for name, tensor in tensors.items() if name != last}, broken / WEIGHTS)
    with pytest.raises(InputError, match="the adapter has no"):
        switch.use(broken)
    renamed = {name.replace("layers.1", "layers.7"): tensor for name, tensor in tensors.items()}
    save_file(renamed, broken / WEIGHTS)
    with pytest.raises(InputError, match=r"there is no model\.layers\.7"):
        switch.use(broken)
    assert_same(weights(model), before)


def test_a_failure_midway_brings_the_base_back(base, model, adapter, monkeypatch):
    before = weights(model)
    switch = AdapterSwitch(model, base)
    calls = iter(range(100))
    real = torch.Tensor.float

    def failing(tensor):
        if next(calls) > 20:
            raise MemoryError
        return real(tensor)

    monkeypatch.setattr(torch.Tensor, "float", failing)
    with pytest.raises(MemoryError):
        switch.use(adapter)
    monkeypatch.undo()
    assert_same(weights(model), before)


def test_a_quantized_model_is_not_merged_into(base, model, adapter):
    layer = model.model.layers[0].mlp.up_proj
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ConfigError, match="quantized"):
        AdapterSwitch(model, base).use(adapter)


def test_layers_that_hold_their_weights_the_other_way(base_folder, tmp_path):
    """GPT-2's: [in, out]."""
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=384, n_embd=48, n_layer=2, n_head=2, n_positions=128)).save_pretrained(
        tmp_path / "base"
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base_folder / name, tmp_path / "base")
    base = find_base(str(tmp_path / "base"))
    peft_model = add_adapter(load_model(base, device=CPU), rank=3, alpha=6, dropout=0, seed=0)
    for name, parameter in peft_model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.05)
    save_adapter(peft_model, tmp_path / "adapter", base=base)
    beside = logits(peft_model.eval())
    torch.testing.assert_close(
        logits(load_adapter(load_model(base, device=CPU), tmp_path / "adapter", base=base)), beside
    )
    model = load_model(base, device=CPU)
    bare = logits(model)
    switch = AdapterSwitch(model, base)
    torch.testing.assert_close(logits(switch.use(tmp_path / "adapter")), beside, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(beside, bare, atol=1e-3)
    assert torch.equal(logits(switch.use(None)), bare)


def test_a_merged_model_is_one_that_transformers_loads(base, model, adapter, tmp_path, capfd):
    merge_adapter(base, adapter, tmp_path / "merged")
    assert capfd.readouterr() == ("", "")
    expected = logits(load_adapter(model, adapter, base=base))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=1e-4)
    assert merged.dtype == torch.float32
    text = "From: ann@example.org\n\nthe disk"
    tokenizer, own = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "merged", base.folder))
    assert tokenizer(text).input_ids == own(text).input_ids
    found = find_base(str(tmp_path / "merged"))
    assert found.tokenizer_digest == base.tokenizer_digest
    assert found.digest != base.digest
    for path in (tmp_path / "merged").glob("*.json"):
        assert str(tmp_path) not in path.read_text(), path.name
    assert adapter_digest(adapter) in (tmp_path / "merged/refrain.json").read_text()


def test_a_merged_model_keeps_the_base_s_precision(base, adapter, tmp_path, make_adapter):
    load_model(base, device=CPU).bfloat16().save_pretrained(tmp_path / "half")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base.folder / name, tmp_path / "half")
    half = find_base(str(tmp_path / "half"))
    peft_model = add_adapter(load_model(half, device=CPU), rank=2, alpha=4, dropout=0, seed=0)
    save_adapter(peft_model, tmp_path / "adapter", base=half)
    merge_adapter(half, tmp_path / "adapter", tmp_path / "merged")
    assert {one.dtype for one in load_file(tmp_path / "merged/model.safetensors").values()} == {torch.bfloat16}


def test_a_merged_model_is_there_whole_or_not_at_all(base, adapter, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/something").write_text("mine")
    with pytest.raises(OutputError, match="something already"):
        merge_adapter(base, adapter, tmp_path / "full")
    monkeypatch.setattr("shutil.copyfile", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OutputError, match="No space left"):
        merge_adapter(base, adapter, tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]
    with pytest.raises(RefrainError):
        merge_adapter(base, base.folder, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_switch_reads_the_adapter_alone(base, adapter, tmp_path):
    """Why it is quicker than a reload, whatever the clock says."""
    copied = replace(base, folder=Path(shutil.copytree(base.folder, tmp_path / "base")))
    model = load_model(copied, device=CPU)
    bare = logits(model)
    shutil.rmtree(copied.folder)
    switch = AdapterSwitch(model, copied)
    assert not torch.equal(logits(switch.use(adapter)), bare)
    assert torch.equal(logits(switch.use(None)), bare)
