"""`refrain select`: which checkpoint wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from jobs.cli import options
from jobs.contracts.errors import UsageError

_STRATEGIES = {"lowestloss": "LowestLoss", "loss": "LowestLoss", "weighted": "Weighted", "pareto": "Pareto"}


def _strategy(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    name = _STRATEGIES.get(value.lower().replace("_", "").replace("-", ""))
    if name is None:
        raise UsageError(f"no such strategy: {value}", where="--strategy", hint="LowestLoss, Weighted or Pareto")
    return name


def _weights(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[tuple[str, float], ...]:
    from jobs.selection.rules import checked_weights, weights_of

    return checked_weights(weights_of(value))


def _thresholds(_context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    from jobs.selection.rules import threshold_of

    return tuple(str(threshold_of(one)) for one in value)


def _ladder(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, ...]:
    from jobs.selection.ladder import read_ladder

    return tuple(map(str, read_ladder(value)))


@click.command(name="select")
@click.argument("results", type=options.Place(path_type=Path), nargs=-1, metavar="[EVAL_RESULTS]...")
@click.option(
    "--strategy",
    metavar="[LowestLoss|Weighted|Pareto]",
    default="Weighted",
    show_default=True,
    callback=_strategy,
    help="By val loss, by a weighted sum, or from the front of loss and RAG accuracy.",
)
@click.option(
    "--weights",
    default="ppl:0.5,rag:0.5",
    show_default=True,
    callback=_weights,
    help="Of 1 / val perplexity, RAG accuracy and retrieval recall.",
)
@click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    callback=_thresholds,
    metavar="RULE",
    help="What every candidate must reach, as 'val_perplexity <= 15'. May be given several times.",
)
@click.option(
    "--improvement-threshold",
    type=click.FloatRange(0, 10),
    default=0.02,
    show_default=True,
    help="Gain over what is in service below which it is trained again.",
)
@click.option(
    "--max-retrain-attempts", type=click.IntRange(0, 10), default=2, show_default=True, help="How often it may."
)
@click.option(
    "--ladder",
    default="0.5,0.25:cap",
    show_default=True,
    callback=_ladder,
    help="How it then trains: the learning rate's factor for each attempt; :cap rehearses as much as may be.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 1, max_open=True),
    default=0.95,
    show_default=True,
    help="Of the interval that must lie above zero.",
)
@click.option(
    "--min-threads",
    type=click.IntRange(2),
    default=12,
    show_default=True,
    help="Val threads in the half that judges; with fewer the incumbent stays.",
)
@click.option("--no-gate", is_flag=True, help="Take the best checkpoint, whatever is in service.")
@click.option(
    "--checkpoint-dir",
    "--checkpoints-dir",
    type=options.Place(path_type=Path),
    help="Where the checkpoints lie. Without EVAL_RESULTS the lowest eval_loss of its trainer_state.json wins.",
)
@click.option("--link", type=options.Place(path_type=Path), help="A link to the winner, moved atomically.")
@click.option(
    "--retrain-cmd",
    metavar="CMD",
    help="Run where the gain is too small, then the results are read again. "
    "{ATTEMPT}, {LEARNING_RATE_FACTOR}, {CHECKPOINT} are filled in.",
)
@click.option("--merge-cmd", metavar="CMD", help="Run when the winner is chosen; {CHECKPOINT} is filled in.")
@click.option("--freeze", is_flag=True, help="Make the winner read-only, and record its digests.")
@click.option(
    "-o",
    "--output",
    type=options.Place(path_type=Path),
    default=Path("best_checkpoint.txt"),
    show_default=True,
    help="Where the winner's path is written.",
)
@click.option(
    "--decision",
    type=options.Place(path_type=Path),
    help="The decision, with why each other one lost.  [default: decision.json beside the output]",
)
@options.store
@options.cycle
@options.attempt
@options.again
def command(
    *,
    results: tuple[Path, ...],
    store: str | None,
    cycle: str,
    attempt: int,
    again: bool,
    no_gate: bool,
    checkpoint_dir: Path | None,
    output: Path,
    decision: Path | None,
    freeze: bool,
    link: Path | None,
    retrain_cmd: str | None,
    merge_cmd: str | None,
    **settings: Any,
) -> None:
    """Choose the best checkpoint, and say whether it may replace what is in service.

    One half of the val threads chooses, the other judges. Where the evidence is too thin, or the winner no
    better, the incumbent stays: that is a success too.

    \b
      refrain select eval_results.json --checkpoint-dir checkpoints --link best -o best_checkpoint.txt
      refrain select eval_results.json --weights "ppl:0.4,rag:0.4,recall:0.2" \\
          --threshold "val_perplexity <= 15" \\
          --merge-cmd "refrain merge --adapter {CHECKPOINT} --out merged"
      refrain select --checkpoint-dir checkpoints
    """
    from jobs.stages.select import Config

    files = ("results", "checkpoint_dir", "output", "decision", "freeze", "link", "retrain_cmd", "merge_cmd")
    if options.is_store_alone(store, *files):
        config = Config(is_gated=not no_gate, **settings)
        _over_store(config, store or "", cycle, attempt=attempt, again=again)
        return
    from jobs.cli.select_files import Files, select

    if not results and checkpoint_dir is None:
        results = (Path("eval_results.json"),)
    if not results:
        settings["strategy"] = _by_loss_alone(settings["strategy"])
    config = Config(is_gated=not no_gate, may_retrain=retrain_cmd is not None, **settings)
    decision = decision or output.with_name("decision.json")
    named = Files(results, checkpoint_dir, output, decision, link, retrain_cmd, merge_cmd, freeze)
    said = select(config, named, _say)
    for note in said["notes"]:
        _say(f"refrain: note: {note}")


def _by_loss_alone(strategy: str) -> str:
    given = click.get_current_context().get_parameter_source("strategy") is ParameterSource.COMMANDLINE
    if given and strategy != "LowestLoss":
        raise UsageError(f"{strategy} needs scores: trainer_state.json has losses alone", hint="name EVAL_RESULTS")
    return "LowestLoss"


def _over_store(config: Any, store: str, cycle: str, *, attempt: int, again: bool) -> None:
    import orjson

    from jobs.contracts.artifacts import artifact_key
    from jobs.contracts.store import StoreOptions, open_archive
    from jobs.selection.report import sentence_of, table_of

    options.in_store("select", config, store, cycle, again=again, attempt=attempt)
    opened = open_archive(store, StoreOptions.from_environment())
    said = orjson.loads(opened.get(artifact_key(cycle, "select", "decision", attempt)))
    for line in [*table_of(said), sentence_of(said), *(f"refrain: note: {note}" for note in said["notes"])]:
        _say(line)


def _say(text: str) -> None:
    click.echo(text, err=True)
