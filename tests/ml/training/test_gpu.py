"""What holds on a CPU holds on a GPU too; skipped where there is none."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from ml.training.runs import cut, data_of, digest, losses, newest, of_train, schedule, train, tree
from safetensors.torch import load_file

from jobs.contracts.errors import StoppedError
from jobs.ml.training.chunked_loss import target_cross_entropy

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def gpu() -> str:
    # A plain skip: continuous integration has no GPU, and that is no fault of it.
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    return "cuda"


@pytest.fixture(scope="module")
def data(chunks: Any, encoder: Any) -> Any:
    first = cut(of_train(chunks, 16), 4)
    return data_of(chunks, encoder, schedule(first, first[:0:-1]))


@pytest.fixture(scope="module")
def undisturbed(gpu: str, base: Any, data: Any, tmp_path_factory: Any) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return folder, train(base, data, folder, device=gpu, precision="bf16")


def test_losses_are_the_cpu_s(gpu: str, base: Any, data: Any, tmp_path: Path) -> None:
    found = losses(train(base, data, tmp_path / "gpu", device=gpu, dropout=0.0))
    expected = losses(train(base, data, tmp_path / "cpu", dropout=0.0))
    assert found == pytest.approx(expected, rel=1e-3)
    assert expected[-1] < 0.985 * expected[0]
    weights = [load_file(newest(tmp_path / name) / "adapter_model.safetensors") for name in ("gpu", "cpu")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=0.05, atol=5e-3)


def test_bf16_learns_as_fp32_does(undisturbed: Any, base: Any, data: Any, tmp_path: Path) -> None:
    expected = losses(train(base, data, tmp_path / "cpu"), "eval_loss")
    assert losses(undisturbed[1], "eval_loss") == pytest.approx(expected, rel=0.03)


def test_runs_are_equal_bit_by_bit_and_seeds_differ(
    undisturbed: Any, gpu: str, base: Any, data: Any, tmp_path: Path
) -> None:
    folder, outcome = undisturbed
    again = train(base, data, tmp_path / "again", device=gpu, precision="bf16")
    assert again.trainer_state == outcome.trainer_state
    assert tree(tmp_path / "again") == tree(folder)
    train(base, data, tmp_path / "other", device=gpu, precision="bf16", seed=8)
    assert digest(tmp_path / "other") != digest(folder)


def test_it_goes_on_to_the_same_bits(undisturbed: Any, gpu: str, base: Any, data: Any, tmp_path: Path) -> None:
    folder, outcome = undisturbed
    asked: list[int] = []

    def should_stop() -> bool:
        asked.append(0)
        return len(asked) == 2

    with pytest.raises(StoppedError):
        train(base, data, tmp_path / "run", device=gpu, precision="bf16", should_stop=should_stop)
    resumed = train(base, data, tmp_path / "run", device=gpu, precision="bf16")
    assert resumed.trainer_state == outcome.trainer_state
    assert digest(tmp_path / "run") == digest(folder)


def test_a_base_model_in_four_bits_is_learnt_on_and_gone_on_with(
    gpu: str, base: Any, data: Any, tmp_path: Path
) -> None:
    if find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    settings: dict[str, Any] = {"device": gpu, "precision": "bf16", "quantization": "4bit"}
    outcome = train(base, data, tmp_path / "undisturbed", **settings)
    assert losses(outcome)[-1] < losses(outcome)[0] - 0.08
    assert losses(outcome, "eval_loss")[-1] < losses(outcome)[0] - 0.08
    asked: list[int] = []

    def should_stop() -> bool:
        asked.append(0)
        return len(asked) == 6

    with pytest.raises(StoppedError, match=r"told to stop at step [1-6] of 7"):
        train(base, data, tmp_path / "run", should_stop=should_stop, **settings)
    resumed = train(base, data, tmp_path / "run", **settings)
    assert resumed.trainer_state == outcome.trainer_state
    assert tree(tmp_path / "run") == tree(tmp_path / "undisturbed")
    plain = train(base, data, tmp_path / "plain", **settings | {"quantization": None})
    assert losses(plain)[0] == pytest.approx(losses(outcome)[0], rel=0.05)
    assert losses(plain) != losses(outcome), "it was not quantised"


def test_logits_are_never_all_in_memory(gpu: str) -> None:
    """Those of 8,192 tokens over 128,256 words would be 2 GiB in bf16, and 4 GiB in fp32."""
    head = torch.nn.Linear(64, 128_256, bias=False, device=gpu, dtype=torch.bfloat16)
    head.requires_grad_(requires_grad=False)
    peaks = []
    for num_tokens in (1024, 8192):
        hidden = torch.randn(1, num_tokens, 64, device=gpu, dtype=torch.bfloat16, requires_grad=True)
        labels = torch.randint(128_256, (1, num_tokens), device=gpu)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        target_cross_entropy(hidden, labels, head, 128_256).backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert max(peaks) < 2 * 2**30
    assert peaks[1] < 1.1 * peaks[0]
