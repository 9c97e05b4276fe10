"""The API as OpenAI's own client calls it."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest
from serving.running import Inside, in_process
from serving.world import ASKED, QUESTION, World

from jobs.serving import engine


def test_a_whole_answer(door: Inside, made: World) -> None:
    answer = door.client().chat.completions.create(model="refrain", messages=ASKED, max_tokens=5)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "aaaaa", "length")
    assert answer.model == f"refrain-{made.digests['a'][:16]}"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5
    said = answer.model_extra["refrain"]
    assert said["adapter"] == made.digests["a"]
    assert said["sources"][0]["message_id"] == "who@x"
    assert said["sources"][0]["text"] == "Bob broke the reshape code."


def test_a_stream(door: Inside, made: World) -> None:
    stream = door.client().chat.completions.create(
        model="refrain", messages=ASKED, max_tokens=5, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [choice.delta.content or "" for chunk in chunks for choice in chunk.choices] == ["", *"aaaaa", ""]
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5
    for chunk in chunks[-2:]:
        assert chunk.model_extra["refrain"]["adapter"] == made.digests["a"]
        assert chunk.model_extra["refrain"]["sources"][0]["message_id"] == "who@x"
    assert "refrain" not in chunks[0].model_extra


def test_a_stream_without_counts_ends_with_its_sources(door: Inside) -> None:
    *_, last = door.client().chat.completions.create(model="refrain", messages=ASKED, max_tokens=2, stream=True)
    assert last.choices[0].finish_reason == "length"
    assert last.model_extra["refrain"]["sources"]


def test_models(door: Inside, made: World) -> None:
    client, name = door.client(), f"refrain-{made.digests['a'][:16]}"
    assert [model.id for model in client.models.list()] == ["refrain", name, "base"]
    assert client.models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("refrain-0000")
    assert refused.value.code == "model_not_found"


def test_the_bare_base_model_answers_under_its_own_name(door: Inside) -> None:
    answer = door.client().chat.completions.create(model="base", messages=ASKED, max_tokens=5)
    assert answer.model_extra["refrain"]["adapter"] == ""
    assert answer.choices[0].message.content != "aaaaa"


def test_what_is_drawn_on_can_be_chosen(door: Inside) -> None:
    def drawn_on(**extras: object) -> list[str]:
        answer = door.client().chat.completions.create(
            model="refrain", messages=ASKED, max_tokens=1, extra_body={"refrain": extras}
        )
        return [one["message_id"] for one in answer.model_extra["refrain"]["sources"]]

    assert set(drawn_on(before="2024-01-03")) == {"who@x", "cake@x"}
    assert drawn_on(top_k=1, search="bm25") == ["who@x"]
    assert drawn_on(top_k=0) == []
    with pytest.raises(openai.BadRequestError, match=r"refrain\.before"):
        drawn_on(before="yesterday")


def test_stop_and_completions(door: Inside, made: World) -> None:
    client = door.client()
    chat = client.chat.completions.create(model="refrain", messages=ASKED, max_tokens=9, stop=["aaa"])
    assert (chat.choices[0].message.content, chat.choices[0].finish_reason) == ("", "stop")
    text = client.completions.create(model="refrain", prompt=["Reshape", "Cake"], max_tokens=4)
    assert [(one.index, one.text, one.finish_reason) for one in text.choices] == [
        (0, "aaaa", "length"),
        (1, "aaaa", "length"),
    ]
    assert text.model_extra["refrain"] == {"adapter": made.digests["a"], "sources": []}
    assert text.usage is not None
    assert text.usage.completion_tokens == 8
    pieces = list(client.completions.create(model="refrain", prompt="Reshape", max_tokens=4, stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == "aaaa"
    assert pieces[-1].model_extra["refrain"]["adapter"] == made.digests["a"]


def test_a_stream_of_a_completion_with_its_counts(door: Inside, made: World) -> None:
    """As many as the same completion has that is no stream; whoever does not want them has none."""
    how = {"model": "refrain", "prompt": ["Reshape", "Cake"], "max_tokens": 4}
    *pieces, last = door.client().completions.create(**how, stream=True, stream_options={"include_usage": True})
    assert (last.object, last.choices, {piece.usage for piece in pieces}) == ("text_completion", [], {None})
    assert last.usage == door.client().completions.create(**how).usage
    assert last.usage is not None
    assert last.usage.completion_tokens == 8
    assert last.model_extra["refrain"] == {"adapter": made.digests["a"], "sources": []}
    assert all(piece.usage is None for piece in door.client().completions.create(**how, stream=True))


def test_a_long_prompt_is_tokenised_beside_the_streams(door: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop's thread, in which all streams are written, does not do it."""
    encoder, threads = door.service.assistant.decoder.encoder, []
    plain = encoder.plain

    def watched(text: str) -> list[int]:
        threads.append(threading.current_thread().name)
        return plain(text)

    monkeypatch.setattr(encoder, "plain", watched)
    with pytest.raises(openai.BadRequestError) as refused:
        door.client().completions.create(model="refrain", prompt=["Reshape", "reshape " * 50_000])
    assert refused.value.code == "context_length_exceeded"
    assert threads == ["search_0"] * 2


