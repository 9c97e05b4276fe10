"""evaluate: every checkpoint, what is in service and the bare base model, on val and test, in one load of the base.

Several machines may do it: each scores a `share`, and one that needs no model will `gather` what they found. `run` is
one share that is all, gathered.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson

from jobs.contracts import formats
from jobs.contracts.artifacts import artifact_key
from jobs.contracts.errors import InputError, IntegrityError
from jobs.contracts.records import Json, Split
from jobs.contracts.shares import WHOLE, Share
from jobs.corpus import Corpus, open_corpus
from jobs.evaluation.shares import Gathered, dealt, gathered
from jobs.files import atomic_output, scratch_folder, write_json
from jobs.production import incumbent_of
from jobs.progress import bar
from jobs.replay.sources import open_source, window_of
from jobs.retrieval.parts import read_catalogue
from jobs.scoring import forgetting
from jobs.scoring.eval_sets import EvalSet, read_eval_set
from jobs.scoring.questions import Questions, make_questions
from jobs.scoring.report import table
from jobs.scoring.results import Threads
from jobs.scoring.text_metrics import Metric, bleu_signature
from jobs.stages import Inputs, Outputs, how

if TYPE_CHECKING:
    from jobs.evaluation.material import Work
    from jobs.evaluation.measuring import Adapter
    from jobs.ml.base_model import Base
    from jobs.ml.checkpoint_files import Checkpoint
    from jobs.ml.encoding import Encoder
    from jobs.ml.vector_index import Index

_SETS: tuple[tuple[str, Split], ...] = (("val_set", "val"), ("test_set", "test"))


@dataclass(frozen=True)
class Config:
    """Settings of `evaluate`."""

    base: str
    revision: str | None = None
    embedding_model: str | None = None
    """Where the index's embedding model is found; as the index says, unless given."""
    top_k: int = 5
    max_queries: int = 500
    """Questions of each adapter at most, val and test together; 0: perplexities alone."""
    max_new_tokens: int = 128
    rag_metric: Metric = "token_f1"
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    persona: tuple[str, ...] = ()
    """Whose replies are asked for; anybody's where empty."""
    seed: int = 42
    device: str | None = how(None)
    batch_tokens: int = how(16_384)
    tells: bool = how(default=True)
    """Whether the table goes to standard error where no file for it is named."""


def run(config: Config, inputs: Inputs, outputs: Outputs) -> dict[str, Any]:
    """Write the scores of all checkpoints; the table goes to `report` where that is wanted, else to standard error.

    Raises InputError where no val thread is left, MissingInputError where there is no checkpoint; IntegrityError,
    InputError or ConfigError for a checkpoint that is damaged or of another base model, and for an index of
    another embedding model.
    """
    return gather(config, inputs, outputs, [share(config, inputs, WHOLE)])


def share(config: Config, inputs: Inputs, which: Share) -> Json:
    """The scores of a share of the adapters, as `gather` takes them. Raises as `run`."""
    from jobs.evaluation.measuring import Adapter, prepare, score
    from jobs.ml.base_model import find_base, load_encoder
    from jobs.ml.checkpoint_files import find_checkpoints
    from jobs.ml.evaluating import Scorer

    notes: list[str] = []
    with scratch_folder("refrain-evaluate-") as scratch, bar("evaluate", unit="token", scale=True) as shown:
        base = find_base(config.base, config.revision)
        incumbent = _incumbent(inputs, base, scratch, notes)
        checkpoints = [
            _adapter(inputs, one, notes) for one in find_checkpoints(inputs.one("checkpoints"), base, scratch)
        ]
        adapters = [Adapter("base", None), *([incumbent] if incumbent else []), *checkpoints]
        num_others = len(adapters) - len(checkpoints)
        part: Json = {"work": None, "adapters": [one.path for one in adapters], "num_others": num_others}
        own = {place: adapters[place] for place in dealt(len(adapters), num_others, which)}
        if not own:
            return part | {"scored": [], "best": None, "people": None}
        encoder = load_encoder(base)
        work = _work(config, inputs, encoder, notes)
        scorer = Scorer(
            base,
            encoder,
            precision=config.precision,
            device=config.device,
            batch_tokens=config.batch_tokens,
            seed=config.seed,
            tell=shown.update,
        )
        notes += [scorer.note] if scorer.note else []
        prepare(scorer, work, config)
        shown.total = work.num_tokens(config.max_new_tokens) * len(own)
        part |= score(scorer, own, num_others, work, config)
    return part | {"work": _work_as_json(config, work, part.pop("recall"), notes)}


