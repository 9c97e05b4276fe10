import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from components import require
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

from jobs.contracts.errors import ConfigError, InputError, MissingInputError
from jobs.ml import tokens
from jobs.ml.tokens import ModelCounter, WhitespaceCounter, load_token_counter, tokenizer_digest

TEXTS = ["the disk is full", "", "delete something\n\nthe disk", "naïve 日本語 🙂", " two  blanks ", "x" * 500]


def trained() -> Tokenizer:
    """A byte-level BPE that adds special tokens by default, and would cut and pad what it counts."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>"],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the disk of the server is full", "delete something on the disk"] * 5, trainer)
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=5)
    return tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model")
    trained().save(str(path / "tokenizer.json"))
    return path


@pytest.fixture(scope="module")
def counter(folder) -> ModelCounter:
    return load_token_counter(str(folder))


def test_white_space():
    counter = load_token_counter("whitespace")
    assert counter.count(TEXTS) == [4, 0, 4, 3, 2, 1]
    assert counter.offsets(" ab  c\n") == [(1, 3), (5, 6)]
    assert (counter.name, counter.digest) == ("whitespace", "whitespace-1")


@given(st.text())
def test_white_space_counts_what_it_finds(text):
    counter = WhitespaceCounter()
    assert counter.count([text]) == [len(counter.offsets(text))]


def test_a_model_counts_without_special_tokens_cutting_or_padding(counter):
    plain = trained()
    plain.no_truncation()
    plain.no_padding()
    expected = [len(plain.encode(text, add_special_tokens=False).ids) for text in TEXTS]
    assert counter.count(TEXTS) == expected
    assert expected[0] == 4  # "the", " disk", " is", " full": it has learnt these words
    assert expected[-1] > 5
    assert [len(counter.offsets(text)) for text in TEXTS] == expected


def test_offsets_are_characters(counter):
    text = "naïve 日本語 🙂 disk"
    spans = counter.offsets(text)
    assert spans[-1] == (len(text) - 5, len(text))
    assert spans == sorted(spans)
    assert {start for start, _ in spans} >= {text.index("日"), text.index("本"), text.index("🙂")}


def test_batches_do_not_change_counts(counter, monkeypatch):
    whole = counter.count(TEXTS * 3)
    monkeypatch.setattr(tokens, "_BATCH_CHARS", 20)
    assert counter.count(TEXTS * 3) == whole
    assert counter.count([]) == []


def test_a_file_and_its_folder_are_one_tokenizer(folder, counter):
    assert load_token_counter(str(folder / "tokenizer.json")).digest == counter.digest
    assert counter.name == str(folder)


def test_the_digest_tells_tokenizers_apart_and_nothing_else(folder):
    definition = (folder / "tokenizer.json").read_text()
    fields = json.loads(definition)
    assert fields["truncation"]
    other_layout = json.dumps({key: fields[key] for key in reversed(fields) if key != "padding"}, indent=4)
    assert tokenizer_digest(other_layout) == tokenizer_digest(definition) == load_token_counter(str(folder)).digest
    fields["model"]["merges"] = fields["model"]["merges"][:-1]
    assert tokenizer_digest(json.dumps(fields)) != tokenizer_digest(definition)


@pytest.mark.parametrize("content", ["", "{", "{}", "[1]", "\udcff"])
def test_a_file_that_is_no_tokenizer(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match="not a tokenizer") as raised:
        load_token_counter(str(path))
    assert raised.value.where == str(path)


@pytest.mark.parametrize("name", ["missing/tokenizer.json", "/missing/model", "./missing"])
def test_a_file_that_is_not_there(name):
    with pytest.raises(MissingInputError, match="no such tokenizer"):
        load_token_counter(name)


@pytest.mark.parametrize("name", ["org/model", "org/model@main", "org/model@1234abc", "whitespaces"])
def test_a_name_without_a_commit(name):
    with pytest.raises(ConfigError, match="revision"):
        load_token_counter(name)


def test_without_transformers_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingInputError) as raised:
        load_token_counter(str(tmp_path))
    assert "refrain[train]" in raised.value.hint


def test_code_that_comes_with_a_tokenizer_never_runs(tmp_path):
    """transformers asks on standard input unless it is told; whoever answers yes there must not matter."""
    require(find_spec("transformers"), "transformers is not installed")
    ran = tmp_path / "ran"
    (tmp_path / "tok.py").write_text(f"open({str(ran)!r}, 'w')\nclass Tok: pass\n")
    settings = {"tokenizer_class": "Tok", "auto_map": {"AutoTokenizer": ["tok.Tok", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    command = f"from jobs.ml.tokens import load_token_counter; load_token_counter({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", command], input="y\n" * 9, capture_output=True, text=True, check=False)
    assert not ran.exists()
    assert "it needs code of its own" in done.stderr, done.stderr
    assert "[y/N]" not in done.stdout


def test_a_tokenizer_of_another_form_is_read_by_transformers(tmp_path, counter):
    require(find_spec("transformers"), "transformers is not installed")
    model = json.loads(trained().to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tmp_path / "merges.txt").write_text("".join(" ".join(pair) + "\n" for pair in model["merges"]))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    assert load_token_counter(str(tmp_path)).count(TEXTS) == counter.count(TEXTS)


def test_a_folder_that_transformers_cannot_read(tmp_path):
    require(find_spec("transformers"), "transformers is not installed")
    with pytest.raises(MissingInputError, match="cannot be loaded"):
        load_token_counter(str(tmp_path))


@pytest.mark.parametrize("s3_server", ["moto"], indirect=True)
def test_a_tokenizer_in_a_store(s3_server, tmp_path):
    path = tmp_path / "tokenizer.json"
    trained().save(str(path))
    bucket = s3_server.make_bucket()
    s3_server.client().put_object(Bucket=bucket, Key="models/tiny/tokenizer.json", Body=path.read_bytes())
    here = load_token_counter(str(path))
    for name in (
        f"s3://{bucket}/models/tiny",
        f"s3://{bucket}/models/tiny/",
        f"s3://{bucket}/models/tiny/tokenizer.json",
    ):
        there = load_token_counter(name)
        assert (there.digest, there.count(TEXTS)) == (here.digest, here.count(TEXTS))
    with pytest.raises(MissingInputError, match="no such object"):
        load_token_counter(f"s3://{bucket}/models/absent")
    s3_server.client().put_object(Bucket=bucket, Key="models/bad/tokenizer.json", Body=b"{}")
    with pytest.raises(InputError, match="not a tokenizer"):
        load_token_counter(f"s3://{bucket}/models/bad")
