"""A base model that one GPU cannot hold, over several: when, over which, and that all works there as on one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the training half needs the extra `train`")

from accelerate import dispatch_model  # noqa: E402 - they need torch
from accelerate.hooks import AlignDevicesHook  # noqa: E402
from ml.pretend_devices import FIRST, SECOND, Placed, pretended  # noqa: E402
from ml.tiny import tiny_base  # noqa: E402
from transformers import AutoModelForCausalLM, LlamaConfig  # noqa: E402
from transformers.integrations.accelerate import _get_device_map  # noqa: E402 - what from_pretrained calls

from jobs.contracts.errors import ConfigError  # noqa: E402
from jobs.ml import decoding, evaluating, spreading  # noqa: E402
from jobs.ml.adapters import add_adapter, save_adapter  # noqa: E402
from jobs.ml.base_model import find_base, load_encoder, load_model  # noqa: E402
from jobs.ml.decoding import Decoder, Sampling  # noqa: E402
from jobs.ml.evaluating import Scorer  # noqa: E402
from jobs.ml.model_files import num_weights  # noqa: E402
from jobs.ml.spreading import fits, load_to_ask, shares, spread_note  # noqa: E402

CPU = torch.device("cpu")
GIB = 1 << 30
SEVENTY = 70_553_706_496 * 2
"""Llama-3.1-70B in bf16."""


# ---- when, and over which


def test_a_model_that_fits_is_left_on_one_gpu():
    assert fits(61 * GIB, 79 * GIB)  # 32B
    assert not fits(SEVENTY, 139 * GIB)
    assert not fits(72 * GIB, 79 * GIB)


def test_gpus_that_hold_it_together_leave_room_for_work():
    assert shares(SEVENTY, [79 * GIB, 79 * GIB]) == {0: 79 * GIB * 9 // 10, 1: 79 * GIB * 9 // 10}
    with pytest.raises(ConfigError) as caught:
        shares(SEVENTY, [47 * GIB, 47 * GIB])
    assert "takes 131.4 GiB, and the 2 GPUs here have 94.0 GiB free" in str(caught.value)
    assert "more or larger GPUs" in str(caught.value)


@pytest.mark.parametrize("num_gpus", [2, 4, 8])
def test_of_a_70b_model_no_layer_is_left_out_and_all_gpus_have_some(num_gpus):
    """What transformers makes of the shares, with the shapes of the real one: the tightest is two GPUs of 80 GB."""
    shape = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
    with torch.device("meta"):
        config = LlamaConfig(**shape, num_key_value_heads=8, head_dim=128, vocab_size=128256)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    assert sum(one.numel() for one in model.parameters()) * 2 == SEVENTY
    free = {2: 79, 4: 47, 8: 23}[num_gpus] * GIB
    layers = _get_device_map(model, "auto", shares(SEVENTY, [free] * num_gpus), None)
    taken = Counter[Any]()
    for name, gpu in layers.items():
        taken[gpu] += sum(one.numel() * 2 for one in model.get_submodule(name).parameters())
    assert sorted(taken) == list(range(num_gpus))
    assert max(taken.values()) <= 0.9 * free
    assert max(taken.values()) - min(taken.values()) <= 8 * GIB


class _Gpus:
    """So many GPUs, by what torch says of them, and what is loaded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *free_bytes: int) -> None:
        self.loaded: list[dict[str, Any]] = []
        self.looked_at: list[int] = []
        self.map: dict[str, Any] = {}
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free_bytes))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: self._free(device, free_bytes))
        monkeypatch.setattr("jobs.ml.devices._computes_in_bf16", lambda _: True)
        monkeypatch.setattr(spreading, "load_model", self._load)

    def _free(self, device: Any, free_bytes: tuple[int, ...]) -> tuple[int, int]:
        number = device if isinstance(device, int) else device.index
        self.looked_at.append(number)
        return free_bytes[number], 80 * GIB

    def _load(self, _base: Any, **options: Any) -> Any:
        self.loaded.append(options)
        model = torch.nn.Module()
        model.hf_device_map = self.map
        return model


