"""Each adapter in turn: its losses, its answers, and what these are worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.contracts.errors import InputError
from jobs.contracts.records import Json, Split
from jobs.evaluation.material import Material, Settings, Work, prompt_for
from jobs.retrieval.query import Passage
from jobs.scoring import controls, results
from jobs.scoring.fluency import fluency
from jobs.scoring.intervals import ratio_interval
from jobs.scoring.results import Answer
from jobs.scoring.sources import random_passages, true_sources
from jobs.scoring.text_metrics import SCORES

if TYPE_CHECKING:
    from jobs.ml.evaluating import Scorer

Materials = Mapping[Split, Material]


@dataclass(frozen=True, slots=True)
class Adapter:
    """What is scored: an adapter, or the bare base model."""

    path: str
    folder: Path | None
    sha256: str = ""
    step: int | None = None
    key: str | None = None

    def as_json(self) -> Json:
        """Who it is, as an entry begins."""
        return {"path": self.path, "step": self.step, "sha256": self.sha256, "key": self.key}


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of one adapter."""

    adapter: Adapter
    losses: dict[Split, list[float]]
    """Sums of each chunk that counts."""
    texts: dict[Split, list[str]]
    """Answers to the questions."""

    def val_loss(self) -> float:
        """The sum over all of val."""
        return sum(self.losses["val"])


def measure(scorer: Scorer, adapter: Adapter, materials: Materials, max_new_tokens: int) -> Measured:
    """Losses and answers of one adapter; InputError where a loss is no number."""
    scorer.use(adapter.folder)
    losses = {split: scorer.losses(one.examples) for split, one in materials.items()}
    for split, sums in losses.items():
        for value, chunk in zip(sums, materials[split].threads.chunks, strict=True):
            if not math.isfinite(value):
                what = f"its loss on chunk {chunk.chunk_id} is {value}, and not a number"
                raise InputError(what, where=adapter.path, hint="leave this checkpoint out: its training diverged")
    texts = {
        split: scorer.answers([prompt.ids for prompt in one.prompts], max_new_tokens)
        for split, one in materials.items()
    }
    return Measured(adapter, losses, texts)


def prepare(scorer: Scorer, work: Work, settings: Settings) -> None:
    """Make the prompts, once for all adapters."""
    for material in work.materials.values():
        material.prompts = [
            prompt_for(scorer, question, sources, settings.max_new_tokens)
            for question, sources in zip(material.questions, material.sources, strict=True)
        ]


def score(
    scorer: Scorer,
    adapters: Mapping[int, Adapter],
    num_others: int,
    work: Work,
    settings: Settings,
) -> Json:
    """Score adapters, by their places among all; see `jobs.evaluation.shares`, with `recall` besides.

    `prepare` comes before. The bare base model is in place 0, checkpoints are from `num_others` on. Controls are
    asked of the best checkpoint of these: the best of all is the best of its share.
    """
    meter = _Meter(scorer)
    measured, num_tokens = {}, {}
    for place, adapter in adapters.items():
        measured[place] = measure(scorer, adapter, work.materials, settings.max_new_tokens)
        num_tokens[place] = meter.read()
    checkpoints = [place for place in adapters if place >= num_others]
    best = min(checkpoints, key=lambda one: measured[one].val_loss(), default=None)
    controls = None if best is None else control(scorer, measured[best], work, settings)
    of_best = None if best is None else {"controls": controls, "num_tokens": meter.read()}
    recall = {split: material.recall(settings.seed) for split, material in work.materials.items()}
    judge = Judge(scorer, work.materials, settings, recall)
    scored = [
        {
            "place": place,
            "entry": judge.entry(one),
            "val_loss": one.val_loss(),
            "num_tokens": num_tokens[place] + meter.read(),
        }
        for place, one in measured.items()
    ]
    people = {"people": judge.people(), "num_tokens": meter.read()} if 0 in adapters else None
    return {"scored": scored, "best": of_best, "people": people, "recall": recall}


