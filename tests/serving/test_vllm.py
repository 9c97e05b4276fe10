"""`refrain serve --vllm` before a server that speaks as vLLM does: the same answers as of a model loaded here."""

from __future__ import annotations

import queue
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from click.testing import CliRunner
from cluster.api import wait_for
from helm import case, the

from jobs.contracts.errors import ConfigError, TransientError

pytest.importorskip("torch")

from serving.running import SECONDS, process
from serving.vllm_server import MAX_MODEL_LEN, vllm
from serving.world import QUESTION, make_world

from jobs.cli.vllm import command
from jobs.ml.base_model import find_base
from jobs.ml.decoding import Sampling
from jobs.serving.assistant import Assistant
from jobs.serving.engine import Ended, Event, Piece
from jobs.serving.prompting import Asked
from jobs.serving.vllm import VllmDecoder
from jobs.serving.wanted import InStore, Wanted, versioned_name

if TYPE_CHECKING:
    from serving.world import World


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(trained: World, tmp_path: Path) -> World:
    """Nothing is in service in it yet."""
    shutil.copytree(trained.folder / "archive", tmp_path / "archive")
    return replace(trained, folder=tmp_path)


@contextmanager
def opened(world: World, **wanted: str) -> Iterator[Assistant]:
    """What answers, with all that there is."""
    with Assistant(Wanted(store_url=world.url, device="cpu", precision="fp32", **wanted)) as assistant:
        assistant.open_knowledge()
        assistant.open_model()
        yield assistant


def answer(assistant: Assistant) -> str:
    prompt = assistant.prompt(Asked(QUESTION, max_new_tokens=12))
    assert prompt.sources
    events = assistant.events(prompt.ids, assistant.version, max_new_tokens=12)
    return "".join(event.text for event in events if isinstance(event, Piece))


def brought(world: World, output: Path, served: str = "") -> Path:
    """The configuration that `refrain vllm` writes."""
    arguments = ["--store", world.url, "-o", str(output), *(["--served", served] if served else [])]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return output / "vllm.yaml"


@pytest.mark.parametrize("letter", ["a", "b", ""])
def test_it_answers_as_a_model_that_is_loaded_here(world: World, tmp_path: Path, letter: str) -> None:
    served = world.served(letter) if letter else "@"
    with opened(world, served=served) as assistant:
        expected, version = answer(assistant), assistant.version
    config = brought(world, tmp_path / "vllm", served)
    with vllm(config) as server, opened(world, served=served, vllm=server.url) as assistant:
        assert answer(assistant) == expected
        assert (assistant.version.name, assistant.version.digest) == (version.name, version.digest)
    assert {one["model"] for one in server.asked} == {versioned_name(world.digests[letter]) if letter else "base"}
    assert letter in expected


def test_what_is_in_service_is_brought(world: World, tmp_path: Path) -> None:
    world.record("a")
    said = yaml.safe_load(brought(world, tmp_path / "one").read_text())
    name = versioned_name(world.digests["a"])
    (module,) = said["lora-modules"]
    assert module.partition("=")[0] == name
    assert (Path(module.partition("=")[2]) / "adapter_config.json").is_file()
    assert (said["enable-lora"], said["max-lora-rank"], said["served-model-name"]) == (True, 8, "base")
    assert yaml.safe_load(brought(world, tmp_path / "one").read_text()) == said  # an init container may run again
    world.record(None)
    assert "enable-lora" not in yaml.safe_load(brought(world, tmp_path / "two").read_text())


def test_it_speaks_of_what_was_brought_though_the_record_is_newer(world: World, tmp_path: Path) -> None:
    """As where a promotion is written down between the init container and the server's start, or a restart."""
    world.record("a")
    config = brought(world, tmp_path / "vllm")
    world.record("b")
    file = config.with_name("served")
    assert file.read_text() == world.served("a") + "\n"
    arguments = ("--store", world.url, "--device", "cpu", "--refresh-seconds", 0.1)
    with vllm(config) as vllm_server:
        with process(*arguments, "--vllm", f"{vllm_server.url}/v1", "--served-file", file) as server:
            server.wait_for("refrain: ready")
            wait_for(lambda: server.metric('refrain_refreshes_total{outcome="same"}') > 4, what="looks at the record")
            assert server.request("GET", "/readyz")[1]["adapter"] == world.digests["a"]
            assert server.metric('refrain_refreshes_total{outcome="failed"}') == 0
        with process(*arguments, "--vllm", vllm_server.url) as server:
            assert server.process.wait(SECONDS) == ConfigError.exit_code
            assert "vLLM serves" in "".join(server.told)


def test_bare_is_brought_as_such(world: World, tmp_path: Path) -> None:
    assert brought(world, tmp_path / "vllm").with_name("served").read_text() == "@\n"