def gather(config: Config, inputs: Inputs, outputs: Outputs, parts: Sequence[Json | None]) -> dict[str, Any]:
    """Write the scores that are in the parts, None for a share that was lost: its checkpoints are named.

    Reads nothing but how cycles before this one ended. Raises what `jobs.evaluation.shares.gathered` raises.
    """
    scores = gathered(parts)
    found = _document(config, inputs, scores)
    write_json(outputs["eval_results"], found)
    _tell(config, table(found), outputs)
    return _result(found, scores.num_tokens)


def _incumbent(inputs: Inputs, base: Base, scratch: Path, notes: list[str]) -> Adapter | None:
    """The adapter in service, where there is one."""
    from jobs.evaluation.measuring import Adapter
    from jobs.ml.adapter_files import adapter_digest
    from jobs.ml.checkpoint_files import as_adapter

    if not inputs.paths.get("incumbent"):
        return None
    record = incumbent_of(inputs.archive.store, inputs.cycle) if inputs.archive else None
    folder, note = as_adapter(inputs.one("incumbent"), base, scratch / "incumbent")
    notes += [f"the incumbent: {note}"] if note else []
    return Adapter("incumbent", folder, adapter_digest(folder), key=record.adapter if record else None)


def _adapter(inputs: Inputs, checkpoint: Checkpoint, notes: list[str]) -> Adapter:
    from jobs.evaluation.measuring import Adapter
    from jobs.ml.adapter_files import adapter_digest

    notes += [checkpoint.note] if checkpoint.note else []
    key = None
    if inputs.archive is not None:
        key = f"{artifact_key(inputs.cycle, 'train', 'checkpoints', inputs.attempt)}/{checkpoint.path}"
    return Adapter(checkpoint.path, checkpoint.folder, adapter_digest(checkpoint.folder), checkpoint.step, key)


def _work(config: Config, inputs: Inputs, encoder: Encoder, notes: list[str]) -> Work:
    """What there is to be scored on; InputError where no val thread is left."""
    from jobs.evaluation.material import Material, Work, encoded

    source = open_source(inputs.paths, inputs.archive, inputs.cycle)
    window_idx = window_of(source, None)
    corpus = open_corpus(inputs.paths, inputs.archive)
    sets = {split: _eval_set(inputs, kind, split, corpus) for kind, split in _SETS}
    chunks = {split: encoded(one, encoder) for split, one in sets.items()}
    if not chunks["val"]:
        raise InputError(
            "no val thread is left: nothing can be chosen by it",
            where=str(inputs.one("val_set")),
            hint="more mail is needed, or a larger share for val when an archive is begun",
        )
    if not chunks["test"]:
        notes.append("no test thread is there: test scores are null")
    index = _index(config, inputs, notes)
    questions = Questions([])
    if index is not None:
        targets = {name: split for split, one in sets.items() for name in one.targets()}
        questions = make_questions(
            lambda: corpus.messages(window_idx),
            targets,
            persona=config.persona,
            max_queries=config.max_queries,
            seed=config.seed,
        )
    materials: dict[Split, Material] = {}
    for split, pairs in chunks.items():
        threads = Threads([scored for scored, _ in pairs], [one for one in questions.asked if one.split == split])
        materials[split] = Material(split, threads, [example for _, example in pairs], config.top_k)
        if index is not None:
            materials[split].search(index)
    return Work(window_idx, materials, questions, index)


def _eval_set(inputs: Inputs, kind: str, split: Split, corpus: Corpus) -> EvalSet:
    if split == "test" and not inputs.paths.get(kind):
        return EvalSet(split, [], {})
    return read_eval_set(inputs.one(kind), split, corpus.chunks)


def _index(config: Config, inputs: Inputs, notes: list[str]) -> Index | None:
    """The index; None, with a note, where none is named, it is empty or nothing is asked."""
    if not config.max_queries:
        notes.append("no questions are asked: --max-queries is 0")
        return None
    if not inputs.paths.get("vector_index"):
        notes.append("no vector index is named: perplexities alone")
        return None
    from jobs.ml.vector_index import Index

    path = inputs.one("vector_index")
    name = config.embedding_model if config.embedding_model != read_catalogue(path).model else None
    store = inputs.archive.store if inputs.archive else None
    index = Index.open(path, store, embedding_model=name, device=config.device)
    notes += index.notes
    return index


