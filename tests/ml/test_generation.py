"""Answers to prompts: the same alone and in a batch, and no further than one mail."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from ml.tiny import tiny_base
from transformers import AutoModelForCausalLM

from jobs.contracts.errors import ConfigError
from jobs.mail.template import render
from jobs.ml.adapters import add_adapter
from jobs.ml.base_model import find_base, load_encoder, load_model, num_positions
from jobs.ml.generation import body_of, generate

CPU = torch.device("cpu")
DATE = "2024-01-01T09:00:00Z"
ANSWERS = {
    "disk": "It is full.\n\nDelete the old logs.",
    "server": "Restart it.",
    "lunch": "At noon, from the place around the corner: soup, bread and tea for all of us.",
    "keys": "They lie on the table",
}
"""What the model has learnt to answer, by subject."""


def asked(encoder, subject: str, earlier: int = 1) -> list[int]:
    mails = [("ann@x.example", DATE, f"What of the {subject}?")] * earlier
    return encoder.prompt(subject, mails, "bob@x.example", DATE)


def text_of(subject: str, answer: str) -> str:
    question = ("ann@x.example", DATE, f"What of the {subject}?")
    return render(subject, [question, ("bob@x.example", DATE, answer), ("ann@x.example", DATE, "Thanks!")])[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model that has learnt four threads by heart, and that asks for sampling and penalties by its own settings."""
    texts = [text_of(subject, answer) for subject, answer in ANSWERS.items()]
    folder = tiny_base(tmp_path_factory.mktemp("learnt") / "base", texts * 3, vocabulary=300, width=64, begins=True)
    encoder = load_encoder(find_base(str(folder)))
    model = AutoModelForCausalLM.from_pretrained(folder)
    rows = []
    for subject, answer in ANSWERS.items():
        # As training has it: each segment tokenised by itself, the next mail behind the answer.
        pieces = [answer, "\n\n", "From: ann@x.example\nDate: 2024-01-01 09:00\n\n", "Thanks!", "\n\n"]
        tokens = [token for piece in pieces for token in _ids(folder, piece)]
        rows.append([*asked(encoder, subject), *tokens, encoder.end_id])
    ids = torch.full((len(rows), max(map(len, rows))), encoder.end_id)
    labels = torch.full(ids.shape, -100)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = labels[number, : len(row)] = torch.tensor(row)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(120):
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.2
    model.save_pretrained(folder)
    settings = {"do_sample": True, "temperature": 2.0, "top_k": 5, "repetition_penalty": 5.0, "max_length": 3}
    (folder / "generation_config.json").write_text(json.dumps(settings | {"no_repeat_ngram_size": 1}))
    return folder


def _ids(folder: Path, text: str) -> list[int]:
    from tokenizers import Tokenizer

    ids: list[int] = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    return ids


@pytest.fixture(scope="module")
def learnt(folder):
    base = find_base(str(folder))
    return load_model(base, device=CPU), load_encoder(base)


def test_answers_are_bodies_up_to_the_next_header(learnt, capfd):
    model, encoder = learnt
    prompts = [asked(encoder, subject) for subject in ANSWERS]
    assert generate(model, encoder, prompts, max_new_tokens=80) == list(ANSWERS.values())
    assert capfd.readouterr() == ("", "")


def test_answers_do_not_depend_on_the_batch(learnt):
    model, encoder = learnt
    prompts = [asked(encoder, subject, earlier) for earlier in (1, 2, 0, 3) for subject in ANSWERS]
    assert len({len(prompt) for prompt in prompts}) > 3
    alone = generate(model, encoder, prompts, max_new_tokens=30, max_tokens=1)
    for max_tokens in (300, 10**6):
        assert generate(model, encoder, prompts, max_new_tokens=30, max_tokens=max_tokens) == alone
    assert len(set(alone)) >= len(ANSWERS)
    assert generate(model, encoder, [], max_new_tokens=5) == []


def test_it_is_the_most_likely_token_each_time(learnt):
    """Against a loop without cache, padding, or transformers' generate."""
    model, encoder = learnt
    prompt = encoder.prompt("something else", [("eve@x.example", DATE, "Where?")], "bob@x.example", DATE)
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(25):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    written = ids[len(prompt) :]
    if encoder.end_id in written:
        written = written[: written.index(encoder.end_id)]
    assert generate(model, encoder, [prompt, asked(encoder, "disk", 3)], max_new_tokens=25)[0] == body_of(
        encoder.decode(written)
    )


def test_it_ends_at_once_where_another_mail_begins(learnt):
    """The model has learnt to go on for some 40 tokens; it is not asked to."""
    model, encoder = learnt
    steps = []
    handle = model.register_forward_hook(lambda *_: steps.append(1))
    generate(model, encoder, [asked(encoder, "server")], max_new_tokens=200)
    handle.remove()
    assert len(steps) <= encoder.count(["Restart it.\n\nFrom: ann"])[0] + 2


def test_end_of_text_ends_it(learnt):
    model, encoder = learnt
    mails = [("ann@x.example", DATE, "What of the keys?"), ("bob@x.example", DATE, ANSWERS["keys"])]
    steps = []
    handle = model.register_forward_hook(lambda *_: steps.append(1))
    assert generate(model, encoder, [encoder.prompt("keys", mails, "ann@x.example", DATE)], max_new_tokens=200) == [
        "Thanks!"
    ]
    handle.remove()
    assert len(steps) < 30


def test_no_more_than_was_asked_for(learnt):
    model, encoder = learnt
    (short,) = generate(model, encoder, [asked(encoder, "lunch")], max_new_tokens=4)
    assert 0 < len(short) < len(ANSWERS["lunch"])
    assert ANSWERS["lunch"].startswith(short)


def test_another_stop_token_of_the_model(folder, tmp_path, learnt):
    encoder = learnt[1]
    copy = shutil.copytree(folder, tmp_path / "copy")
    colon = _ids(folder, ":")[0]
    assert colon in _ids(folder, ANSWERS["lunch"])
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [encoder.end_id, colon]}))
    base = find_base(str(copy))
    prompts = [asked(encoder, "lunch")]
    found = generate(load_model(base, device=CPU), load_encoder(base), prompts, max_new_tokens=80)
    assert found == [ANSWERS["lunch"].partition(":")[0]]


def test_a_model_with_an_adapter_writes_too(folder, learnt):
    base = find_base(str(folder))
    peft_model = add_adapter(load_model(base, device=CPU), rank=2, alpha=4, dropout=0.5, seed=0)
    assert peft_model.training
    found = generate(peft_model, learnt[1], [asked(learnt[1], "disk")], max_new_tokens=80)
    assert found == [ANSWERS["disk"]]
    assert peft_model.training


def test_a_prompt_without_room_for_an_answer(learnt):
    model, encoder = learnt
    limit = num_positions(model)
    with pytest.raises(ConfigError, match=f"reads {limit} at most"):
        generate(model, encoder, [[5] * (limit - 9)], max_new_tokens=10)


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("Yes.\n\nFrom: ann@x.example\nDate: 2024-01-01 09:00\n\nThanks!", "Yes."),
        ("Yes.\n\nFrom: ", "Yes."),
        (
            "From what I see, yes.\n\nFrom then on, no.\nFrom: nobody",
            "From what I see, yes.\n\nFrom then on, no.\nFrom: nobody",
        ),
        ("\n\nFrom: ann@x.example", ""),
        ("  Yes.\n\n", "Yes."),
        ("", ""),
    ],
)
def test_what_is_the_body(text, body):
    assert body_of(text) == body
