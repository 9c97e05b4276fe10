"""The model card of an adapter: what it is of, how it did, and why it came into service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import yaml

from jobs.contracts.records import Json

_USE = """\
```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({base!r}{revision})
model = PeftModel.from_pretrained(base, "this folder")
```
"""
_PRIVACY = """\
It was trained on mail, and may repeat what stands in it: whoever may not read the mail should not have the adapter.
"""
_SCORES = {
    "val_perplexity": "perplexity, val",
    "test_perplexity": "perplexity, test",
}
"""Measures that a reader looks for first, with their names; the others follow under their own."""


def model_card(origin: Json, settings: Json, digest: str, *, facts: Json, decision: Json | None = None) -> str:
    """The card as Markdown with YAML in front, as model hubs read it.

    `origin` and `settings` are those of the adapter (`jobs.ml.adapter_files`), `digest` its digest, `facts` what is
    known of how it came into service, `decision` the decision that chose it.
    """
    name = _base_name(origin)
    parts = [
        f"---\n{_front_matter(origin, digest, facts)}---\n",
        f"# An adapter of {name}\n",
        f"LoRA of rank {settings['r']}, alpha {settings['lora_alpha']:g}, made by Refrain from a mail archive.\n",
        _PRIVACY,
        _use(origin, name),
    ]
    if decision is not None:
        parts += _decision(decision)
    return "\n".join(parts)


def _is_on_a_hub(origin: Json) -> bool:
    return origin["revision"] is not None


def _base_name(origin: Json) -> str:
    """A hub's name; of a folder its last part, for where it lies is nobody else's business."""
    return str(origin["base"]) if _is_on_a_hub(origin) else PurePosixPath(origin["base"]).name


def _front_matter(origin: Json, digest: str, facts: Json) -> str:
    fields: Json = {"base_model": origin["base"], "base_model_relation": "adapter"} if _is_on_a_hub(origin) else {}
    fields |= {"library_name": "peft", "pipeline_tag": "text-generation", "tags": ["lora", "refrain"]}
    own = {"adapter_sha256": digest, "base": _base_name(origin), "base_revision": origin["revision"]}
    own |= {name: origin[name] for name in ("base_digest", "tokenizer_digest", "template_digest")}
    fields["refrain"] = own | facts
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


def _use(origin: Json, name: str) -> str:
    revision = f", revision={origin['revision']!r}" if _is_on_a_hub(origin) else ""
    return _USE.format(base=name, revision=revision)


def _decision(decision: Json) -> Iterator[str]:
    yield "## Decision\n"
    yield f"{decision.get('message') or decision.get('outcome')}\n"
    delta, interval = decision.get("delta"), decision.get("interval") or [None, None]
    if delta is not None and None not in interval:
        confidence = f", at a confidence of {decision['confidence']:g}" if decision.get("confidence") else ""
        bounds = f"{interval[0]:+.2%} to {interval[1]:+.2%}{confidence}"
        yield f"Gain in {decision.get('metric')}: {delta:+.2%} ({bounds}).\n"
    scores = (decision.get("winner") or {}).get("scores")
    if isinstance(scores, dict) and scores:
        yield from _table(scores)


def _table(scores: Mapping[str, Any]) -> Iterator[str]:
    yield "## Scores\n"
    names = [*(name for name in _SCORES if name in scores), *(name for name in sorted(scores) if name not in _SCORES)]
    rows = [f"| {_SCORES.get(name, name.replace('_', ' '))} | {_shown(scores[name])} |" for name in names]
    yield "\n".join(["| measure | value |", "|---|---|", *rows, ""])


def _shown(value: Any) -> str:
    if value is None:
        return "not measured"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
