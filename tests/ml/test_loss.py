"""Losses by token: against transformers alone, and whatever the batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ml import reference
from splitting import chunks as chunks_of
from splitting import mail, split
from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM

from jobs.assignments.archive import Archive
from jobs.contracts.errors import ConfigError
from jobs.corpus.reading import as_chunk
from jobs.ml import loss
from jobs.ml.base_model import num_positions
from jobs.ml.encoding import IGNORED, Example
from jobs.ml.loss import logits_of, target_losses

WORDS = [f"{one}{other}" for one in ("de", "ka", "lo", "mi") for other in ("sk", "ta", "r", "n")]


def body(number: int) -> str:
    """A text of its own for each mail, of one to three lines."""
    return "\n".join(
        " ".join(WORDS[(number * 7 + 3 * at + line) % len(WORDS)] for at in range(4 + number % 9))
        for line in range(1 + number % 3)
    )


@pytest.fixture(scope="module")
def mails() -> list[dict[str, str]]:
    """Seven threads of one to seven plain mails."""
    return [
        mail(
            f"m{thread}.{number}@example.org",
            day=f"2024-01-{thread + 1:02d}",
            hour=8 + number,
            references=(f"m{thread}.0@example.org",) if number else (),
            sender=f"Ann Lee <ann{number % 3}@example.org>",
            subject=f"plan {thread}",
            body=body(10 * thread + number),
        )
        for thread in range(7)
        for number in range(thread + 1)
    ]


@pytest.mark.parametrize(("window", "overlap"), [(100, 0), (3, 1)])
def test_perplexity_is_that_of_transformers_alone(base_folder, model, encoder, mails, tmp_path, window, overlap):
    archive = Archive.open(str(tmp_path / "archive"))
    split(archive, mails, tmp_path, tokenizer=str(base_folder), window_size=window, window_overlap=overlap)
    examples = [encoder.example(as_chunk(record, "archive")) for record in chunks_of(archive)]
    losses = np.concatenate(target_losses(model, examples, max_tokens=500))
    raw = [one["email_message"] for one in mails]
    expected, num_tokens = reference.perplexity(base_folder, raw, window=window, overlap=overlap)
    assert len(losses) == num_tokens > 500
    assert math.exp(losses.mean()) == pytest.approx(expected, rel=1e-4)
    assert expected > 50


@pytest.fixture(scope="module")
def examples(chunks, encoder) -> list[Example]:
    return [encoder.example(chunk) for chunk in chunks[:40]]


def test_losses_do_not_depend_on_the_batch(model, examples):
    alone = [target_losses(model, [example], max_tokens=1)[0] for example in examples]
    for max_tokens in (1, 900, 10**6):
        together = target_losses(model, examples, max_tokens=max_tokens)
        assert [len(part) for part in together] == [example.num_targets for example in examples]
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    assert together[0].dtype == np.float64
    assert len({round(float(part.mean()), 3) for part in alone}) > 20


def test_a_text_without_targets_has_no_losses(model, examples):
    silent = Example("silent", examples[0].input_ids, np.full_like(examples[0].labels, IGNORED), examples[0].message)
    found = target_losses(model, [silent, examples[1]], max_tokens=1000)
    assert [len(part) for part in found] == [0, examples[1].num_targets]
    assert target_losses(model, [], max_tokens=10) == []
    assert len(target_losses(model, [silent], max_tokens=10)[0]) == 0


def test_logits_are_made_of_targets_alone_and_in_blocks(model, examples, monkeypatch):
    whole = target_losses(model, examples[:6], max_tokens=4000)
    vocabulary = model.get_output_embeddings().weight.shape[0]
    sizes: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda _module, _given, made: sizes.append(made.numel()))
    monkeypatch.setattr(loss, "_BLOCK_LOGITS", 50 * vocabulary)
    in_blocks = target_losses(model, examples[:6], max_tokens=4000)
    assert max(sizes) == 50 * vocabulary
    assert sum(sizes) == sum(example.num_targets for example in examples[:6]) * vocabulary
    for one, other in zip(whole, in_blocks, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def small(config_class, **settings):
    return config_class(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **settings,
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: Gemma2ForCausalLM(small(Gemma2Config, final_logit_softcapping=0.5)),
        lambda: CohereForCausalLM(small(CohereConfig, logit_scale=0.125)),
    ],
    ids=["capped", "scaled"],
)
def test_what_a_model_does_behind_its_head_is_done(make):
    torch.manual_seed(0)
    model = make().eval()
    ids = torch.arange(3, 40)
    with torch.no_grad():
        expected = model(input_ids=ids[None]).logits[0]
        hidden = model.get_decoder()(input_ids=ids[None])[0][0]
        assert torch.equal(logits_of(model, hidden), expected)
        head_alone = model.get_output_embeddings()(hidden)
        assert not torch.allclose(head_alone, expected, atol=1e-3)
        assert torch.equal(model(input_ids=ids[None]).logits[0], expected)
    example = Example("one", ids.numpy().astype(np.int32), ids.numpy().astype(np.int32), np.zeros(37, np.int16))
    example.labels[0] = IGNORED
    reference_losses = torch.nn.functional.cross_entropy(expected[:-1], ids[1:], reduction="none")
    np.testing.assert_allclose(target_losses(model, [example], max_tokens=99)[0], reference_losses, atol=1e-5)


def test_dropout_is_off_while_scoring_and_on_again_after(model, examples):
    dropout = torch.nn.Dropout(0.5)
    model.model.layers[0].mlp.down_proj = torch.nn.Sequential(model.model.layers[0].mlp.down_proj, dropout)
    model.train()
    first, second = (target_losses(model, examples[:2], max_tokens=2000) for _ in range(2))
    assert (first[0] == second[0]).all()
    assert model.training
    assert dropout.training
    model.eval()
    target_losses(model, examples[:1], max_tokens=2000)
    assert not model.training


def test_a_text_that_is_longer_than_the_model_reads(model):
    limit = num_positions(model)
    ids = np.ones(limit + 2, np.int32)
    with pytest.raises(ConfigError, match=f"{limit + 1} tokens, but the base model reads {limit}"):
        target_losses(model, [Example("long", ids, ids, ids.astype(np.int16))], max_tokens=10)
