"""`refrain serve --vllm` before a server that speaks as vLLM does: the same answers as of a model loaded here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from click.testing import CliRunner

from jobs.contracts.errors import ConfigError, TransientError

pytest.importorskip("torch")

from serving.running import in_process
from serving.vllm_server import MAX_MODEL_LEN, vllm
from serving.world import QUESTION

from jobs.cli.vllm import command
from jobs.ml.base_model import find_base
from jobs.ml.decoding import Sampling
from jobs.serving.vllm import VllmDecoder, versioned_name

if TYPE_CHECKING:
    from serving.running import Inside
    from serving.world import World


def brought(world: World, output: Path, served: str = "") -> Path:
    """The configuration that `refrain vllm` writes."""
    arguments = ["--store", world.url, "-o", str(output), *(["--served", served] if served else [])]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return output / "vllm.yaml"


def answer(door: Inside) -> str:
    done = door.client().chat.completions.create(
        model="refrain", messages=[{"role": "user", "content": QUESTION}], max_tokens=12, temperature=0
    )
    assert done.refrain["adapter"] == door.service.assistant.version.digest  # type: ignore[attr-defined]
    return str(done.choices[0].message.content)


@pytest.mark.parametrize("letter", ["a", "b", ""])
def test_it_answers_as_a_model_that_is_loaded_here(world: World, tmp_path: Path, letter: str) -> None:
    served = world.served(letter) if letter else "@"
    with in_process(world, served=served, precision="fp32") as door:
        expected = answer(door)
    with (
        vllm(brought(world, tmp_path / "vllm", served)) as server,
        in_process(world, served=served, vllm=server.url) as door,
    ):
        assert answer(door) == expected
        assert {one["model"] for one in server.asked} == {
            versioned_name(world.digests[letter]) if letter else "base",
        }
    assert not letter or letter in expected


def test_what_is_in_service_is_brought(world: World, tmp_path: Path) -> None:
    world.record("a")
    said = yaml.safe_load(brought(world, tmp_path / "one").read_text())
    name = versioned_name(world.digests["a"])
    assert said["lora-modules"] == [f"{name}={(tmp_path / 'one' / name).resolve()}"] or name in said["lora-modules"][0]
    assert (said["enable-lora"], said["max-lora-rank"], said["served-model-name"]) == (True, 8, "base")
    world.record(None)
    assert "enable-lora" not in yaml.safe_load(brought(world, tmp_path / "two").read_text())


def test_another_adapter_is_not_taken_while_it_runs(world: World, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("let-me\n")
    served = world.served("a")
    config = brought(world, tmp_path / "vllm", served)
    with vllm(config) as server, in_process(world, served=served, vllm=server.url, token=token) as door:
        status, said = door.swap(world.key("b"), world.digests["b"], "let-me")
        assert status >= 400, said
        assert "a" in answer(door)


def test_a_vllm_with_another_adapter_is_refused(made: World, world: World, tmp_path: Path) -> None:
    with vllm(brought(world, tmp_path / "vllm", world.served("b"))) as server:
        decoder = VllmDecoder(find_base(str(world.base)), server.url)
        refusal = f"vLLM serves .*, not {versioned_name(world.digests['a'])}"
        with pytest.raises(ConfigError, match=refusal):
            decoder.load(made.folder / "a" / "step_1")


def test_one_that_does_not_answer(world: World) -> None:
    with pytest.raises(TransientError, match="vLLM does not answer"):
        VllmDecoder(find_base(str(world.base)), "http://127.0.0.1:1", seconds=0)


def test_one_that_breaks_off_fails_that_answer(world: World, tmp_path: Path) -> None:
    with vllm(brought(world, tmp_path / "vllm", world.served("a"))) as server:
        decoder = VllmDecoder(find_base(str(world.base)), server.url)
        assert decoder.num_positions == MAX_MODEL_LEN
        name = versioned_name(world.digests["a"])
        prompt = decoder.encoder.plain("who broke")
        server.breaks_after = 2
        with pytest.raises(TransientError, match=r"broke|IncompleteRead|ProtocolError"):
            _grown(decoder, decoder.begin(prompt, name, Sampling()))
        with pytest.raises(TransientError, match="HTTP 404"):
            _grown(decoder, decoder.begin(prompt, "refrain-other", Sampling()))


def _grown(decoder: VllmDecoder, growing: object, num_steps: int = 10_000) -> None:
    for _ in range(num_steps):
        decoder.step(growing)


def test_an_answer_that_nobody_waits_for_ends_there_too(world: World, tmp_path: Path) -> None:
    from cluster.api import wait_for

    with vllm(brought(world, tmp_path / "vllm", world.served("a"))) as server:
        decoder = VllmDecoder(find_base(str(world.base)), server.url)
        growing = decoder.begin(decoder.encoder.plain("who"), versioned_name(world.digests["a"]), Sampling())
        while decoder.step(growing) is None:
            pass
        del growing
        wait_for(lambda: server.num_left == 1, what="vLLM hears that its client is gone")
