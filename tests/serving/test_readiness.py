"""Ready means: asked a question, it has answered, with this very adapter. And what it begins with."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving.running import Inside, in_process, listening
from serving.world import ASKED, World, with_mute

from jobs.contracts.errors import IntegrityError
from jobs.ml.decoding import Decoder, Growing
from jobs.serving.assistant import Assistant
from jobs.serving.gate import Keys, Limits
from jobs.serving.service import Service
from jobs.serving.wanted import Wanted

TOKEN = "swap-it"
FAILED = 'refrain_adapter_swaps_total{outcome="failed"}'


def answer(door: Inside) -> tuple[str, str]:
    """Its text, and the digest that it has."""
    said = door.client().chat.completions.create(model="refrain", messages=ASKED, max_tokens=3)
    return str(said.choices[0].message.content), said.model_extra["refrain"]["adapter"]


def ready(door: Inside) -> tuple[int, str]:
    status, body = door.request("GET", "/readyz")
    return status, body.get("adapter")


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    return path


def test_an_adapter_that_loads_and_does_not_answer_is_refused(world: World, token: Path) -> None:
    """By who swaps, and by who follows the record: what is in service stays."""
    world = with_mute(world)
    world.record("a")
    with in_process(world, token=token) as door:
        status, body = door.swap(world.key("m"), world.digests["m"], TOKEN)
        assert (status, body["error"]["code"]) == (409, "adapter_damaged")
        assert "the model computes no numbers" in body["error"]["message"]
        assert door.metric(FAILED) == 1
        world.record("m")
        door.service.refresh()
        assert door.metric('refrain_refreshes_total{outcome="failed"}') == 1
        assert ready(door) == (200, world.digests["a"])
        assert answer(door) == ("aaa", world.digests["a"])


def test_whatever_goes_wrong_in_its_answer(world: World, token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is full then is told as such; with room again it is taken."""
    world.record("a")
    with in_process(world, token=token) as door:
        service = door.service.assistant.version.adapter
        step = Decoder.step

        def full(decoder: Decoder, growing: Growing) -> int | None:
            if growing.adapter is not service:
                raise MemoryError("no room")
            return step(decoder, growing)

        with monkeypatch.context() as patch:
            patch.setattr(Decoder, "step", full)
            status, body = door.swap(world.key("b"), world.digests["b"], TOKEN)
            assert (status, body["error"]["code"]) == (503, "try_again")
            assert (door.metric(FAILED), ready(door)) == (1, (200, world.digests["a"]))
            assert answer(door) == ("aaa", world.digests["a"])
        assert door.swap(world.key("b"), world.digests["b"], TOKEN)[0] == 200
        assert answer(door) == ("bbb", world.digests["b"])


def test_it_does_not_open_before_it_has_answered(world: World) -> None:
    world = with_mute(world)
    world.record("m")
    with Assistant(Wanted(store_url=world.url, device="cpu")) as assistant:
        service = Service(assistant, Limits(), Keys(None, None))
        with listening(service) as door:
            with pytest.raises(IntegrityError, match="the model computes no numbers"):
                service.open()
            assert assistant.version.digest == world.digests["m"]
            assert door.request("GET", "/readyz") == (503, {"status": "loading"})
            assert door.request("POST", "/v1/chat/completions", {"messages": ASKED})[0] == 503


def test_with_nothing_on_record_the_bare_base_model_answers_until_there_is(world: World) -> None:
    with in_process(world) as door:
        assert door.request("GET", "/readyz")[1] == {"status": "ready", "adapter": "", "model": "base"}
        assert answer(door)[1] == ""
        door.service.refresh()
        assert (ready(door), answer(door)[1]) == ((200, ""), "")
        world.record("b")
        door.service.refresh()
        assert ready(door) == (200, world.digests["b"])
        assert answer(door) == ("bbb", world.digests["b"])
        assert door.client().models.list().data[1].id == f"refrain-{world.digests['b'][:16]}"
