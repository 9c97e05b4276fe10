from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contracts.errors import InputError
from jobs.ml.training.steps import epochs_after, micro_batches, num_tokens, plan_steps, seen_digest, steps_to_save


def schedule(*sizes: int, chunks: int = 1) -> dict:
    """Epochs of so many batches."""
    return {
        "epochs": [
            {
                "epoch": epoch,
                "batches": [
                    {"chunk_ids": [f"e{epoch}b{batch}c{one}" for one in range(chunks)]} for batch in range(size)
                ],
            }
            for epoch, size in enumerate(sizes)
        ]
    }


def test_unequal_epochs_lose_no_batch() -> None:
    steps = plan_steps(schedule(24, 16, 32))
    assert len(steps) == 72
    assert [step.epoch for step in steps] == [0] * 24 + [1] * 16 + [2] * 32
    assert [number for number, step in enumerate(steps, 1) if step.is_last_of_epoch] == [24, 40, 72]


def test_no_step_crosses_an_epoch() -> None:
    steps = plan_steps(schedule(24, 16, 32), 5)
    assert [len(step.batches) for step in steps] == [5, 5, 5, 5, 4, 5, 5, 5, 1, 5, 5, 5, 5, 5, 5, 2]
    for step in steps:
        assert {name[:2] for name in step.chunk_ids} == {f"e{step.epoch}"}


@given(st.lists(st.integers(0, 7), min_size=1, max_size=4).filter(any), st.integers(1, 5))
def test_the_steps_are_the_schedule(sizes: list[int], accumulation: int) -> None:
    plan = schedule(*sizes, chunks=2)
    listed = [name for epoch in plan["epochs"] for batch in epoch["batches"] for name in batch["chunk_ids"]]
    assert [name for step in plan_steps(plan, accumulation) for name in step.chunk_ids] == listed


@given(st.data())
def test_every_chunk_is_computed_once_by_one_process(data: st.DataObject) -> None:
    lengths = data.draw(st.dictionaries(st.sampled_from("abcdefghij"), st.integers(1, 90), min_size=1))
    cut = data.draw(st.integers(0, len(lengths)))
    names = sorted(lengths)
    batches = [one for one in (names[:cut], names[cut:]) if one]
    (step,) = plan_steps({"epochs": [{"epoch": 0, "batches": [{"chunk_ids": one} for one in batches]}]}, 2)
    num_ranks = data.draw(st.integers(1, 4))
    max_tokens = data.draw(st.none() | st.integers(1, 200))
    options = {"num_ranks": num_ranks, "max_tokens": max_tokens}
    shares = [micro_batches(step, lengths, rank=rank, **options) for rank in range(num_ranks)]
    assert sorted(name for share in shares for one in share for name in one) == names
    assert len({len(share) for share in shares}) == 1, "all meet after each micro-batch"
    for one in (one for share in shares for one in share):
        assert max_tokens is None or len(one) <= 1 or len(one) * max(lengths[name] for name in one) <= max_tokens
    real, padded = num_tokens(step, lengths, num_ranks, max_tokens)
    assert real == sum(lengths.values()) <= padded


def test_shares_of_a_batch_have_about_as_many_tokens() -> None:
    lengths = {"a": 100, "b": 60, "c": 50, "d": 10}
    (step,) = plan_steps({"epochs": [{"epoch": 0, "batches": [{"chunk_ids": list("abcd")}]}]})
    assert micro_batches(step, lengths, rank=0, num_ranks=2) == [("a", "d")]
    assert micro_batches(step, lengths, rank=1, num_ranks=2) == [("b", "c")]
    assert micro_batches(step, lengths, rank=4, num_ranks=5) == [()]
    assert num_tokens(step, lengths, 2, None) == (220, 2 * 100 + 2 * 60)


def test_where_checkpoints_are_due_and_how_many_epochs_are_behind() -> None:
    steps = plan_steps(schedule(4, 3))
    assert steps_to_save(steps, 3) == {3, 4, 6, 7}
    assert epochs_after(steps) == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1 + 1 / 3, 1 + 2 / 3, 2])


@pytest.mark.parametrize(
    "plan", [{"epochs": []}, schedule(0, 0), {"epochs": [{"epoch": 0, "batches": [{"chunk_ids": []}]}]}]
)
def test_an_empty_schedule_says_what_to_do(plan: dict) -> None:
    with pytest.raises(InputError, match=r"(?s)nothing to train on.*refrain window"):
        plan_steps(plan)


@pytest.mark.parametrize(
    "plan",
    [
        [],
        {},
        {"epochs": 3},
        {"epochs": [{"batches": [{}]}]},
        {"epochs": [{"epoch": 0, "batches": [{"chunk_ids": [7]}]}]},
    ],
)
def test_what_is_no_schedule_is_refused(plan: object) -> None:
    with pytest.raises(InputError, match="not a schedule"):
        plan_steps(plan)  # type: ignore[arg-type]


def test_the_ledger_depends_on_ids_order_and_steps() -> None:
    digests = {
        seen_digest(seen_digest("", ["a", "b"]), ["c"]),
        seen_digest(seen_digest("", ["a"]), ["b", "c"]),
        seen_digest(seen_digest("", ["b", "a"]), ["c"]),
        seen_digest("", ["a", "b", "c"]),
    }
    assert len(digests) == 4
