from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ml.training.runs import cut, data_of, of_train, schedule

from jobs.ml.training.data import TrainingData


def test_what_other_processes_are_sent_is_what_was_encoded(chunks: Any, encoder: Any, tmp_path: Path) -> None:
    batches = cut(of_train(chunks, 7), 2)
    data = data_of(chunks, encoder, schedule(batches, batches[1:]), accumulation=2, num_val=3)
    data.write(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".npz"}
    received = TrainingData.read(tmp_path)
    assert received.digest() == data.digest()
    assert received.steps == data.steps
    assert received.lengths == data.lengths
    assert len(received.val_examples) == 3
    for name, example in data.examples.items():
        assert received.examples[name].input_ids.dtype == example.input_ids.dtype
        np.testing.assert_array_equal(received.examples[name].labels, example.labels)


def test_its_digest_is_of_tokens_targets_and_order(chunks: Any, encoder: Any) -> None:
    batches = cut(of_train(chunks, 4), 2)
    data = data_of(chunks, encoder, schedule(batches), num_val=2)
    name, example = next(iter(data.examples.items()))
    labels = example.labels.copy()
    labels[-1] = -100 if labels[-1] != -100 else example.input_ids[-1]
    ids = example.input_ids.copy()
    ids[3] += 1
    others = [
        data_of(chunks, encoder, schedule(batches[::-1]), num_val=2),
        data_of(chunks, encoder, schedule(batches), num_val=1),
        TrainingData(data.steps, {**data.examples, name: replace(example, labels=labels)}, data.val_examples),
        TrainingData(data.steps, {**data.examples, name: replace(example, input_ids=ids)}, data.val_examples),
    ]
    digests = {data.digest(), *(other.digest() for other in others)}
    assert len(digests) == 5
    assert data_of(chunks, encoder, schedule(batches), num_val=2).digest() == data.digest()


def test_val_chunks_without_a_target_are_left_out(chunks: Any, encoder: Any) -> None:
    data = data_of(chunks, encoder, schedule(cut(of_train(chunks, 2), 2)), num_val=2)
    masked = replace(data.val_examples[0], labels=np.full_like(data.val_examples[0].labels, -100))
    assert len(TrainingData(data.steps, data.examples, [masked, data.val_examples[1]]).val_examples) == 1
