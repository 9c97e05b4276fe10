"""Artifacts, and the one place that knows where each of them lies.

Keys are relative to the root of an archive: `s3://bucket/archive` or `file:///folder/archive`.

    assignments/<20-digit seq>.jsonl         the log: one immutable segment per commit
    checkpoints/<20-digit seq>.parquet       the log up to seq as columns, made from it
    chunks/<window>/<split>-<digest>.jsonl.zst     texts, written before the segment that names them
    messages/ lengths/ fingerprints/ exclusions/   likewise
    base.json                                the base model, fixed by the first cycle that trains
    index/<model>/<window>/<split>-….parquet       passages and embeddings (`jobs.retrieval.parts`)
    cycles/<cycle>/<stage>/<file>            what a stage of one cycle wrote
    cycles/<cycle>/<stage>/_SUCCESS.json     its marker, written last: now it counts
    cycles/<cycle>/<stage>/shares/<i>-of-<n>.json  what one of several machines made of it, whole or not there
    cycles/<cycle>/retrain-<n>/<stage>/…     likewise, of its n-th further attempt
    cycles/<cycle>/finished.json             how the cycle ended: it stays when its artifacts go
    history/<6-digit window>-<cycle>.json    how each cycle ended, and how its adapter does on every week
    production/<20-digit seq>.json           what is, and was, in service
    owner/<20-digit seq>.json                who runs a cycle now; the newest counts (jobs.local.owner)
    speed.json                               how fast the stages were: measured, and no artifact
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MARKER = "_SUCCESS.json"
SEQ_DIGITS = 20

_SEGMENT = re.compile(rf"^assignments/(\d{{{SEQ_DIGITS}}})\.jsonl$")
_CHECKPOINT = re.compile(rf"^checkpoints/(\d{{{SEQ_DIGITS}}})\.parquet$")
_MARKER = re.compile(rf"^cycles/[^/]+/(?:retrain-(\d+)/)?([^/]+)/{re.escape(MARKER)}$")


@dataclass(frozen=True, slots=True)
class Artifact:
    """A thing that one stage writes and others read."""

    kind: str
    filename: str
    """Its file name, in a cycle's folder and by default on a laptop."""
    summary: str
    is_folder: bool = False
    """A folder of items that come one by one (`jobs.items`)."""


ARTIFACTS: dict[str, Artifact] = {
    a.kind: a
    for a in (
        Artifact("messages", "messages.jsonl.zst", "raw mails, one record each"),
        Artifact("rejects", "rejects.jsonl", "what was not taken, and why"),
        Artifact("cursor", "cursor.json", "how far each mailbox has been read"),
        Artifact("assignments", "assignments.json", "the log: every chunk's thread, split and window"),
        Artifact("new_train", "new_train.json", "this window's train chunks"),
        Artifact("val_set", "val.json", "val chunks up to this window"),
        Artifact("test_set", "test.json", "test chunks up to this window"),
        Artifact("manifest", "old_shards_train.json", "old train chunks that may be rehearsed"),
        Artifact("schedule", "epoch_schedule.json", "every batch of every epoch"),
        Artifact("checkpoints", "checkpoints", "adapters and optimiser states by step", is_folder=True),
        Artifact("trainer_state", "trainer_state.json", "losses by step"),
        Artifact("exposures", "exposures.json", "how often each message was learnt from"),
        Artifact("vector_index", "index.json", "the parts of the index, by model and segment"),
        Artifact("eval_results", "eval_results.json", "scores of every checkpoint"),
        Artifact("decision", "decision.json", "who won, and why each other lost"),
        Artifact("production", "production.json", "the adapter in service"),
    )
}

DATA_KINDS = ("chunks", "messages", "lengths", "fingerprints", "exclusions", "links")
"""What a commit writes beside its segment, which names every such file with its digest."""

DELETABLE_KINDS = ("chunks", "messages", "lengths")
"""Those of them that hold texts or addresses: whole files may be deleted, so that people can be forgotten."""


def segment_key(seq: int) -> str:
    """Key of a log segment."""
    return f"assignments/{seq:0{SEQ_DIGITS}d}.jsonl"


def segment_seq(key: str) -> int | None:
    """The seq of a log segment's key; None for any other key."""
    match = _SEGMENT.match(key)
    return int(match[1]) if match else None


def checkpoint_key(seq: int) -> str:
    """Key of the columnar checkpoint of the log up to and including seq."""
    return f"checkpoints/{seq:0{SEQ_DIGITS}d}.parquet"


def checkpoint_seq(key: str) -> int | None:
    """The seq of a checkpoint's key; None for any other key."""
    match = _CHECKPOINT.match(key)
    return int(match[1]) if match else None


def data_key(kind: str, window_idx: int, name: str, sha256: str, suffix: str) -> str:
    """Key of a data file of one commit. Its digest keeps two racing writers apart."""
    if kind not in DATA_KINDS:
        raise ValueError(f"no such data kind: {kind}")
    return f"{kind}/{window_idx:06d}/{name}-{sha256[:16]}{suffix}"


def cycle_key(cycle: str, stage: str, filename: str, attempt: int = 0) -> str:
    """Key of a file that a stage of a cycle writes; attempts count from 0, and the first has no folder of its own."""
    further = f"retrain-{attempt}/" if attempt else ""
    return f"cycles/{cycle}/{further}{stage}/{filename}"


def artifact_key(cycle: str, stage: str, kind: str, attempt: int = 0) -> str:
    """Key of an artifact of a cycle; of a folder artifact, what all its keys begin with."""
    return cycle_key(cycle, stage, ARTIFACTS[kind].filename, attempt)


def marker_key(cycle: str, stage: str, attempt: int = 0) -> str:
    """Key of a stage's marker. The stage's artifacts count when it exists."""
    return cycle_key(cycle, stage, MARKER, attempt)


def share_key(cycle: str, stage: str, index: int, num: int, attempt: int = 0) -> str:
    """Key of what the index-th of several machines made of a stage."""
    return cycle_key(cycle, stage, f"shares/{index}-of-{num}.json", attempt)


def marker_of(key: str) -> tuple[str, int] | None:
    """Stage and attempt of a marker's key; None for any other key."""
    match = _MARKER.match(key)
    return (match[2], int(match[1] or 0)) if match else None


def exposures_key(adapter: str) -> str:
    """Key of what the training that made an adapter, `cycles/…/train/checkpoints/<item>`, was trained on."""
    return f"{adapter.rpartition('/')[0].rpartition('/')[0]}/{ARTIFACTS['exposures'].filename}"


def finished_key(cycle: str) -> str:
    """Key of the status that a cycle has ended with."""
    return f"cycles/{cycle}/finished.json"


def history_key(window_idx: int, cycle: str) -> str:
    """Key of how a cycle ended."""
    return f"history/{window_idx:06d}-{cycle}.json"


BASE_KEY = "base.json"
"""Which base model an archive's adapters are of."""


SPEED_KEY = "speed.json"
"""How fast stages have been, for what `plan` says of the next cycle. A clock's doing, so nothing depends on it."""


def owner_key(seq: int) -> str:
    """Key of a claim to be the one run of an archive."""
    return f"owner/{seq:0{SEQ_DIGITS}d}.json"


def production_key(seq: int) -> str:
    """Key of a production record."""
    return f"production/{seq:0{SEQ_DIGITS}d}.json"
