"""Base models from a hub: a small server that speaks as the Hugging Face Hub does, on this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

pytest.importorskip("torch")

from servers.hub import COMMIT, NAME, Hub, serving
from servers.s3 import free_port

from jobs.contracts.errors import AccessError, ConfigError, MissingInputError, RefrainError, TransientError
from jobs.ml.base_model import find_base
from jobs.ml.tokens import load_token_counter


@pytest.fixture
def hub(base_folder, tmp_path, monkeypatch) -> Iterator[type[Hub]]:
    """The base model as `somebody/tiny`, with a cache of one's own."""
    names = [*sorted(path.name for path in base_folder.iterdir()), "original/model.safetensors", "README.md"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serving(base_folder, names) as (handler, address):
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield handler


def fetched(hub) -> list[str]:
    return [line.rpartition("/")[2] for line in hub.asked if line.startswith("GET") and "/resolve/" in line]


def test_a_name_becomes_a_commit(hub, base, capfd):
    found = find_base(NAME)
    assert (found.name, found.revision, found.digest) == (NAME, COMMIT, base.digest)
    assert "model.safetensors" in fetched(hub)
    assert "README.md" not in fetched(hub)
    assert not any("original" in line for line in hub.asked)
    assert capfd.readouterr() == ("", "")
    hub.asked.clear()
    for name, revision in ((NAME, COMMIT), (NAME, "main"), (f"{NAME}@{COMMIT}", None)):
        again = find_base(name, revision)
        assert (again.name, again.revision, again.folder) == (NAME, COMMIT, found.folder)
    assert fetched(hub) == []


def test_a_private_model_is_opened_by_the_token(hub, base, monkeypatch):
    hub.token = "hf_secret"
    with pytest.raises(MissingInputError, match="no such model") as raised:
        find_base(NAME)
    assert "HF_TOKEN" in raised.value.hint
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert find_base(NAME).digest == base.digest


@pytest.mark.parametrize(
    ("name", "revision", "kind"),
    [
        ("somebody/else", None, MissingInputError),
        (NAME, "v2", MissingInputError),
        ("not a name", None, MissingInputError),
    ],
)
def test_what_is_not_there(hub, name, revision, kind):
    with pytest.raises(kind):
        find_base(name, revision)


@pytest.mark.parametrize(("status", "kind"), [(403, AccessError), (500, TransientError), (429, TransientError)])
def test_a_hub_that_refuses(hub, status, kind):
    hub.refuses = status
    with pytest.raises(kind, match=str(status)):
        find_base(NAME)


def test_pickled_weights_are_not_even_fetched(hub):
    hub.names = ["config.json", "pytorch_model.bin", "tokenizer.json"]
    with pytest.raises(ConfigError, match="pickled"):
        find_base(NAME)
    assert fetched(hub) == []


def test_without_a_network_what_was_fetched_before_is_taken(hub, base, monkeypatch):
    find_base(NAME)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    for revision in (None, COMMIT):
        found = find_base(NAME, revision)
        assert (found.revision, found.digest) == (COMMIT, base.digest)
    with pytest.raises(TransientError, match="cannot be reached") as raised:
        find_base("somebody/else")
    assert "folder" in raised.value.hint


def test_offline_nothing_is_asked(hub, base, monkeypatch):
    find_base(NAME)
    hub.asked.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert find_base(NAME).digest == base.digest
    with pytest.raises(RefrainError, match="cannot be reached"):
        find_base("somebody/else")
    assert hub.asked == []


def test_a_tokenizer_is_fetched_alone_once_and_without_heavy_libraries(hub, base, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    counter = load_token_counter(f"{NAME}@{COMMIT}")
    assert counter.digest == base.tokenizer_digest, "split and train must agree on the tokenizer"
    assert fetched(hub) == ["tokenizer.json"]
    hub.asked.clear()
    assert load_token_counter(f"{NAME}@{COMMIT}").digest == counter.digest
    assert hub.asked == []


def test_a_tokenizer_of_another_form_needs_transformers(hub, tmp_path, monkeypatch):
    hub.folder, hub.names = tmp_path, ["config.json", "vocab.json"]
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingInputError, match=r"no tokenizer\.json") as raised:
        load_token_counter(f"{NAME}@{COMMIT}")
    assert "refrain[train]" in raised.value.hint