def _work_as_json(config: Config, work: Work, recall: dict[Split, Json | None], notes: list[str]) -> Json:
    """What a share says of what it scored on."""
    is_asked = work.index is not None and bool(work.val.questions)
    if work.index is not None and not is_asked:
        who = f" by {', '.join(config.persona)}" if config.persona else ""
        notes.append(f"no question could be asked: val holds no reply{who} to a mail that is there")
    return {
        "window_idx": work.window_idx,
        "bleu_signature": bleu_signature(),
        **{split: material.threads.as_json() for split, material in work.materials.items()},
        "retrieval": None if work.index is None else {"k": config.top_k, **recall},
        "is_asked": is_asked,
        "pools": forgetting.pooled(work.val.threads.windows()),
        "notes": notes,
    }


def _notes_on(scores: Gathered) -> Iterator[str]:
    """What a reader of the scores should know."""
    if scores.work["is_asked"] and scores.controls is None:
        yield "no reply refers to further mails: retrieval cannot be judged"
    elif scores.work["is_asked"] and not scores.controls["is_informative"]:  # type: ignore[index]
        yield (
            f"retrieval is uninformative for this model: with the true sources {scores.best['path']} does not answer "
            "better than with others, or with none, beyond the interval"
        )
    if scores.not_scored:
        yield f"not scored, for their pods failed: {', '.join(scores.not_scored)}"


def _document(config: Config, inputs: Inputs, scores: Gathered) -> Json:
    """What eval_results.json holds."""
    work = scores.work
    return {
        "format": formats.EVAL_RESULTS,
        "window_idx": work["window_idx"],
        "attempt": inputs.attempt,
        "top_k": config.top_k,
        "rag_metric": config.rag_metric,
        "bleu_signature": work["bleu_signature"],
        **{split: work[split] for _, split in _SETS},
        "base": scores.base,
        "incumbent": scores.incumbent,
        "checkpoints": scores.checkpoints,
        "not_scored": scores.not_scored,
        "retrieval": work["retrieval"],
        "controls": scores.controls,
        "people": scores.people,
        "forgetting": forgetting.summary(
            _history(inputs, work["window_idx"]),
            pools=work["pools"],
            base=scores.base,
            incumbent=scores.incumbent,
            best=scores.best,
        ),
        "notes": [*work["notes"], *_notes_on(scores)],
    }


def _history(inputs: Inputs, window_idx: int) -> list[forgetting.Row]:
    """How the cycles before this one ended, oldest first."""
    if inputs.archive is None:
        return []
    store = inputs.archive.store
    rows = []
    for key in store.list("history/"):
        try:
            row = forgetting.Row.of(orjson.loads(store.get(key)))
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"not how a cycle ended: {error!r}", where=f"{store.url}/{key}") from error
        if row.cycle != inputs.cycle and row.window_idx <= window_idx:
            rows.append(row)
    return rows


def _tell(config: Config, text: str, outputs: Outputs) -> None:
    if "report" in outputs:
        with atomic_output(outputs["report"]) as stream:
            stream.write(text.encode())
    elif config.tells:
        sys.stderr.write(text)


def _result(found: Json, num_tokens: int) -> Json:
    best = min(found["checkpoints"], key=lambda entry: entry["val_loss"])
    result = {
        "window_idx": found["window_idx"],
        "num_checkpoints": len(found["checkpoints"]),
        "num_val_threads": len(found["val"]["threads"]),
        "num_test_threads": len(found["test"]["threads"]),
        "num_val_tokens": sum(found["val"]["num_tokens"]),
        "num_questions": sum(found["val"]["num_questions"]) + sum(found["test"]["num_questions"]),
        "num_tokens": num_tokens,
        "best": best["path"],
        "best_val_perplexity": best["val_perplexity"],
        "in_service_val_perplexity": (found["incumbent"] or found["base"])["val_perplexity"],
    }
    if found["not_scored"]:
        result |= {"num_not_scored": len(found["not_scored"]), "not_scored": found["not_scored"]}
    return result | {"notes": found["notes"]} if found["notes"] else result
