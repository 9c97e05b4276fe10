"""`refrain index`: passages and their embeddings."""

from __future__ import annotations

from pathlib import Path

import click

from jobs.cli import options
from jobs.cli.replay_options import named, tell


@click.command(name="index")
@click.option("--assignments", type=options.PATH, help="The assignments.  [default: assignments.json]")
@click.option("--splits", type=options.Place(path_type=Path), help="The decoded mails.  [default: splits/ beside it]")
@click.option(
    "--vector-db",
    type=options.Place(path_type=Path),
    default=Path("vector_db"),
    show_default=True,
    help="Folder of the index: index.json and parts/.",
)
@click.option(
    "--embedding-model",
    default="sentence-transformers/all-MiniLM-L6-v2",
    show_default=True,
    help="Any sentence-transformers model: a name on the hub, a folder, or package:NAME of a Python package.",
)
@click.option("--embedding-revision", help="Its commit on the hub.")
@click.option("--device", help="Where to compute: cpu, cuda, mps.  [default: the best there is]")
@click.option("--workers", type=click.IntRange(1), help="Threads of the CPU.  [default: all CPUs]")
@click.option(
    "--faiss",
    type=options.Place(path_type=Path),
    help="With plain files: also write all vectors as an IndexFlatIP, and their passages as .jsonl beside it.",
)
@options.store
@options.cycle
@options.again
def command(
    *,
    assignments: Path | None,
    splits: Path | None,
    vector_db: Path,
    embedding_model: str,
    embedding_revision: str | None,
    device: str | None,
    workers: int | None,
    faiss: Path | None,
    store: str | None,
    cycle: str,
    again: bool,
) -> None:
    """Embed the passages of all mail into the index; what is embedded already is not embedded again.

    A passage is a mail, or a part of one that the embedding model can read at once. Passages of mail
    that has been deleted leave the index.

    \b
      refrain index --assignments assignments.json --vector-db vector_db/
    """
    from jobs.stages import Inputs, Outputs
    from jobs.stages.index import Config, run

    config = Config(embedding_model, embedding_revision, device, workers)
    if options.is_store_alone(store, "assignments", "splits", "vector_db", "faiss"):
        tell("index", options.in_store("index", config, store or "", cycle, again=again))
        return
    paths = named(assignments=assignments or Path("assignments.json"), messages=splits)
    tell("index", run(config, Inputs(paths), Outputs({"vector_index": vector_db / "index.json"})))
    if faiss is not None:
        from jobs.ml.faiss_file import write_faiss
        from jobs.ml.vector_index import Index

        write_faiss(Index.open(vector_db / "index.json"), faiss)