@pytest.mark.parametrize(
    ("text", "more", "code", "told"),
    [
        ("", (), 65, "no KEY@DIGEST"),
        ("\xff@", (), 65, "no KEY@DIGEST"),
        (None, (), 66, "no such file"),
        ("@\n", ("--served", "@"), 2, "leave one out"),
    ],
)
def test_a_served_file_that_says_nothing(
    world: World, tmp_path: Path, text: str | None, more: tuple[str, ...], code: int, told: str
) -> None:
    file = tmp_path / "served"
    if text is not None:
        file.write_text(text, encoding="latin-1")
    command = [str(Path(sys.executable).with_name("refrain")), "serve", "--port=0", f"--store={world.url}"]
    done = subprocess.run(
        [*command, f"--served-file={file}", *more], check=False, capture_output=True, text=True, timeout=SECONDS
    )
    assert (done.returncode, told in done.stderr) == (code, True), done.stderr


def test_another_adapter_is_not_taken_while_it_runs(world: World, tmp_path: Path) -> None:
    served = world.served("a")
    config = brought(world, tmp_path / "vllm", served)
    with vllm(config) as server, opened(world, served=served, vllm=server.url) as assistant:
        with pytest.raises(ConfigError, match=f"vLLM serves .*, not {versioned_name(world.digests['b'])}"):
            assistant.swap(InStore(world.key("b"), world.digests["b"]), QUESTION)
        assert assistant.version.digest == world.digests["a"]
        assert "a" in answer(assistant)


def test_one_that_does_not_answer(world: World) -> None:
    with pytest.raises(TransientError, match="vLLM does not answer"):
        VllmDecoder(find_base(str(world.base)), "http://127.0.0.1:1", seconds=0)


def test_what_is_no_vllm_is_told_at_once(world: World, tmp_path: Path) -> None:
    with (
        vllm(brought(world, tmp_path / "vllm")) as server,
        pytest.raises(ConfigError, match="GET /v1/models lists no models: HTTP 404"),
    ):
        VllmDecoder(find_base(str(world.base)), f"{server.url}/elsewhere")


def test_one_that_gives_no_tokens_has_not_answered(world: World, tmp_path: Path) -> None:
    """Its answers would all be empty, and those of the right adapter."""
    with vllm(brought(world, tmp_path / "vllm", world.served("a"))) as server:
        server.gives_tokens = False
        with (
            opened(world, served=world.served("a"), vllm=server.url) as assistant,
            pytest.raises(ConfigError, match="texts without their tokens"),
        ):
            assistant.probe(QUESTION)


def test_one_that_says_what_it_should_not_fails_that_answer(world: World, tmp_path: Path) -> None:
    with vllm(brought(world, tmp_path / "vllm", world.served("a"))) as server:
        server.odd_choice = "no object"
        with (
            opened(world, served=world.served("a"), vllm=server.url) as assistant,
            pytest.raises(TransientError, match="AttributeError"),
        ):
            assistant.probe(QUESTION)


def test_the_chart_s_probe_of_it(world: World, tmp_path: Path) -> None:
    """The command in the pod, against a server that is well, one that is not, and none."""
    containers = the(case("vllm"), "Deployment", "refrain-inference")["spec"]["template"]["spec"]["containers"]
    (container,) = (one for one in containers if one["name"] == "vllm")
    commands = [container[f"{kind}Probe"]["exec"]["command"] for kind in ("startup", "liveness", "readiness")]
    assert commands == [commands[0]] * 3
    with vllm(brought(world, tmp_path / "vllm")) as server:

        def exit_code() -> int:
            here = [part.replace("8001", server.url.rpartition(":")[2]) for part in commands[0]]
            return subprocess.run(here, check=False, capture_output=True).returncode

        assert exit_code() == 0
        server.is_well = False
        assert exit_code() == 1
    assert exit_code() == 1


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


def _grown(decoder: VllmDecoder, growing: object) -> None:
    """Until it raises."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        decoder.step(growing)
        time.sleep(0.001)


def test_who_waits_for_vllm_holds_up_no_other(world: World, tmp_path: Path) -> None:
    """One answer of 64 tokens beside 31 that have none yet: a wait of 20 ms for each would make it 40 s."""
    heard: queue.SimpleQueue[Event] = queue.SimpleQueue()
    with (
        vllm(brought(world, tmp_path / "vllm", world.served("a"))) as server,
        opened(world, served=world.served("a"), vllm=server.url) as assistant,
    ):
        server.stalls_seed = 7
        ids = assistant.decoder.encoder.plain("who broke")

        def begin(sampling: Sampling) -> None:
            assistant.begin(ids, assistant.version, sampling, max_new_tokens=64, tell=heard.put)

        for _ in range(31):
            begin(Sampling(seed=7))
        wait_for(lambda: len(server.asked) == 31, what="they have all begun")
        began = time.monotonic()
        begin(Sampling())
        while not isinstance(event := heard.get(timeout=60), Ended):
            pass
        assert event == Ended("length", 64)
        assert time.monotonic() - began < 20
        server.goes_on.set()


def test_an_answer_that_nobody_waits_for_ends_there_too(world: World, tmp_path: Path) -> None:
    with vllm(brought(world, tmp_path / "vllm", world.served("a"))) as server:
        decoder = VllmDecoder(find_base(str(world.base)), server.url)
        growing = decoder.begin(decoder.encoder.plain("who"), versioned_name(world.digests["a"]), Sampling())
        while decoder.step(growing) is None:
            time.sleep(0.001)
        del growing
        wait_for(lambda: server.num_left == 1, what="vLLM hears that its client is gone")
