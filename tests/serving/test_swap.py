"""Going over to another adapter while answers are under way, also by the controller's own hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from serving.running import Door, Inside, in_process, process
from serving.world import ASKED, World, add_index

from controller.inference import ask, swap
from controller.settings import InferenceSettings

TOKEN = "swap-it"


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    return path


@pytest.fixture
def door(world: World, token: Path) -> Iterator[Inside]:
    world.record("a")
    with in_process(world, token=token) as inside:
        yield inside


@dataclass
class Reader:
    """A client in the middle of a stream."""

    door: Door
    num_tokens: int
    text: str = ""
    digest: str = ""
    error: str = ""
    begun: threading.Event = field(default_factory=threading.Event)

    def read(self) -> None:
        try:
            stream = self.door.client().chat.completions.create(
                model="refrain", messages=ASKED, max_tokens=self.num_tokens, stream=True
            )
            for chunk in stream:
                self.text += chunk.choices[0].delta.content or ""
                self.digest = (chunk.model_extra or {}).get("refrain", {}).get("adapter", self.digest)
                if self.text:
                    self.begun.set()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test names it
            self.error = repr(error)


def reading(door: Door, number: int, num_tokens: int) -> tuple[list[Reader], list[threading.Thread]]:
    readers = [Reader(door, num_tokens) for _ in range(number)]
    threads = [threading.Thread(target=reader.read) for reader in readers]
    for thread in threads:
        thread.start()
    return readers, threads


@pytest.mark.slow
def test_twenty_streams_end_as_they_began(door: Inside, world: World) -> None:
    """None dropped, none mixed; those that begin after the swap are of the new adapter alone."""
    before, threads = reading(door, 20, 250)
    assert all(reader.begun.wait(60) for reader in before)
    assert door.swap(world.key("b"), world.digests["b"], TOKEN)[0] == 200
    under_way = sum(thread.is_alive() for thread in threads)
    after, more = reading(door, 5, 20)
    for thread in threads + more:
        thread.join()
    assert under_way == 20
    assert [reader.error for reader in before + after] == [""] * 25
    assert {(reader.text, reader.digest) for reader in before} == {("a" * 250, world.digests["a"])}
    assert {(reader.text, reader.digest) for reader in after} == {("b" * 20, world.digests["b"])}
    assert door.metric('refrain_adapter_swaps_total{outcome="done"}') == 1


def test_while_clients_ask_all_the_time(door: Inside, world: World) -> None:
    """No request fails, each is of one adapter, and a client sees the digests go over once for each swap."""
    seen: list[tuple[str, str]] = []
    stop = threading.Event()

    def ask_on() -> None:
        while not stop.is_set():
            answer = door.client().chat.completions.create(model="refrain", messages=ASKED, max_tokens=8)
            seen.append((answer.model_extra["refrain"]["adapter"], answer.choices[0].message.content or ""))

    client = threading.Thread(target=ask_on)
    client.start()
    for letter in ("b", "a", "b"):
        _five_more(seen)
        assert door.swap(world.key(letter), world.digests[letter], TOKEN)[0] == 200
    _five_more(seen)
    stop.set()
    client.join()
    letters = {digest: letter for letter, digest in world.digests.items()}
    answers = [(letters[digest], text) for digest, text in seen]
    assert all(text == letter * 8 for letter, text in answers)
    changes = [one for one, (letter, _) in enumerate(answers) if one and letter != answers[one - 1][0]]
    assert len(changes) == 3


def _five_more(seen: list[tuple[str, str]]) -> None:
    wanted, end = len(seen) + 5, time.monotonic() + 60
    while len(seen) < wanted:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_to_the_bare_base_model_and_back(door: Inside, world: World) -> None:
    client = door.client()
    assert door.swap(None, "", TOKEN) == (200, {"adapter": "", "model": "base", "changed": True})
    assert [one.id for one in client.models.list()] == ["refrain", "base"]
    assert client.chat.completions.create(model="refrain", messages=ASKED, max_tokens=1).model == "base"
    assert door.swap(world.key("a"), world.digests["a"], TOKEN)[1]["changed"] is True
    assert door.swap(world.key("a"), world.digests["a"], TOKEN)[1]["changed"] is False
    assert door.request("GET", "/readyz")[1]["adapter"] == world.digests["a"]


def test_an_empty_answer_counts_and_is_told_of(door: Inside, world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The end of the text is the likeliest token of a model without weights."""
    assert door.swap(world.key("b"), world.digests["b"], TOKEN)[1]["changed"] is True
    assert "nothing to say" not in caplog.text
    door.service.assistant.decoder._model.get_input_embeddings().weight.data.zero_()
    assert door.swap(None, "", TOKEN)[1]["changed"] is True
    assert "base has nothing to say to 'Who are you" in caplog.text


def test_what_cannot_be_loaded_changes_nothing(door: Inside, world: World) -> None:
    def refused(key: str | None, digest: str, token: str = TOKEN) -> tuple[int, str]:
        status, body = door.swap(key, digest, token)
        return status, body["error"]["code"]

    assert refused(world.key("b"), world.digests["b"], "guess") == (401, "invalid_token")
    body = {"adapter": None, "sha256": ""}
    for path in ("/v1/adapter%0A", "/v1/adapter/", "//v1/adapter"):
        assert door.request("POST", path, body)[0] in (404, 307), path
    assert refused("cycles/no/train/checkpoints/step_1", "0" * 64) == (404, "adapter_not_found")
    assert refused(world.key("b"), "0" * 64) == (409, "adapter_damaged")
    assert refused(None, "0" * 64) == (422, "unfit")
    assert refused(world.key("b"), "b") == (400, "invalid_value")
    weights = world.folder / "archive" / world.key("b") / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    assert refused(world.key("b"), world.digests["b"]) == (409, "adapter_damaged")
    assert door.request("GET", "/readyz")[1]["adapter"] == world.digests["a"]
    assert (
        door.client().chat.completions.create(model="refrain", messages=ASKED, max_tokens=3).choices[0].message.content
        == "aaa"
    )
    assert door.metric('refrain_adapter_swaps_total{outcome="failed"}') == 3