def test_a_long_prompt_is_read_without_a_rest(door: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no token yet in round after round, and the model works in each of them."""
    rests: list[float] = []
    monkeypatch.setattr(engine, "time", SimpleNamespace(monotonic=time.monotonic, sleep=rests.append))
    prompt = "reshape " * 1000
    answer = door.client().completions.create(model="refrain", prompt=prompt, max_tokens=2)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 1000
    assert rests == []


def test_chance_is_repeated_by_its_seed(door: Inside) -> None:
    def said(**how: object) -> str:
        answer = door.client().chat.completions.create(model="base", messages=ASKED, max_tokens=12, **how)
        return str(answer.choices[0].message.content)

    assert said() == said(temperature=0)
    assert said(temperature=1.5, seed=1) == said(temperature=1.5, seed=1)
    assert len({said(temperature=1.5, seed=seed) for seed in range(4)}) > 1
    assert said(temperature=2, top_p=1e-9, seed=3) == said()


@pytest.mark.parametrize(
    "how", [{"temperature": 1e-40}, {"temperature": 5e-324, "top_p": 5e-324}, {"temperature": 2, "top_p": 1e-46}]
)
def test_no_number_that_a_request_may_have_takes_the_server_out_of_service(door: Inside, how: dict[str, float]) -> None:
    """Five times are as often as the model may fail."""
    for seed in (-(2**63), -1, 0, 1, 2**63 - 1):
        answer = door.client().chat.completions.create(
            model="refrain", messages=ASKED, max_tokens=2, seed=seed, stop=["", "b"], **how
        )
        assert answer.choices[0].message.content == "aa"
    assert door.service.num_failures == 0
    assert [door.request("GET", path)[0] for path in ("/livez", "/readyz")] == [200, 200]


def test_a_conversation_goes_on(door: Inside) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "who is Ann?"},
        {"role": "assistant", "content": "aa"},
        {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
    ]
    answer = door.client().chat.completions.create(model="refrain", messages=turns, max_tokens=3)
    assert answer.choices[0].message.content == "aaa"
    alone = door.client().chat.completions.create(model="refrain", messages=turns[-1:], max_tokens=3)
    assert answer.usage is not None
    assert alone.usage is not None
    assert answer.usage.prompt_tokens > alone.usage.prompt_tokens


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ("{", 400, "invalid_json", None),
        ("{}", 400, "invalid_value", "messages"),
        ({"messages": []}, 400, "invalid_value", "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "invalid_value", "messages.0.role"),
        ({"messages": [*ASKED, {"role": "assistant", "content": "x"}]}, 400, "invalid_value", "messages"),
        ({"messages": [{"role": "user", "content": "  "}]}, 400, "invalid_value", "messages"),
        ({"messages": ASKED, "model": "gpt-9"}, 404, "model_not_found", "model"),
        ({"messages": ASKED, "max_tokens": 401}, 400, "invalid_value", "max_tokens"),
        ({"messages": ASKED, "max_tokens": 0}, 400, "invalid_value", "max_tokens"),
        ({"messages": ASKED, "temperature": 3}, 400, "invalid_value", "temperature"),
        ({"messages": ASKED, "stop": ["a", "b" * 257]}, 400, "invalid_value", "stop"),
        ({"messages": ASKED, "stop": "b" * 257}, 400, "invalid_value", "stop"),
        ({"messages": ASKED, "n": 2}, 400, "unsupported_parameter", "n"),
        ({"messages": ASKED, "tools": [{"type": "function"}]}, 400, "unsupported_parameter", "tools"),
        ({"messages": ASKED, "refrain": {"topk": 1}}, 400, "invalid_value", "refrain.topk"),
        ({"messages": [{"role": "user", "content": "long " * 9000}]}, 400, "context_length_exceeded", "messages"),
        ({"messages": [{"role": "user", "content": "x" * (1 << 20)}]}, 413, "request_too_large", None),
    ],
)
def test_what_is_refused_is_told_in_openai_s_shape(
    door: Inside, body: object, status: int, code: str, param: str | None
) -> None:
    data = body if isinstance(body, str) else json.dumps(body)
    with pytest.raises(openai.APIStatusError) as refused:
        door.client().post("/chat/completions", cast_to=object, content=data.encode())
    assert (refused.value.status_code, refused.value.code, refused.value.param) == (status, code, param)
    assert refused.value.message


def test_other_routes(door: Inside) -> None:
    assert door.request("GET", "/v1/none")[0] == 404
    status, body = door.request("GET", "/v1/chat/completions")
    assert (status, body["error"]["type"]) == (405, "invalid_request_error")
    assert door.request("GET", "/livez") == (200, {"status": "alive"})
    status, body = door.request("POST", "/v1/adapter", {"adapter": None, "sha256": ""})
    assert (status, body["error"]["code"]) == (403, "no_swap_token")


def test_null_is_absent_and_unknown_fields_are_passed_over(door: Inside) -> None:
    body = {"messages": ASKED, "max_tokens": 2, "tools": None, "stop": None, "user": "me", "n": 1, "logit_bias": {}}
    assert door.request("POST", "/v1/chat/completions", body)[0] == 200


def test_keys(world: World, tmp_path: Path) -> None:
    keys, token = tmp_path / "keys", tmp_path / "token"
    keys.write_text("# of ann\nfirst\n\n  # of bob\nsecond#half\n")
    token.write_text("swap-it\n")
    with in_process(world, served=world.served("a"), api_keys=keys, token=token) as door:
        for key in ("first", "second#half", "swap-it"):
            assert door.client(key).models.list().data
        for key in ("third", "second", "# of ann", "#"):
            with pytest.raises(openai.AuthenticationError):
                door.client(key).models.list()
        assert door.request("GET", "/v1/models")[0] == 401
        assert door.swap(None, "", "first")[0] == 401
        assert door.request("GET", "/readyz")[0] == 200
        assert door.request("GET", "/metrics")[0] == 200
        keys.write_text("third\n")
        assert door.client("third").models.list().data
        with pytest.raises(openai.AuthenticationError):
            door.client("first").models.list()
        keys.unlink()
        with pytest.raises(openai.AuthenticationError):
            door.client("third").models.list()
