"""The evaluate stage, over a tiny model: what it measures, and that nothing else changes it."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

with contextlib.suppress(ImportError):  # without torch `world` skips these tests
    from evaluating import OVERLAP, WINDOW, World, refused
    from ml.reference import perplexity as reference_perplexity

    from jobs.ml.adapters import merge_adapter

from jobs.contracts.artifacts import history_key
from jobs.contracts.errors import IntegrityError
from jobs.contracts.records import short_digest
from jobs.selection.evaluation import read_evaluations


@pytest.fixture(scope="module")
def calls() -> Counter[str]:
    """What is costly, as often as `found` did it."""
    return Counter()


@pytest.fixture(scope="module")
def found(world: World, calls: Counter[str]) -> dict[str, Any]:
    from transformers import PreTrainedModel

    from jobs.ml import spreading
    from jobs.ml.embedding import Embedder

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((spreading, "load_model"), (Embedder, "documents"), (Embedder, "queries")):
            patch.setattr(owner, name, counted(calls, name, getattr(owner, name)))
        from_files = counted(calls, "from_pretrained", PreTrainedModel.from_pretrained.__func__)
        patch.setattr(PreTrainedModel, "from_pretrained", classmethod(from_files))
        return world.run(world.folder / "eval_results.json")


def counted(calls: Counter[str], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        calls[name] += 1
        return function(*args, **kwargs)

    return call


def all_entries(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield found["base"]
    if found["incumbent"]:
        yield found["incumbent"]
    yield from found["checkpoints"]


# ---- perplexity


def roots(world: World, found: dict[str, Any], split: str) -> dict[str, str]:
    """By thread id, the name that its mails begin with."""
    known = {one.thread_id: one.message_id.partition(".")[0] for one in _messages(world)}
    return {thread: known[thread] for thread in found[split]["threads"]}


def _messages(world: World) -> Iterator[Any]:
    from jobs.corpus import open_corpus

    return open_corpus({}, world.archive).messages()


def mails_of(world: World, name: str) -> list[str]:
    return [raw for one, raw in world.mails.items() if one.startswith(f"{name}.")]


@pytest.mark.parametrize("split", ["val", "test"])
def test_perplexity_is_that_of_transformers_from_the_raw_mails(world: World, found: dict[str, Any], split: str) -> None:
    names = roots(world, found, split).values()
    expected, num_tokens = reference_perplexity(
        world.base.folder, [raw for name in names for raw in mails_of(world, name)], window=WINDOW, overlap=OVERLAP
    )
    assert found["base"][f"{split}_perplexity"] == pytest.approx(expected, rel=1e-4)
    assert sum(found[split]["num_tokens"]) == num_tokens


def test_each_threads_loss_is_the_references_and_they_add_up(world: World, found: dict[str, Any]) -> None:
    val, entry = found["val"], found["base"]
    for thread, name in list(roots(world, found, "val").items())[:4]:
        place = val["threads"].index(thread)
        expected, num_tokens = reference_perplexity(
            world.base.folder, mails_of(world, name), window=WINDOW, overlap=OVERLAP
        )
        assert val["num_tokens"][place] == num_tokens
        assert entry["val_threads"]["loss"][place] == pytest.approx(math.log(expected) * num_tokens, rel=1e-4)
    for one in all_entries(found):
        total = sum(one["val_threads"]["loss"])
        assert one["val_loss"] == pytest.approx(total / sum(val["num_tokens"]), rel=1e-7)
        assert one["val_perplexity"] == pytest.approx(math.exp(one["val_loss"]), rel=1e-7)
        assert sum(window["loss"] for window in one["val_windows"]) == pytest.approx(total, rel=1e-7)
        assert sum(window["num_tokens"] for window in one["val_windows"]) == sum(val["num_tokens"])


def test_an_adapters_perplexity_is_that_of_the_merged_model(
    world: World, found: dict[str, Any], tmp_path: Path
) -> None:
    merge_adapter(world.base, world.paths["checkpoints"][0] / "step_12", tmp_path / "merged")
    mails = [raw for name in roots(world, found, "val").values() for raw in mails_of(world, name)]
    expected, _ = reference_perplexity(tmp_path / "merged", mails, window=WINDOW, overlap=OVERLAP)
    entry = found["checkpoints"][1]
    assert (entry["path"], entry["step"]) == ("step_12", 12)
    assert entry["val_perplexity"] == pytest.approx(expected, rel=1e-4)
    assert abs(entry["val_perplexity"] / found["base"]["val_perplexity"] - 1) > 0.01


def test_a_messages_window_is_its_chunks(world: World, found: dict[str, Any]) -> None:
    windows = {one.message_id: one.window_idx for one in _messages(world)}
    from jobs.corpus import open_corpus

    listed = json.loads(world.paths["val_set"][0].read_text())
    chunks = list(open_corpus({}, world.archive).chunks([one["chunk_id"] for one in listed]))
    assert {chunk.window_idx for chunk in chunks} == {0, 1, 2}
    for chunk in chunks:
        assert {windows[one.message_id] for one in chunk.messages if not one.context} == {chunk.window_idx}


def test_masked_messages_leave_the_scores_and_change_nothing_else(
    world: World, found: dict[str, Any], tmp_path: Path
) -> None:
    entries = json.loads(world.paths["val_set"][0].read_text())
    thread = found["val"]["threads"][3]
    name = roots(world, found, "val")[thread]
    masked = short_digest(f"{name}.0@example.org")
    first = next(one for one in entries if one["thread_id"] == thread)
    first["masked_messages"] = [masked]
    (tmp_path / "val.json").write_text(json.dumps(entries))
    again = world.run(tmp_path / "out.json", {"val_set": [tmp_path / "val.json"]}, max_queries=0)
    before, after = found["val"], again["val"]
    assert after["threads"] == before["threads"]
    same = [place for place in range(len(before["threads"])) if place != 3]
    assert [after["num_tokens"][place] for place in same] == [before["num_tokens"][place] for place in same]
    for one, other in zip(all_entries(found), all_entries(again), strict=True):
        losses = one["val_threads"]["loss"], other["val_threads"]["loss"]
        assert [losses[1][place] for place in same] == pytest.approx([losses[0][place] for place in same], rel=1e-6)
        assert losses[1][3] < losses[0][3]
    assert 0 < after["num_tokens"][3] < before["num_tokens"][3]
    assert again["base"]["test_loss"] == found["base"]["test_loss"]


# ---- what is written


def test_select_can_read_it(found: dict[str, Any]) -> None:
    evaluation = read_evaluations([(found, "eval_results.json")])
    assert [one.path for one in evaluation.candidates] == ["step_4", "step_12"]
    assert evaluation.baseline is not None
    assert evaluation.baseline.path == "incumbent"
    for one in evaluation.candidates:
        figures = evaluation.figures(one, None)
        assert figures.loss.value > 0


def test_the_same_bytes_again_and_the_same_numbers_in_other_batches(
    world: World, found: dict[str, Any], tmp_path: Path
) -> None:
    world.run(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (world.folder / "eval_results.json").read_bytes()
    other = world.run(tmp_path / "other.json", batch_tokens=300)
    for one, two in zip(all_entries(found), all_entries(other), strict=True):
        for name in ("val_loss", "test_loss", "rag_accuracy_at_5", "fluency", "bleu", "test_token_f1"):
            assert two[name] == pytest.approx(one[name], rel=1e-5), name
    assert other["retrieval"] == found["retrieval"]


def test_every_score_has_an_interval_around_it(found: dict[str, Any]) -> None:
    for entry in all_entries(found):
        for name, (low, high) in entry["intervals"].items():
            assert low <= entry[name] <= high, name
        assert {"val_perplexity", "test_perplexity", "rag_accuracy_at_5", "fluency"} <= entry["intervals"].keys()


def test_adapters_differ_and_are_who_they_are(world: World, found: dict[str, Any]) -> None:
    from jobs.ml.adapters import adapter_digest

    folders = [None, world.paths["incumbent"][0], *(world.paths["checkpoints"][0] / f"step_{n}" for n in (4, 12))]
    assert [one["sha256"] for one in all_entries(found)] == ["", *(adapter_digest(one) for one in folders[1:])]
    assert len({one["val_loss"] for one in all_entries(found)}) == 4
    assert len({one["fluency"] for one in all_entries(found)}) == 4
    assert len({one["retrieval_recall_at_5"] for one in all_entries(found)}) == 1


def test_the_incumbents_row_is_the_winners_of_the_cycle_before(
    world: World, found: dict[str, Any], tmp_path: Path
) -> None:
    winner = world.paths["checkpoints"][0] / "step_4"
    again = world.run(tmp_path / "out.json", {"incumbent": [winner]})
    before, after = found["checkpoints"][0], again["incumbent"]
    who = ("path", "step", "key")
    assert {name: value for name, value in after.items() if name not in who} == {
        name: value for name, value in before.items() if name not in who
    }


def test_all_are_scored_in_one_load_of_the_base_and_no_mail_is_embedded_again(
    found: dict[str, Any], calls: Counter[str]
) -> None:
    """transformers loads the base model, and the embedding model for the questions, each once."""
    assert len(list(all_entries(found))) == 4
    assert calls["load_model"] == 1
    assert calls["from_pretrained"] == 2
    assert calls["documents"] == 0
    assert calls["queries"] > 0


def test_rag_accuracy_is_in_the_metric_that_was_named(world: World, found: dict[str, Any], tmp_path: Path) -> None:
    again = world.without("test_set").without("incumbent").run(tmp_path / "out.json", rag_metric="bleu", max_queries=16)
    for metric, results in (("token_f1", found), ("bleu", again)):
        assert results["rag_metric"] == metric
        assert all(entry["rag_accuracy_at_5"] == entry[metric] for entry in all_entries(results))
        assert 0 < results["base"]["bleu"] != results["base"]["token_f1"] > 0


def test_recall_by_mode_and_by_chance(found: dict[str, Any]) -> None:
    for split in ("val", "test"):
        recall = found["retrieval"][split]["recall"]
        assert recall["shuffled"]["estimate"] < 0.3
        assert recall["bm25"]["estimate"] > 0.9
        assert found["retrieval"][split]["num_recall_questions"] < found["retrieval"][split]["num_questions"]
    assert found["base"]["retrieval_recall_at_5"] == found["retrieval"]["val"]["recall"]["hybrid"]["estimate"]


def test_controls_stand_beside_the_best_checkpoint(found: dict[str, Any]) -> None:
    controls = found["controls"]
    assert controls["model"] == min(found["checkpoints"], key=lambda one: one["val_loss"])["path"]
    assert set(controls["scores"]) == {"true", "retrieved", "random", "none"}
    assert any("uninformative" in note for note in found["notes"]) != controls["is_informative"]


def test_questions_know_nothing_of_their_answers(world: World, found: dict[str, Any]) -> None:
    """What evaluate itself asks and retrieves, seen on its way."""
    from jobs.ml.vector_index import Index
    from jobs.scoring.questions import make_questions
    from jobs.scoring.sources import query_of, retrieve

    messages = {one.message_id: one for one in _messages(world)}
    held_out = {one.message_id: one.split for one in messages.values() if one.split != "train"}
    asked = make_questions(lambda: iter(messages.values()), held_out, max_queries=40, seed=42).asked
    counts = [sum(one.thread_id == thread for one in asked) for thread in found["val"]["threads"]]
    assert counts == found["val"]["num_questions"]
    index = Index.open(world.paths["vector_index"][0], world.archive.store)
    for mode in ("hybrid", "dense", "bm25"):
        retrieved = retrieve(index, asked, k=5, mode=mode)
        assert sum(map(len, retrieved.hits)) > 3 * len(asked)
        for question, hits in zip(asked, retrieved.hits, strict=True):
            assert all(messages[hit.message_id].date < question.target.date for hit in hits)
            assert not {hit.message_id for hit in hits} & question.hidden
            own = question.target.text.splitlines()[0]
            assert own not in query_of(question).text
            assert all(own not in index.passage(hit.passage_id).text for hit in hits)
    assert any(one.split == "val" for one in asked)
    assert all(messages[one].date < question.target.date for question in asked for one in question.relevant)


# ---- cycles before


def test_the_history_becomes_the_forgetting_matrix(world: World, found: dict[str, Any], tmp_path: Path) -> None:
    store = world.archive.store
    before = {"cycle": "before", "window_idx": 0, "sha256": "ab", "before_val_windows": []}
    own, later = before | {"cycle": "week", "window_idx": 2}, before | {"cycle": "later", "window_idx": 9}
    first = found["base"]["val_windows"][0]
    easier = first | {"loss": first["loss"] - 0.5 * first["num_tokens"]}
    for record, windows in ((before, [easier]), (own, []), (later, [])):
        store.put(
            history_key(record["window_idx"], record["cycle"]), json.dumps(record | {"val_windows": windows}).encode()
        )
    try:
        again = world.run(tmp_path / "matrix.json", max_queries=0)["forgetting"]
        store.put(history_key(1, "odd"), b"{}")
        with pytest.raises(IntegrityError, match="not how a cycle ended"):
            refused(world, tmp_path, {}, max_queries=0)
    finally:
        for key in list(store.list("history/")):
            store.delete(key)
    assert again["windows"] == [[0, 1, 2]]  # 13 threads in all: one column
    assert [row["cycle"] for row in again["rows"]] == ["before"]
    assert again["rows"][0]["losses"] == [None]  # it had not seen all of the column
    assert again["losses"]["base"] == [found["base"]["val_loss"]]
    new = [one for one in found["incumbent"]["val_windows"] if one["window_idx"] > 0]
    bare = [one for one in found["base"]["val_windows"] if one["window_idx"] > 0]
    expected = (sum(one["loss"] for one in bare) - sum(one["loss"] for one in new)) / sum(
        one["num_tokens"] for one in new
    )
    assert again["forward_transfer"] == pytest.approx(expected, rel=1e-6)


# ---- with less


def test_without_an_index_there_are_perplexities_alone(world: World, found: dict[str, Any], tmp_path: Path) -> None:
    less = world.without("vector_index").without("test_set").without("incumbent").run(tmp_path / "out.json")
    assert less["incumbent"] is less["retrieval"] is less["controls"] is less["people"] is None
    assert less["base"]["val_loss"] == found["base"]["val_loss"]
    assert less["base"]["rag_accuracy_at_5"] is less["base"]["fluency"] is less["base"]["val_threads"]["rag"] is None
    assert less["base"]["test_perplexity"] is None
    assert less["notes"] == [
        "no test thread is there: test scores are null",
        "no vector index is named: perplexities alone",
    ]
    assert read_evaluations([(less, "out.json")]).baseline.path == "base"


# ---- files of others


def test_flat_files_and_folders_without_our_own(world: World, found: dict[str, Any], tmp_path: Path) -> None:
    ours = world.paths["checkpoints"][0]
    shutil.copyfile(ours / "step_4" / "adapter_model.safetensors", tmp_path / "step_1000.safetensors")
    shutil.copyfile(ours / "step_4" / "adapter_config.json", tmp_path / "adapter_config.json")
    (tmp_path / "checkpoint-20").mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copyfile(ours / "step_12" / name, tmp_path / "checkpoint-20" / name)
    (tmp_path / "trainer_state.json").write_text("{}")
    less = world.run(tmp_path / "out.json", {"checkpoints": [tmp_path]}, max_queries=0)
    assert [(one["path"], one["step"]) for one in less["checkpoints"]] == [
        ("checkpoint-20", 20),
        ("step_1000.safetensors", 1000),
    ]
    by_size = [one["val_loss"] for one in less["checkpoints"]]
    assert by_size == [found["checkpoints"][1]["val_loss"], found["checkpoints"][0]["val_loss"]]
    assert [one["sha256"] for one in less["checkpoints"]] == [one["sha256"] for one in found["checkpoints"]][::-1]
    assert sum("does not say which base model" in note for note in less["notes"]) == 2