class _Meter:
    """Reads how many tokens have gone through the model since it was read last."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._before = scorer.num_tokens

    def read(self) -> int:
        """So many."""
        before, self._before = self._before, self._scorer.num_tokens
        return self._before - before


class Judge:
    """Makes entries of what was measured. What was written is judged by the bare base model, in use from now on."""

    def __init__(
        self, scorer: Scorer, materials: Materials, settings: Settings, recall: Mapping[Split, Json | None]
    ) -> None:
        scorer.use(None)
        self._scorer = scorer
        self._materials = materials
        self._metric = settings.rag_metric
        self._top_k = settings.top_k
        self._recall = recall

    def entry(self, measured: Measured) -> Json:
        """As eval_results.json has it."""
        val = self._materials["val"]
        entry = measured.adapter.as_json()
        intervals: Json = {}
        for split, material in self._materials.items():
            fields = results.loss_fields(material.threads, measured.losses[split], split)
            intervals |= fields.pop("intervals")
            entry |= fields
        sums = None
        for split, material in self._materials.items():
            answers = self._answers(material, measured.texts[split])
            fields, bounds, rag = results.answer_fields(
                material.threads, answers, material.references, metric=self._metric, top_k=self._top_k
            )
            self._add_recall(split, fields, bounds)
            prefix = "" if split == "val" else "test_"
            entry |= {prefix + name: value for name, value in fields.items()}
            intervals |= {prefix + name: value for name, value in bounds.items()}
            sums = rag if split == "val" else sums
        losses = val.threads.by_chunk(measured.losses["val"])
        return entry | {
            "intervals": intervals,
            "val_threads": {
                "loss": results.rounded_sums(losses),
                "rag": None if sums is None else results.rounded_sums(sums),
            },
            "val_windows": results.window_sums(val.threads, measured.losses["val"]),
        }

    def people(self) -> Json | None:
        """What people's own replies come to, beside the models' (val)."""
        val = self._materials["val"]
        if not val.prompts:
            return None
        values = [fluency(one.log_probability, one.num_tokens, one.text) for one in self._answers(val, val.references)]
        found = ratio_interval(val.threads.by_question(values), val.threads.num_questions, results.CONFIDENCE)
        return {"fluency": results.rounded(found.estimate), "interval": results.rounded_bounds(found, is_share=True)}

    def _add_recall(self, split: Split, fields: Json, bounds: Json) -> None:
        name = f"retrieval_recall_at_{self._top_k}"
        found = ((self._recall[split] or {}).get("recall") or {}).get("hybrid")
        fields[name] = found["estimate"] if found else None
        if found:
            bounds[name] = found["interval"]

    def _answers(self, material: Material, texts: Sequence[str]) -> list[Answer]:
        """The texts with their probabilities; none where nothing was asked."""
        written = [(place, text) for place, text in enumerate(texts) if text]
        asked = [material.questions[place] for place, _ in written]
        mails = [
            (one.answered.subject, (one.target.sender, one.target.date, text))
            for one, (_, text) in zip(asked, written, strict=True)
        ]
        judged = dict(zip([place for place, _ in written], self._scorer.log_probabilities(mails), strict=True))
        given = material.given(material.prompts, material.sources)
        return [Answer(text, given[place], *judged.get(place, (0.0, 0))) for place, text in enumerate(texts)]


def control(scorer: Scorer, measured: Measured, work: Work, settings: Settings) -> Json | None:
    """What sources are worth to one adapter: true ones, random ones and none. Null without a question for it."""
    if work.index is None:
        return None
    material, seed = work.val, settings.seed
    true = [true_sources(work.index, one, material.top_k) for one in material.questions]
    places = controls.controlled(material.questions, [len(some) for some in true], seed)
    if not places:
        return None
    asked = [material.questions[place] for place in places]
    given: dict[str, list[list[Passage]]] = {
        "true": [true[place] for place in places],
        "random": [
            random_passages(work.index, material.questions[place], work.questions, len(true[place]), seed)
            for place in places
        ],
        "none": [[] for _ in places],
    }
    scorer.use(measured.adapter.folder)
    texts = {"retrieved": [measured.texts[material.split][place] for place in places]}
    for name, sources in given.items():
        prompts = [
            prompt_for(scorer, one, some, settings.max_new_tokens) for one, some in zip(asked, sources, strict=True)
        ]
        texts[name] = scorer.answers([prompt.ids for prompt in prompts], settings.max_new_tokens)
    compare = SCORES[settings.rag_metric]
    references = [material.references[place] for place in places]
    scores = {
        name: [compare(text, reference) for text, reference in zip(texts[name], references, strict=True)]
        for name in ("true", "retrieved", "random", "none")
    }
    return controls.compared(measured.adapter.path, asked, scores)