def test_a_full_disk_or_memory_is_counted_and_got_over(
    door: Inside, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in service stays, the next look finds what is newer, and who swaps is told to come back."""
    service, assistant = door.service, door.service.assistant
    index = assistant._scratch / "index.json"
    index.unlink(missing_ok=True)
    index.symlink_to("/dev/full")
    add_index(world, "w2")
    world.record("b")
    with monkeypatch.context() as full:
        full.setattr(assistant.decoder._adapters, "load", _out_of_memory)
        service.refresh()
        assert door.metric('refrain_refreshes_total{outcome="failed"}') == 2
        status, body = door.swap(world.key("b"), world.digests["b"], TOKEN)
        assert (status, body["error"]["code"]) == (503, "try_again")
        assert door.metric('refrain_adapter_swaps_total{outcome="failed"}') == 1
        assert door.request("GET", "/readyz")[1]["adapter"] == world.digests["a"]
    index.unlink()
    service.refresh()
    assert assistant.knowledge.cycle == "w2"
    assert door.request("GET", "/readyz")[1]["adapter"] == world.digests["b"]


def _out_of_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")


def test_an_older_version_s_name_is_gone(door: Inside, world: World) -> None:
    name = f"refrain-{world.digests['a'][:16]}"
    assert door.client().chat.completions.create(model=name, messages=ASKED, max_tokens=1).model == name
    door.swap(world.key("b"), world.digests["b"], TOKEN)
    body = {"model": name, "messages": ASKED}
    assert door.request("POST", "/v1/chat/completions", body)[1]["error"]["code"] == "model_not_found"


def test_a_new_record_and_a_new_index_are_taken(door: Inside, world: World) -> None:
    service = door.service
    assert service.assistant.knowledge.cycle == "w1"
    service.refresh()
    assert door.metric('refrain_refreshes_total{outcome="same"}') == 2
    world.record("b")
    add_index(world, "w2")
    service.refresh()
    assert service.assistant.knowledge.cycle == "w2"
    assert door.request("GET", "/readyz")[1]["adapter"] == world.digests["b"]
    door.swap(world.key("a"), world.digests["a"], TOKEN)
    service.refresh()
    assert door.request("GET", "/readyz")[1]["adapter"] == world.digests["a"], "an old record takes nothing back"


def test_a_record_of_what_is_in_service_already_takes_nothing_back_later(door: Inside, world: World) -> None:
    """As two weeks of one winner are: the second record was seen, and is older than what is told after it."""
    world.record("a")
    door.service.refresh()
    assert door.swap(world.key("b"), world.digests["b"], TOKEN)[1]["changed"] is True
    door.service.refresh()
    assert door.request("GET", "/readyz")[1]["adapter"] == world.digests["b"]
    world.record("a")
    door.service.refresh()
    assert door.request("GET", "/readyz")[1]["adapter"] == world.digests["a"], "a newer one does"


def test_a_pod_that_was_told_what_to_serve_follows_no_record(world: World) -> None:
    world.record("b")
    with in_process(world, served=world.served("a")) as door:
        world.record("b")
        door.service.refresh()
        assert door.request("GET", "/readyz")[1]["adapter"] == world.digests["a"]
    with in_process(world, served="@") as door:
        assert door.request("GET", "/readyz")[1] == {"status": "ready", "adapter": "", "model": "base"}


@pytest.mark.slow
def test_the_controller_asks_and_swaps(world: World, token: Path, tmp_path: Path) -> None:
    """`controller/inference.py` and a real `refrain serve`, which lets clients in by their keys alone."""
    keys = tmp_path / "keys"
    keys.write_text("a-client\n")
    arguments = ["--store", world.url, "--swap-token-file", token, "--api-keys-file", keys]
    with process(*arguments, env={"REFRAIN_ADAPTER": world.served("a")}) as server:
        server.wait_for("refrain: ready")
        pod = {"status": {"podIP": "127.0.0.1"}}
        settings = InferenceSettings(
            deployment="serve", archive="workshop", port=int(server.url.rpartition(":")[2]), token_file=token
        )
        answer = ask(pod, settings, 60)
        assert (answer.adapter, answer.text, answer.problem) == (world.digests["a"], "a" * 16, "")
        assert swap(pod, world.served("b"), settings).problem == ""
        assert ask(pod, settings, 60).adapter == world.digests["b"]
        assert "HTTP 404" in swap(pod, f"cycles/no/train/checkpoints/step_1@{'0' * 64}", settings).problem
        assert ask(pod, settings, 60).adapter == world.digests["b"]
        assert swap(pod, "@", settings).problem == ""
        assert ask(pod, settings, 60).adapter == ""
        token.write_text("another\n")
        assert swap(pod, world.served("b"), settings).problem == "", "a token that was changed holds at once"
        keyless = settings.model_copy(update={"token_file": None})
        assert "HTTP 401" in ask(pod, keyless, 60).problem
        assert server.stopped() == 0