def test_over_all_gpus_where_one_cannot_hold_it(base, monkeypatch):
    size = num_weights(base.folder) * 2
    gpus = _Gpus(monkeypatch, size, size // 2, size)
    gpus.map = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 1, "lm_head": 2}
    model = load_to_ask(base, device=None, precision="bf16")
    (options,) = gpus.loaded
    assert options["spread"] == {0: int(size * 0.9), 1: int(size // 2 * 0.9), 2: int(size * 0.9)}
    assert spread_note(model) == (
        "one GPU cannot hold the base model: its layers are spread over cuda:0, cuda:1, cuda:2"
    )


def test_a_layer_that_no_gpu_has_room_for_is_an_error(base, monkeypatch):
    size = num_weights(base.folder) * 2
    gpus = _Gpus(monkeypatch, size, size)
    gpus.map = {"model": 0, "lm_head": "disk"}
    with pytest.raises(ConfigError, match="no GPU has room for the last of the base model's layers"):
        load_to_ask(base, device="cuda", precision="bf16")


@pytest.mark.parametrize(("device", "num_gpus", "times"), [(None, 2, 2), ("cuda:1", 2, 1), (None, 1, 1), ("cpu", 2, 1)])
def test_where_one_device_is_named_is_enough_or_is_all_there_is(base, monkeypatch, device, num_gpus, times):
    size = num_weights(base.folder) * 2
    gpus = _Gpus(monkeypatch, *[size * times] * num_gpus)
    model = load_to_ask(base, device=device, precision="bf16")
    (options,) = gpus.loaded
    assert options["spread"] is None
    assert str(options["device"]) == (device or "cuda:0")
    assert spread_note(model) is None
    assert set(gpus.looked_at) == ({0} if times == 2 else set())


def test_the_weights_are_counted_by_their_files(base, model):
    assert num_weights(base.folder) == sum(one.numel() for one in model.parameters())


# ---- that all works there


@pytest.fixture(scope="module")
def deep(chunks: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A base of four layers, its output head its own."""
    folder = tmp_path_factory.mktemp("deep") / "base"
    tiny_base(folder, [chunk.text for chunk in chunks], layers=4, tied=False)
    return find_base(str(folder))


def _adapter(base: Any, folder: Path, seed: int, modules: str = "all-linear") -> Path:
    settings = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "target_modules": modules}
    peft_model = add_adapter(load_model(base, device=CPU), **settings, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in peft_model.named_parameters():
        if ".lora_B." in name:
            parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    save_adapter(peft_model, folder, base=base)
    return folder


@pytest.fixture(scope="module")
def adapters(deep: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path | None]:
    folder = tmp_path_factory.mktemp("adapters")
    head = _adapter(deep, folder / "head", 3, "q_proj,down_proj,lm_head")
    return [None, _adapter(deep, folder / "one", 1), _adapter(deep, folder / "other", 2), head]


@pytest.fixture
def spread(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Models are spread over two pretended devices, by accelerate; the head is where the first layers are."""
    models: list[Any] = []

    def load(base: Any, **_: Any) -> Any:
        model = load_model(base, device=CPU)
        places = {f"model.layers.{number}": FIRST if number < 2 else SECOND for number in range(4)}
        places |= {"model.embed_tokens": FIRST, "model.rotary_emb": FIRST, "model.norm": SECOND, "lm_head": FIRST}
        models.append(dispatch_model(model, places, skip_keys=model._skip_keys_device_placement))
        return model

    for module in (evaluating, decoding):
        monkeypatch.setattr(module, "load_to_ask", load)
    with pretended():
        yield models
    (model,) = models
    assert {one.device for one in model.parameters()} == {FIRST, SECOND}
    assert all(isinstance(one, Placed) for one in model.parameters())
    assert isinstance(model.model.layers[3]._hf_hook, AlignDevicesHook)


def _scores(base: Any, chunks: Any, adapters: list[Path | None]) -> list[tuple[list[float], list[str]]]:
    encoder = load_encoder(base)
    scorer = Scorer(base, encoder, precision="fp32", device="cpu", batch_tokens=900, seed=1)
    examples = [encoder.example(chunk) for chunk in chunks[:4]]
    prompts = [encoder.prompt(chunk.subject, [], "ann@x.example", "2024-01-01") for chunk in chunks[:3]]
    found = []
    for folder in [*adapters, *adapters[::-1]]:
        scorer.use(folder)
        found.append((scorer.losses(examples), scorer.answers(prompts, 12)))
    return found


def test_adapters_merged_in_turn_score_as_on_one_device(deep, chunks, adapters, request):
    expected = _scores(deep, chunks, adapters)
    request.getfixturevalue("spread")
    assert _scores(deep, chunks, adapters) == expected
    assert expected[: len(adapters)] == expected[: len(adapters) - 1 : -1]
    assert len({losses[0] for losses, _ in expected}) == len(adapters), "adapters that change nothing show nothing"


def _texts(base: Any, adapters: list[Path | None]) -> list[list[int]]:
    """Texts that grow in turn, a token of each at a time, each with its own adapter beside the base's weights."""
    decoder = Decoder(base, device="cpu", precision="fp32")
    prompt = list(range(5, 25))
    growing = [decoder.begin(prompt, decoder.load(folder), Sampling()) for folder in adapters]
    tokens: list[list[int]] = [[] for _ in growing]
    for _ in range(10):
        for mine, one in zip(tokens, growing, strict=True):
            token = decoder.step(one)
            assert token is not None
            mine.append(token)
    return tokens


def test_adapters_beside_each_other_write_as_on_one_device(deep, adapters, request):
    expected = _texts(deep, adapters)
    request.getfixturevalue("spread")
    assert _texts(deep, adapters) == expected
    assert len({tuple(one) for one in expected}) > 1


# ---- with real ones


@pytest.mark.gpu
def test_over_real_gpus(deep, chunks, adapters, monkeypatch):
    if torch.cuda.device_count() < 2:
        pytest.skip("fewer than two NVIDIA GPUs")
    expected = _scores(deep, chunks, adapters)
    size = num_weights(deep.folder) * 4
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (int(size * 0.8), 80 * GIB))
    models = []

    def load(base: Any, **_: Any) -> Any:
        models.append(load_to_ask(base, device="cuda", precision="fp32"))
        return models[-1]

    monkeypatch.setattr(evaluating, "load_to_ask", load)
    found = _scores(deep, chunks, adapters)
    assert spread_note(models[0]) is not None
    for (losses, _), (on_one, _) in zip(found, expected, strict=True):
        assert losses == pytest.approx(on_one, rel=1e-3)
