"""`refrain evaluate`: the scores of every checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from jobs.cli import options
from jobs.cli.replay_options import named, tell
from jobs.contracts.errors import UsageError
from jobs.files import STANDARD

_FOLDER = options.Place(path_type=Path)
_METRICS = ("token_f1", "bleu", "rouge_l", "exact_match")


@click.command(name="evaluate")
@click.option("--checkpoints-dir", type=_FOLDER, help="Folder of step_<n>/ or step_<n>.safetensors.")
@click.option("--val-set", type=options.PATH, help="The val chunks, as `refrain window --split val` lists them.")
@click.option("--test-set", type=options.PATH, help="Likewise of test.  [default: no test scores]")
@click.option(
    "--vector-db", type=_FOLDER, help="Folder of the index, or its index.json.  [default: perplexities alone]"
)
@click.option(
    "--base-model",
    "base",
    help="Base model: a name on the hub, a folder, or s3://.  [default: with --store, the archive's]",
)
@click.option("--revision", help="Its commit on the hub.")
@click.option("--incumbent", type=_FOLDER, help="Folder of the adapter in service.  [default: the bare base model]")
@click.option("--assignments", type=options.PATH, help="The assignments.  [default: assignments.json beside --val-set]")
@click.option("--chunks", type=options.PATH, help="The chunks' texts.  [default: chunks.json beside the assignments]")
@click.option("--splits", type=_FOLDER, help="The decoded mails.  [default: splits/ beside the assignments]")
@click.option("--embedding-model", help="Where the index's embedding model is found.  [default: as the index says]")
@click.option("--top-k", type=click.IntRange(1, 1000), default=5, show_default=True, help="Passages for a question.")
@click.option(
    "--max-queries",
    type=click.IntRange(0),
    default=500,
    show_default=True,
    help="Questions of each adapter at most, val and test together; 0: perplexities alone.",
)
@click.option(
    "--max-new-tokens", type=click.IntRange(1, 65_536), default=128, show_default=True, help="Tokens of an answer."
)
@click.option(
    "--rag-metric",
    type=click.Choice(_METRICS),
    default=_METRICS[0],
    show_default=True,
    help="What RAG accuracy is the mean of; all are reported.",
)
@click.option("--persona", multiple=True, metavar="ADDRESS", help="Whose replies are asked for.  [default: anybody's]")
@click.option(
    "--precision",
    type=click.Choice(("bf16", "fp16", "fp32")),
    default="bf16",
    show_default=True,
    help="Of weights and activations; a CPU computes in fp32.",
)
@click.option("--device", help="Where to compute: cpu, cuda, mps.  [default: the best there is]")
@click.option(
    "--batch-tokens",
    type=click.IntRange(64),
    default=16_384,
    show_default=True,
    help="Tokens, padding included, that go through the model at once.",
)
@options.seed
@click.option(
    "-o",
    "--output",
    type=options.PATH,
    default=Path("eval_results.json"),
    show_default=True,
    help="The scores to write.",
)
@options.store
@options.cycle
@options.attempt
@options.again
def command(
    *,
    checkpoints_dir: Path | None,
    val_set: Path | None,
    test_set: Path | None,
    vector_db: Path | None,
    incumbent: Path | None,
    assignments: Path | None,
    chunks: Path | None,
    splits: Path | None,
    output: Path,
    store: str | None,
    cycle: str,
    attempt: int,
    again: bool,
    **flags: Any,
) -> None:
    """Score every checkpoint, what is in service and the bare base model on val and test.

    Perplexity, answers to questions with retrieved mail beside what people really wrote, retrieval recall, fluency;
    with 95 % intervals over threads. The base model is loaded once.

    \b
      refrain evaluate --checkpoints-dir checkpoints/ --val-set val.json --test-set test.json \\
          --vector-db vector_db/ --base-model base/ -o eval_results.json
      refrain evaluate --store s3://bucket/archive --cycle 2019-w40
    """
    from jobs.stages import Inputs, Outputs
    from jobs.stages.evaluate import Config, run

    files = ("checkpoints_dir", "val_set", "test_set", "vector_db", "incumbent", "assignments", "chunks", "splits")
    if options.is_store_alone(store, *files, "output"):
        config = Config(**_with_base(flags, store or ""))
        tell("evaluate", options.in_store("evaluate", config, store or "", cycle, again=again, attempt=attempt))
        return
    if attempt or again:
        raise UsageError("--attempt and --again are for --store")
    if checkpoints_dir is None or val_set is None:
        raise UsageError(
            "needs the checkpoints and the val set",
            hint="refrain evaluate --checkpoints-dir checkpoints/ --val-set val.json --base-model base/",
        )
    paths = named(
        checkpoints=checkpoints_dir,
        val_set=val_set,
        test_set=test_set,
        vector_index=_index_json(vector_db),
        incumbent=incumbent,
        assignments=assignments or val_set.with_name("assignments.json"),
        chunks=chunks,
        messages=splits,
    )
    outputs = {"eval_results": output}
    if output != STANDARD:
        outputs["report"] = STANDARD
    tell("evaluate", run(Config(**_with_base(flags)), Inputs(paths), Outputs(outputs)))


def _index_json(vector_db: Path | None) -> Path | None:
    return vector_db / "index.json" if vector_db is not None and vector_db.suffix != ".json" else vector_db


def _with_base(flags: dict[str, Any], store: str = "") -> dict[str, Any]:
    """The settings with the base model that was named, or the archive's own; UsageError where there is neither."""
    import orjson

    from jobs.contracts.artifacts import BASE_KEY
    from jobs.contracts.store import StoreOptions, open_archive

    if flags["base"] is None and store:
        archive = open_archive(store, StoreOptions.from_environment())
        settled = orjson.loads(archive.get(BASE_KEY)) if archive.exists(BASE_KEY) else {}
        flags |= {"base": settled.get("base"), "revision": flags["revision"] or settled.get("revision")}
    if flags["base"] is None:
        raise UsageError("needs the base model that the checkpoints are of", hint="name it by --base-model")
    return flags
