"""Finding and loading base models: each kind of place, and each way in which one is not what it should be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from ml.tiny import tiny_base
from safetensors.torch import load_file, save_file

from jobs.contracts.errors import ConfigError, InputError, IntegrityError, MissingInputError, RefrainError
from jobs.contracts.store import open_store
from jobs.items import COMPLETE, seal
from jobs.ml.base_model import find_base, load_encoder, load_model
from jobs.ml.tokens import load_token_counter

CPU = torch.device("cpu")


@pytest.fixture
def copy(base_folder, tmp_path) -> Path:
    return Path(shutil.copytree(base_folder, tmp_path / "copy"))


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_folder(base_folder, base):
    assert (base.name, base.revision, base.folder) == (str(base_folder), None, base_folder)
    assert base.tokenizer_digest == load_token_counter(str(base_folder)).digest
    assert find_base(base_folder.as_uri()).digest == base.digest


def test_the_digest_is_of_contents_alone(copy, base):
    assert find_base(str(copy)).digest == base.digest
    change(copy / "config.json", _name_or_path="/srv/models/model", transformers_version="4.1.0")
    (copy / "notes.txt").write_text("mine")
    assert find_base(str(copy)).digest == base.digest
    change(copy / "config.json", rms_norm_eps=1e-3)
    assert find_base(str(copy)).digest != base.digest


def test_one_other_weight_is_another_model(copy, base):
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"][3] += 1e-6
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    found = find_base(str(copy))
    assert found.digest != base.digest
    assert found.tokenizer_digest == base.tokenizer_digest


def test_a_model_is_frozen_and_quiet(base, capfd):
    model = load_model(base, device=CPU)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    load_encoder(base)
    assert capfd.readouterr() == ("", "")


def test_weights_in_several_files(base, tmp_path):
    model = load_model(base, device=CPU)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    shutil.copy(base.folder / "tokenizer.json", tmp_path / "sharded")
    shutil.copy(base.folder / "tokenizer_config.json", tmp_path / "sharded")
    shards = sorted((tmp_path / "sharded").glob("model-*.safetensors"))
    assert len(shards) > 2
    found = find_base(str(tmp_path / "sharded"))
    again = load_model(found, device=CPU)
    for (name, one), (_, other) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    shards[1].unlink()
    with pytest.raises(MissingInputError) as raised:
        find_base(str(tmp_path / "sharded"))
    assert raised.value.where == str(shards[1])


@pytest.mark.parametrize("name", ["/no/such/model", "./model", "../model", "a/b/c"])
def test_no_such_folder(name):
    with pytest.raises(MissingInputError, match="no such folder"):
        find_base(name)


def test_a_folder_has_no_revision(base_folder):
    with pytest.raises(ConfigError, match="only a model of the hub"):
        find_base(str(base_folder), "main")


@pytest.mark.parametrize(
    ("name", "kind", "what"),
    [
        ("config.json", MissingInputError, "no config.json"),
        ("model.safetensors", MissingInputError, "no weights"),
        ("tokenizer.json", MissingInputError, "cannot be loaded|no tokenizer"),
    ],
)
def test_a_file_is_missing(copy, name, kind, what):
    (copy / name).unlink()
    with pytest.raises(kind, match=what):
        find_base(str(copy))


def test_no_tokenizer_at_all(copy):
    for path in copy.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(MissingInputError, match="no tokenizer"):
        find_base(str(copy))


def test_pickled_weights_are_refused_with_what_to_do(copy):
    weights = load_file(copy / "model.safetensors")
    torch.save(weights, copy / "pytorch_model.bin")
    assert find_base(str(copy))  # the pickle beside safetensors is passed over
    (copy / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="pickled") as raised:
        find_base(str(copy))
    assert "safetensors" in raised.value.hint


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def garble(path: Path) -> None:
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


@pytest.mark.parametrize("spoil", [cut, garble, lambda path: path.write_bytes(b"")])
def test_damaged_weights(copy, spoil):
    spoil(copy / "model.safetensors")
    with pytest.raises(InputError, match="damaged or cut short") as raised:
        find_base(str(copy))
    assert raised.value.where == str(copy / "model.safetensors")


@pytest.mark.parametrize("config", ["{", "[]", "{}", '"llama"'])
def test_a_configuration_that_is_none(copy, config):
    (copy / "config.json").write_text(config)
    with pytest.raises(InputError) as raised:
        find_base(str(copy))
    assert raised.value.where == str(copy / "config.json")


def test_a_damaged_tokenizer(copy):
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="not a tokenizer"):
        find_base(str(copy))


def test_an_index_that_leads_elsewhere(copy):
    (copy / "model.safetensors").rename(copy / "other.safetensors")
    for name in ("../copy/other.safetensors", "weights.bin"):
        (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(ConfigError, match="not safetensors"):
            find_base(str(copy))
    (copy / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match="not an index"):
        find_base(str(copy))


def test_a_missing_weight_is_no_random_one(copy):
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"1 weights are not in its files, such as model\.layers\.1\.mlp\.up_proj"):
        load_model(find_base(str(copy)), device=CPU)


def test_weights_of_another_shape(copy):
    change(copy / "config.json", intermediate_size=64)
    with pytest.raises(RefrainError) as raised:
        load_model(find_base(str(copy)), device=CPU)
    assert raised.value.exit_code in {65, 78}


def test_a_model_with_code_of_its_own(copy):
    marker = copy / "was_run"
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\nfrom transformers import PreTrainedConfig\n"
    (copy / "configuration_own.py").write_text(f"{code}class OwnConfig(PreTrainedConfig):\n    model_type = 'own'\n")
    (copy / "modeling_own.py").write_text(code)
    auto = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.Own"}
    change(copy / "config.json", model_type="own", auto_map=auto)
    with pytest.raises(ConfigError, match="code of its own"):
        load_model(find_base(str(copy)), device=CPU)
    assert not marker.exists()


@pytest.mark.parametrize("model_type", ["no-such-kind", "clip"])
def test_a_kind_that_is_no_language_model(copy, model_type):
    change(copy / "config.json", model_type=model_type)
    with pytest.raises(ConfigError, match="transformers cannot load it"):
        load_model(find_base(str(copy)), device=CPU)


def test_quantization_is_for_nvidia_gpus(base):
    with pytest.raises(ConfigError, match="NVIDIA"):
        load_model(base, device=CPU, quantization="4bit")
    with pytest.raises(ConfigError, match="no such quantization"):
        load_model(base, device=CPU, quantization="3bit")
    if find_spec("bitsandbytes") is None:
        with pytest.raises(ConfigError, match="bitsandbytes is not installed"):
            load_model(base, device=torch.device("cuda", 0), quantization="4bit")


def test_a_model_keeps_its_precision_where_that_is_asked(base, tmp_path):
    load_model(base, device=CPU).bfloat16().save_pretrained(tmp_path / "half")
    shutil.copy(base.folder / "tokenizer.json", tmp_path / "half")
    half = find_base(str(tmp_path / "half"))
    assert load_model(half, device=CPU, precision="stored").dtype == torch.bfloat16
    assert load_model(half, device=CPU, precision="bf16").dtype == torch.float32


def test_a_model_that_waits_on_the_cpu_is_in_its_device_s_precision(base, monkeypatch):
    monkeypatch.setattr("jobs.ml.devices._computes_in_bf16", lambda _: True)
    waiting = load_model(base, device=torch.device("cuda", 0), precision="bf16", at=CPU)
    assert (waiting.dtype, waiting.device) == (torch.bfloat16, CPU)


def test_weights_on_the_cpu_are_the_file_s_own_pages(base):
    """Eight processes of a pod have a base of 140 GB in memory once: what is mapped from a file is shared."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("no /proc/self/maps: not Linux")
    model = load_model(base, device=CPU, precision="stored")
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    mapped = [line[0].split("-") for line in lines if line[-1] == str(base.folder / "model.safetensors")]
    spans = [(int(first, 16), int(end, 16)) for first, end in mapped]
    for name, weight in model.named_parameters():
        assert any(first <= weight.data_ptr() < end for first, end in spans), name


