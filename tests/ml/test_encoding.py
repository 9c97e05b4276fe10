"""Tokens and targets of real chunks: the counts of split, and nothing that is not to be learnt."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from ml.tiny import BEGIN, END

from jobs.contracts.errors import ConfigError
from jobs.contracts.records import Chunk, ChunkMessage, short_digest
from jobs.mail.template import render, segments
from jobs.ml.base_model import find_base, load_encoder, require_tokenizer
from jobs.ml.encoding import IGNORED, NO_MESSAGE

DATE = "2024-01-01T09:00:00Z"


def made(*bodies: str, **last: object) -> Chunk:
    """A chunk of mails with these bodies; `last` changes the last one's record."""
    text, spans = render("plan", [("ann@example.org", DATE, body) for body in bodies])
    messages = [
        ChunkMessage(f"{number}@x", "ann@example.org", DATE, start, end, 0) for number, (start, end) in enumerate(spans)
    ]
    messages[-1] = replace(messages[-1], **last)
    return Chunk("thread_0_window_0", "thread_0", "train", 0, "ann@example.org", "plan", DATE, 0, 0, messages, text)


def targets(encoder, chunk, **options) -> str:
    example = encoder.example(chunk, **options)
    return encoder.decode(example.labels[example.labels != IGNORED].tolist())


def test_the_counts_are_those_of_split(chunks, encoder):
    assert len(chunks) > 50
    assert any(message.context for chunk in chunks for message in chunk.messages)
    assert any(message.num_parts > 1 for chunk in chunks for message in chunk.messages)
    for chunk in chunks:
        example = encoder.example(chunk)
        assert len(example) == chunk.num_tokens + encoder.num_start_tokens
        assert example.num_targets == chunk.num_target_tokens > 0
        for number, message in enumerate(chunk.messages):
            expected = 0 if message.context else message.num_tokens
            assert (example.message == number).sum() == expected


def test_every_body_is_a_target_once_in_all_chunks(chunks, encoder):
    expected = "".join(
        chunk.text[message.start : message.end] for chunk in chunks for message in chunk.messages if not message.context
    )
    assert "".join(targets(encoder, chunk) for chunk in chunks) == expected


def test_a_text_begins_and_ends_with_the_tokenizer_s_own_tokens(chunks, encoder):
    example = encoder.example(chunks[0])
    begin, end = example.input_ids[0], example.input_ids[-1]
    assert (begin, end) == (encoder.example(chunks[1]).input_ids[0], encoder.end_id)
    assert begin != end
    assert encoder.decode(example.input_ids.tolist()) == chunks[0].text
    assert example.labels[0] == example.labels[-1] == IGNORED
    assert (example.input_ids.dtype, example.labels.dtype, example.message.dtype) == (np.int32, np.int32, np.int16)


def test_without_such_a_token_nothing_stands_before_the_text(base_folder, tmp_path, chunks, encoder):
    shutil.copytree(base_folder, tmp_path / "base")
    definition = json.loads((tmp_path / "base/tokenizer.json").read_text())
    definition["post_processor"] = None
    (tmp_path / "base/tokenizer.json").write_text(json.dumps(definition))
    plain = load_encoder(find_base(str(tmp_path / "base")))
    assert (encoder.num_start_tokens, plain.num_start_tokens) == (1, 0)
    assert plain.example(chunks[0]).input_ids.tolist() == encoder.example(chunks[0]).input_ids[1:].tolist()


def test_a_masked_message_is_read_but_not_scored(chunks, encoder):
    chunk = next(one for one in chunks if sum(not message.context for message in one.messages) > 1)
    whole = encoder.example(chunk)
    number = max(number for number, message in enumerate(chunk.messages) if not message.context)
    masked = encoder.example(chunk, masked={short_digest(chunk.messages[number].message_id)})
    assert (masked.input_ids == whole.input_ids).all()
    lost = whole.message == number
    assert lost.any()
    assert (masked.labels[lost] == IGNORED).all()
    assert (masked.message[lost] == NO_MESSAGE).all()
    assert (masked.labels[~lost] == whole.labels[~lost]).all()


