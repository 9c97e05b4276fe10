"""Texts that grow side by side, each with its own adapter, are as each would be alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from hypothesis import example, given
from hypothesis import strategies as st

from jobs.contracts.errors import ConfigError, IntegrityError
from jobs.ml import decoding
from jobs.ml.adapter_set import BARE, AdapterSet
from jobs.ml.adapters import AdapterSwitch, add_adapter, load_adapter, save_adapter
from jobs.ml.base_model import load_model
from jobs.ml.decoding import Decoder, Growing, Sampling

NUM_TOKENS = 12


@pytest.fixture(scope="module")
def adapters(base: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two that change what is said, of two ranks."""
    folder, found = tmp_path_factory.mktemp("adapters"), []
    for rank in (2, 4):
        model = add_adapter(
            load_model(base, device=torch.device("cpu")),
            rank=rank, alpha=32, dropout=0.0, target_modules="all-linear", seed=rank,
        )  # fmt: skip
        random = torch.Generator().manual_seed(rank)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.copy_(torch.randn(parameter.shape, generator=random))
        save_adapter(model, folder / f"step_{rank}", base=base)
        found.append(folder / f"step_{rank}")
    return found


@pytest.fixture(scope="module")
def decoder(base: Any) -> Decoder:
    return Decoder(base, device="cpu", precision="fp32")


def logits(model: Any, ids: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=ids).logits


def test_an_adapter_does_what_peft_does(base: Any, adapters: list[Path]) -> None:
    ids = torch.arange(2, 40)[None]
    model = load_model(base, device=torch.device("cpu"))
    alone = logits(model, ids)
    beside = AdapterSet(model, base)
    for folder in adapters:
        peft = load_adapter(load_model(base, device=torch.device("cpu")), folder, base=base)
        beside.use(beside.load(folder))
        assert not torch.allclose(logits(model, ids), alone, atol=1e-2)
        torch.testing.assert_close(logits(model, ids), logits(peft, ids), atol=1e-4, rtol=1e-4)
    beside.use(BARE)
    assert torch.equal(logits(model, ids), alone)


def test_side_by_side_as_alone(base: Any, decoder: Decoder, adapters: list[Path]) -> None:
    """Three adapters' texts grow in turn; each token is the likeliest by the merged model, which reads all anew."""
    prompts = [decoder.encoder.plain(text) for text in ("The array", "Dear Ann,\n\nno", "x")]
    loaded = [decoder.load(folder) for folder in (None, *adapters)]
    growing = [decoder.begin(*one, Sampling()) for one in zip(prompts, loaded, strict=True)]
    said: list[list[int]] = [[] for _ in growing]
    for _ in range(NUM_TOKENS):
        for tokens, one in zip(said, growing, strict=True):
            token = decoder.step(one)
            assert token is not None
            tokens.append(token)
    switch = AdapterSwitch(load_model(base, device=torch.device("cpu")), base)
    for folder, prompt, tokens in zip((None, *adapters), prompts, said, strict=True):
        model = switch.use(folder)
        ids = torch.tensor([prompt])
        for token in tokens:
            assert token == int(logits(model, ids)[0, -1].argmax())
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)


def test_a_long_prompt_is_read_in_pieces(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = decoder.encoder.plain("The array broke on Monday. " * 9)

    def said() -> tuple[int, list[int]]:
        one, reads, tokens = decoder.begin(prompt, BARE, Sampling()), 0, []
        while len(tokens) < NUM_TOKENS:
            token = decoder.step(one)
            reads += token is None
            tokens += [] if token is None else [token]
        return reads, tokens

    reads, whole = said()
    assert reads == 0
    monkeypatch.setattr(decoding, "_TOKENS_AT_ONCE", 7)
    assert said() == ((len(prompt) - 1) // 7, whole)


def test_chance(decoder: Decoder) -> None:
    prompt = decoder.encoder.plain("The array")

    def said(sampling: Sampling) -> list[int | None]:
        one = decoder.begin(prompt, BARE, sampling)
        return [decoder.step(one) for _ in range(NUM_TOKENS)]

    assert said(Sampling(1.0, seed=1)) == said(Sampling(1.0, seed=1)) != said(Sampling(1.0, seed=2))
    assert said(Sampling(1.0, top_p=1e-6, seed=1)) == said(Sampling())
    assert said(Sampling(1.0)) != said(Sampling(1.0))


@given(
    logits=st.lists(st.floats(width=32, allow_nan=False, max_value=2.0**127), min_size=1, max_size=9),
    temperature=st.floats(0, 2),
    top_p=st.floats(0, 1, exclude_min=True),
    seed=st.integers(-(2**63), 2**63 - 1),
)
@example([5.0, 3.0], 5e-324, 1.0, 1)
@example([5.0, 3.0], 1e-38, 1.0, 1)
@example([5.0, 3.0], 1.0, 5e-324, 1)
@example([3e38, -3e38, float("-inf")], 2.0, 1.0, 1)
def test_whatever_numbers_a_request_may_have(logits: list[float], temperature: float, top_p: float, seed: int) -> None:
    """A token is chosen, a possible one; the likeliest where the numbers leave nothing to chance."""
    logits[0] = max(logits[0], -3e38)
    growing = Growing([], BARE, Sampling(temperature, top_p, seed), torch.Generator().manual_seed(seed))
    chosen = logits[decoding._chosen(torch.tensor(logits), growing)]
    assert chosen > float("-inf")
    if temperature < 1e-48 or top_p < 0.1:
        assert chosen == max(logits)


def test_numbers_that_are_none_are_no_answer(base: Any, adapters: list[Path]) -> None:
    broken = Decoder(base, device="cpu", precision="fp32")
    broken._model.get_input_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(IntegrityError, match="computes no numbers"):
        broken.step(broken.begin([2, 3], BARE, Sampling()))


def test_an_adapter_of_another_base_is_refused(decoder: Decoder, adapters: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "step_9"
    other.mkdir()
    for path in adapters[0].iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    origin = other / "refrain.json"
    origin.write_text(origin.read_text().replace(decoder.base.digest, "0" * len(decoder.base.digest)))
    with pytest.raises(ConfigError, match="another base model"):
        decoder.load(other)