@pytest.fixture
def model_url(new_store: Callable[[], str], base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The base model in a store of each kind, with a cache of one's own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "cache"))
    url = new_store()
    store = open_store(url)
    for path in base_folder.iterdir():
        store.upload(path.name, path)
    store.put("original/model.safetensors", b"not this one")
    return url


def cached(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_dir() and (path / COMPLETE).exists())


def test_a_model_in_a_store(model_url, base, tmp_path):
    found = find_base(model_url)
    assert (found.name, found.digest, found.tokenizer_digest) == (model_url, base.digest, base.tokenizer_digest)
    load_model(found, device=CPU)
    with pytest.raises(ConfigError, match="only a model of the hub"):
        find_base(model_url, "main")
    store = open_store(model_url)
    store.delete("model.safetensors")
    store.put("pytorch_model.bin", b"pickle")
    with pytest.raises(ConfigError, match="pickled"):
        find_base(model_url)
    store.delete("config.json")
    with pytest.raises(MissingInputError):
        find_base(model_url)


def test_a_store_s_model_that_changes_is_another(model_url, base, base_folder, tmp_path):
    find_base(model_url)
    other = tiny_base(tmp_path / "other", ["something else"], seed=1)
    assert (other / "model.safetensors").stat().st_size != (base_folder / "model.safetensors").stat().st_size
    for path in other.iterdir():
        open_store(model_url).upload(path.name, path)
    assert find_base(model_url).digest == find_base(str(other)).digest != base.digest


@pytest.mark.parametrize("new_store", ["moto"], indirect=True)
def test_a_model_with_digests_is_fetched_once_and_checked(model_url, base_folder, base, tmp_path):
    sealed = Path(shutil.copytree(base_folder, tmp_path / "sealed"))
    (sealed / "LICENSE").write_text("free")
    open_store(model_url).upload(COMPLETE, seal(sealed))
    find_base(model_url)
    (folder,) = cached(tmp_path)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert find_base(model_url).folder == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    cut(folder / "model.safetensors")
    assert find_base(model_url).digest == base.digest
    cut(sealed / "model.safetensors")
    open_store(model_url).upload("model.safetensors", sealed / "model.safetensors")
    shutil.rmtree(folder)
    with pytest.raises(IntegrityError, match=COMPLETE) as raised:
        find_base(model_url)
    assert raised.value.where == f"{model_url}/model.safetensors"
    assert cached(tmp_path) == []
    assert not list((tmp_path / "cache").rglob(".fetching-*"))


_FETCHING = """
import os, sys, time
from pathlib import Path
from jobs.ml import fetching
download, begun = fetching._download, Path(sys.argv[3])
def counted(store, key, path):
    while len(list(begun.iterdir())) < 3:
        time.sleep(0.02)
    time.sleep(0.2)  # of several files: time enough for all to look whether it is there
    with open(sys.argv[2], "a") as file:
        file.write(f"{key}\\n")
    download(store, key, path)
fetching._download = counted
(begun / str(os.getpid())).touch()
print(fetching.from_store(sys.argv[1]))
"""


def test_processes_that_want_the_same_fetch_it_once(new_folder, base_folder, tmp_path):
    """As those of a training on one node do, all at the same time."""
    url = new_folder()
    sealed = Path(shutil.copytree(base_folder, tmp_path / "sealed"))
    for path in [*base_folder.iterdir(), seal(sealed)]:
        open_store(url).upload(path.name, path)
    (tmp_path / "begun").mkdir()
    command = [sys.executable, "-c", _FETCHING, url, str(tmp_path / "fetched"), str(tmp_path / "begun")]
    environment = os.environ | {"HF_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    folders = {process.communicate(timeout=120)[0] for process in started}
    assert [process.returncode for process in started] == [0, 0, 0]
    assert folders == {f"{cached(tmp_path)[0]}\n"}
    fetched = (tmp_path / "fetched").read_text().split()
    assert sorted(fetched) == sorted(set(fetched)), "by each for itself"
    assert "model.safetensors" in fetched


def test_an_empty_store(new_folder, tmp_path):
    url = new_folder()
    open_store(url)
    with pytest.raises(MissingInputError):
        find_base(url)


def test_the_same_seed_makes_the_same_tiny_model(tmp_path):
    """What the other tests stand on."""
    digests = [
        find_base(str(tiny_base(tmp_path / str(n), ["a text"] * 3, seed=seed))).digest
        for n, seed in enumerate([0, 0, 1])
    ]
    assert digests[0] == digests[1] != digests[2]
