"""Many requests at a time, clients that hang up, answers that fail or take too long: what becomes of them."""

from __future__ import annotations

import math
import queue
import threading
import time

import openai
import pytest
from serving.running import Inside, in_process
from serving.world import ASKED, World

from jobs.ml.decoding import Sampling
from jobs.serving.engine import Piece
from jobs.serving.gate import Limits


def test_too_many_at_a_time_are_told_when_to_come_back(world: World) -> None:
    with in_process(world, served=world.served("a"), limits=Limits(max_active=1, max_waiting=1)) as door:
        streams = [_long_stream(door) for _ in range(2)]
        with pytest.raises(openai.RateLimitError) as refused:
            door.client().chat.completions.create(model="refrain", messages=ASKED)
        assert refused.value.response.headers["retry-after"] == "2"
        assert door.metric("refrain_requests_inside") == 2
        for stream in streams:
            stream.close()
        _until(lambda: door.metric("refrain_requests_inside") == 0)
        assert door.client().chat.completions.create(model="refrain", messages=ASKED, max_tokens=2)


def test_a_request_of_many_texts_takes_room_for_each(world: World) -> None:
    """No more grow at a time than --max-active, and one request holds up as many others as it has texts."""
    with in_process(world, served=world.served("a"), limits=Limits(max_active=2, max_waiting=2)) as door:

        def begun(number: int, max_tokens: int) -> openai.Stream:
            prompts = ["Reshape"] * number
            return door.client().completions.create(model="refrain", prompt=prompts, max_tokens=max_tokens, stream=True)

        with pytest.raises(openai.BadRequestError, match="4 texts at most") as never:
            begun(5, 2)
        assert never.value.param == "prompt"
        _until(lambda: door.service.gate.num_answers == 0)
        long = begun(3, 2048)
        next(iter(long))
        assert [door.metric(f"refrain_answers_{kind}") for kind in ("active", "waiting")] == [2, 1]
        with pytest.raises(openai.RateLimitError) as refused:
            begun(2, 2)
        assert refused.value.response.headers["retry-after"] == "2"
        _until(lambda: (door.service.gate.num_answers, door.metric("refrain_requests_inside")) == (3, 1))
        one = begun(1, 2)
        with pytest.raises(openai.RateLimitError):
            begun(1, 2)
        long.close()
        assert "".join(piece.choices[0].text for piece in one) == "aa"
        _until(lambda: door.service.gate.num_answers == 0)
        assert {piece.choices[0].index for piece in begun(4, 2)} == {0, 1, 2, 3}


def _counted(door: Inside, route: str = "chat/completions") -> dict[int, float]:
    """Requests by status."""
    line = 'refrain_http_requests_total{route="/v1/%s",status="%d"}'
    statuses = (200, 400, 429, 499, 500, 503, 504)
    found = {status: door.metric(line % (route, status)) for status in statuses}
    return {status: number for status, number in found.items() if number}


def test_who_hangs_up_is_not_answered_on(world: World) -> None:
    """Streamed or not, of one text or of several; and it counts as 499."""
    with in_process(world, served=world.served("a")) as door:
        stream = _long_stream(door)
        next(iter(stream))
        stream.close()
        impatient = door.client().with_options(timeout=0.4)
        with pytest.raises(openai.APITimeoutError):
            impatient.chat.completions.create(model="refrain", messages=ASKED, max_tokens=2048)
        with pytest.raises(openai.APITimeoutError):
            impatient.completions.create(model="refrain", prompt=["Reshape", "Cake"], max_tokens=2048)
        _until(lambda: door.metric('refrain_answers_total{reason="cancelled"}') == 4)
        _until(lambda: door.metric("refrain_requests_inside") == 0)
        assert door.metric("refrain_answers_active") == door.metric("refrain_answers_waiting") == 0
        assert 0 < door.metric('refrain_tokens_total{kind="completion"}') < 4000
        assert door.metric('refrain_answers_total{reason="length"}') == 0
        assert (_counted(door), _counted(door, "completions")) == ({499: 2}, {499: 1})


def test_a_stream_that_fails_is_counted(world: World) -> None:
    with in_process(world, served=world.served("a")) as door:
        stream = _long_stream(door)
        next(iter(stream))
        door.service.assistant.decoder._model.get_input_embeddings().weight.data.fill_(math.nan)
        with pytest.raises(openai.APIError, match="the model failed"):
            list(stream)
        assert door.metric('refrain_answers_total{reason="failed"}') == 1
        _until(lambda: _counted(door) == {500: 1})


def test_an_answer_that_has_ended_holds_nothing_of_the_model(door: Inside) -> None:
    """Keys and values go with the answer's end, and not with its request's."""
    assistant, heard = door.service.assistant, queue.SimpleQueue()
    answering = assistant.begin([5, 6, 7], assistant.version, Sampling(), max_new_tokens=20, tell=heard.put)
    assert isinstance(heard.get(timeout=30), Piece)
    assert answering.growing is not None
    _until(lambda: door.metric("refrain_answers_active") == 0)
    assert (len(answering.tokens), answering.growing) == (20, None)


def test_a_model_that_only_fails_wants_a_restart(world: World) -> None:
    """Its weights are no numbers any more. One answer that goes well, and the count begins anew."""
    with in_process(world, served=world.served("a")) as door:
        weights = door.service.assistant.decoder._model.get_input_embeddings().weight
        kept = weights.data.clone()

        def ask() -> int:
            return door.request("POST", "/v1/chat/completions", {"messages": ASKED, "max_tokens": 2})[0]

        weights.data.fill_(math.nan)
        assert [ask() for _ in range(4)] == [500] * 4
        weights.data.copy_(kept)
        assert ask() == 200
        weights.data.fill_(math.nan)
        assert [ask() for _ in range(4)] == [500] * 4
        assert door.request("GET", "/livez")[0] == 200
        assert door.request("GET", "/readyz")[0] == 200
        assert ask() == 500
        assert door.request("GET", "/livez") == (503, {"status": "stuck"})
        assert door.request("GET", "/readyz") == (503, {"status": "stuck"})
        assert door.metric("refrain_ready") == 0


def test_no_request_takes_for_ever(world: World) -> None:
    with in_process(world, served=world.served("a"), limits=Limits(request_seconds=0.5)) as door:
        with pytest.raises(openai.InternalServerError) as refused:
            door.client().chat.completions.create(model="refrain", messages=ASKED, max_tokens=2048)
        assert (refused.value.status_code, refused.value.code) == (504, "timeout")
        with pytest.raises(openai.APIError, match="too long"):
            list(_long_stream(door))
        _until(lambda: _counted(door) == {504: 2})


def _long_stream(door: Inside) -> openai.Stream:
    return door.client().chat.completions.create(model="refrain", messages=ASKED, max_tokens=2048, stream=True)


def _until(holds, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_twenty_streams_go_on_together(door: Inside) -> None:
    """None waits for another's end: all have begun before the first has ended."""
    began, ended = [], []

    def read() -> None:
        for number, _ in enumerate(
            door.client().chat.completions.create(model="refrain", messages=ASKED, max_tokens=60, stream=True)
        ):
            if number == 1:
                began.append(time.monotonic())
        ended.append(time.monotonic())

    threads = [threading.Thread(target=read) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(began), len(ended)) == (20, 20)
    assert max(began) < min(ended)
