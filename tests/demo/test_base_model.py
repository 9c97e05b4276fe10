"""The base model's maker, at a size of seconds."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from base_model import Size, main, make

TINY = Size(vocabulary=400, width=32, layers=2, heads=2, steps=30, batch=4, learning_rate=5e-3, row_tokens=128)


def made(folder: Path, mail: Path, size: Size = TINY) -> Path:
    num_weights, num_rows = make(folder, sorted((mail / "older").glob("*.mbox")), size)
    assert num_weights < 100_000
    assert num_rows > 10
    return folder


def digest(folder: Path) -> str:
    names = ("config.json", "model.safetensors", "tokenizer.json")
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()


@pytest.fixture(scope="module")
def base(mail, tmp_path_factory) -> Path:
    return made(tmp_path_factory.mktemp("base") / "model", mail)


def test_it_loads_as_every_other_model_does(base):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    assert model.config.model_type == "llama"
    assert model.config.vocab_size == len(tokenizer) == 400
    assert tokenizer.eos_token_id == model.config.eos_token_id == 0
    text = "The build of Heron is 2.4.1 — so far.\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_product_takes_it(base):
    from jobs.ml.base_model import find_base, load_encoder

    found = find_base(str(base))
    assert load_encoder(found).end_id == 0
    assert found.tokenizer_digest != "whitespace-1"


def test_it_has_learnt_something(base, mail):
    """The loss on mail that it has not seen is well below that of guessing: log(400) = 5.99 nats."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    ids = torch.tensor([tokenizer((mail / "weeks" / "2025-w05.mbox").read_text("latin-1")[:2000])["input_ids"]])
    with torch.no_grad():
        assert model(input_ids=ids, labels=ids).loss.item() < 5.2


def test_made_twice_it_is_the_same_and_by_another_seed_another(base, mail, tmp_path):
    made(tmp_path / "again", mail)
    made(tmp_path / "other", mail, replace(TINY, seed=8))
    assert digest(tmp_path / "again") == digest(base)
    assert digest(tmp_path / "other") != digest(base)
    assert json.loads((tmp_path / "other" / "tokenizer.json").read_text()) == json.loads(
        (base / "tokenizer.json").read_text()
    )


def test_mail_that_is_not_there_is_told_as_refrain_tells_it(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("sys.argv", ["base_model.py", str(tmp_path / "base"), str(tmp_path / "none.mbox")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 66
    assert capfd.readouterr().err == f"refrain: error: {tmp_path}/none.mbox: no such file or folder\n"