def test_for_training_the_end_of_each_mail_is_a_target(encoder):
    chunk = made("first", "second")
    assert targets(encoder, chunk) == "firstsecond"
    example = encoder.example(chunk, stops=True)
    learnt = example.labels[example.labels != IGNORED].tolist()
    first_of_header = encoder.decode(
        [encoder.prompt("plan", [], "ann@example.org", DATE)[1 + encoder.count(["Subject: plan\n\n"])[0]]]
    )
    assert encoder.decode(learnt) == f"first\n\n{first_of_header}second\n\n"
    assert "From: ".startswith(first_of_header)
    assert learnt[-1] == encoder.end_id
    assert (example.message != NO_MESSAGE).sum() == encoder.example(chunk).num_targets


def test_what_is_only_read_or_goes_on_elsewhere_does_not_teach_to_end(encoder):
    assert targets(encoder, made("cut in two", part=0, num_parts=2), stops=True) == "cut in two"
    assert targets(encoder, made("cut in two", part=1, num_parts=2), stops=True) == "cut in two\n\n"
    assert targets(encoder, made("overlap", context=True), stops=True) == ""
    assert targets(encoder, made("known"), stops=True, masked={short_digest("0@x")}) == ""


def test_an_empty_body_has_no_target(encoder):
    chunk = made("", "something")
    assert targets(encoder, chunk) == "something"
    assert set(encoder.example(chunk).message.tolist()) == {NO_MESSAGE, 1}


def test_a_mail_that_spells_a_special_token_has_its_letters(encoder):
    chunk = made(f"the end {END} and {BEGIN} on")
    example = encoder.example(chunk)
    assert targets(encoder, chunk) == f"the end {END} and {BEGIN} on"
    assert example.input_ids.tolist().count(encoder.end_id) == 1


def test_a_prompt_is_how_a_text_begins(chunks, encoder):
    chunk = next(one for one in chunks if len(one.messages) > 1)
    last = chunk.messages[-1]
    before = [(one.sender, one.date, chunk.text[one.start : one.end]) for one in chunk.messages[:-1]]
    prompt = encoder.prompt(chunk.subject, before, last.sender, last.date)
    example = encoder.example(chunk)
    assert prompt == example.input_ids[: len(prompt)].tolist()
    assert encoder.decode(prompt) == chunk.text[: last.start]
    body = [
        piece
        for piece in segments(chunk.text, [(one.start, one.end) for one in chunk.messages])
        if piece.kind == "body"
    ][-1]
    assert body.start == last.start
    assert example.message[len(prompt)] == len(chunk.messages) - 1


def test_a_tokenizer_without_an_end(base_folder, tmp_path):
    shutil.copytree(base_folder, tmp_path / "base")
    path = tmp_path / "base/tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["eos_token"]
    path.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="no end-of-text token"):
        load_encoder(find_base(str(tmp_path / "base")))


def test_the_archive_s_tokenizer_is_the_base_model_s(archive, base):
    parameters = archive.log.parameters()
    require_tokenizer(base, parameters["tokenizer"])
    with pytest.raises(ConfigError, match="by white space") as raised:
        require_tokenizer(base, "whitespace-1", "store")
    assert "--tokenizer" in raised.value.hint
    with pytest.raises(ConfigError, match="digest 0123, not"):
        require_tokenizer(base, "0123")


def test_what_a_chat_model_stops_at(base_folder, tmp_path, encoder):
    shutil.copytree(base_folder, tmp_path / "base")
    (tmp_path / "base/generation_config.json").write_text(json.dumps({"eos_token_id": [5, 0, 9]}))
    assert encoder.stop_ids == [encoder.end_id] == [0]
    assert load_encoder(find_base(str(tmp_path / "base"))).stop_ids == [0, 5, 9]
