"""The schedule as a file: one JSON object, a batch a line, written without ever being held."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from jobs.files import atomic_output
from jobs.replay.report import Coverage, Report, Tally
from jobs.replay.sampler import StratifiedReplaySampler

FORMAT = 1


def write_schedule(path: Path, sampler: StratifiedReplaySampler, coverage: Coverage | None = None) -> Report:
    """Write every batch of every epoch, and the report at the end.

    The same sampler writes the same bytes. Keys: `format`, the settings, `epochs` (each with
    `epoch` and `batches`: `source`, `length_bucket`, `num_tokens`, `chunk_ids`), `report`.
    """
    settings = {
        "format": FORMAT,
        "seed": sampler.seed,
        "window_idx": sampler.window_idx,
        "replay_ratio": f"{sampler.ratio.numerator}:{sampler.ratio.denominator}",
        "max_share": float(sampler.max_share),
        "max_samples": sampler.max_samples,
        "quota": sampler.quota,
        "min_per_bucket": sampler.min_per_bucket,
        "batch_size": sampler.batch_size if sampler.batch_tokens is None else None,
        "batch_tokens": sampler.batch_tokens,
        "num_epochs": sampler.num_epochs,
    }
    tally = Tally(sampler.table, sampler.num_new, sampler.buckets)
    with atomic_output(path) as out:
        out.write(b"{\n")
        for name, value in settings.items():
            out.write(orjson.dumps(name) + b": " + orjson.dumps(value) + b",\n")
        out.write(b'"epochs": [')
        for epoch in range(sampler.num_epochs):
            plan = sampler.plan(epoch)
            tally.add(plan)
            out.write(b'%s\n{"epoch": %d, "batches": [' % (b"," if epoch else b"", epoch))
            separator = b"\n"
            for batch in sampler.batches(plan):
                out.write(separator + orjson.dumps(batch))
                separator = b",\n"
            out.write(b"\n]}")
        report = replace(tally.report(), coverage=coverage)
        out.write(b'\n],\n"report": ')
        _write_report(out, report)
        out.write(b"}\n")
    return report


def _write_report(out: BinaryIO, report: Report) -> None:
    out.write(b"{\n")
    for name, value in report.figures().items():
        out.write(orjson.dumps(name) + b": " + orjson.dumps(value) + b",\n")
    out.write(b'"senders": [')
    _write_lines(out, report.senders)
    out.write(b'],\n"strata": [')
    _write_lines(out, report.strata)
    out.write(b"]\n}\n")


def _write_lines(out: BinaryIO, values: Iterable[Any]) -> None:
    for number, value in enumerate(values):
        out.write((b",\n" if number else b"\n") + orjson.dumps(value))
    out.write(b"\n")
