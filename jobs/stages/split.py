"""split: threads, windows and the immutable split of all new mail.

The only stage that writes the assignments log, and it only adds. A second run over the same mail
adds nothing; one that was killed behind a commit finds its own segments and tells of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jobs.assignments.archive import Archive
from jobs.assignments.checkpoint_form import Snapshot
from jobs.assignments.segment import Head, SegmentHeader
from jobs.contracts.errors import ConfigError, InputError, MissingInputError, OutputError, UsageError
from jobs.contracts.folder_store import LOCK, unless_unused
from jobs.contracts.records import SPLITS, Json, short_digest
from jobs.files import STANDARD, one_at_a_time, read_json, read_records, require_writable, scratch_folder
from jobs.intake.commit import OvertakenError, WindowWriter
from jobs.intake.cutting import Cutter
from jobs.intake.decoding import PARSE_HINT, Settings, decode_all, is_mail_record
from jobs.intake.exports import archive_folder, export_all, export_split, require_one_form
from jobs.intake.known import Known
from jobs.intake.original import is_to_be_taken_over, take_over
from jobs.intake.overlap import Overlap
from jobs.intake.placing import SplitRule, place, whole_ratios
from jobs.intake.spool import Spool
from jobs.mail.decode import TextOptions
from jobs.mail.template import TEMPLATE_DIGEST
from jobs.mail.windows import Period, WindowSettings
from jobs.ml.tokens import WHITESPACE, TokenCounter, WhitespaceCounter, load_token_counter
from jobs.progress import progress
from jobs.stages import Inputs, Outputs, how

Quotes = Literal["in-thread", "all", "none"]


DEFAULT_RATIOS = (80, 10, 10)
DEFAULT_SEED = 42
DEFAULT_MAX_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Config:
    """How mail is split. All but the last three are fixed by an archive's first import; None is as it has them."""

    seed: int | None = None
    ratios: tuple[str | float, str | float, str | float] | None = None
    """Weights of train, val and test."""
    window_size: int | None = None
    window_overlap: int | None = None
    max_tokens: int | None = None
    tokenizer: str | None = None
    quotes: Quotes | None = None
    text: TextOptions | None = None
    window_period: Period | None = None
    """How a first import is cut into windows; each later one is one window."""
    incremental: bool = True
    """Whether mail may be added to an archive that holds some."""
    workers: int | None = how(None)


def run(config: Config, inputs: Inputs, outputs: Outputs) -> Json:  # noqa: ARG001 - it writes to the archive alone
    """Add all mail that is new to the archive's log; what was added, and the newest window_idx.

    Raises ConfigError where the archive was begun with other settings.
    """
    archive = inputs.archive
    assert archive is not None, "split writes to an archive"
    counter = load_token_counter(config.tokenizer or WHITESPACE)
    parameters = _parameters(config, counter, archive)
    with scratch_folder("refrain-split-") as folder, Spool(folder) as spool:
        known = Known(archive)
        text = TextOptions(**parameters["text"])
        settings = Settings(config.tokenizer or WHITESPACE, text, known.contents)
        spool.fill(decode_all(_records(inputs), settings, config.workers))
        cycle = inputs.cycle or _cycle_of(spool)
        importer = _Importer(archive, spool, parameters, counter, config, cycle, _cursors(inputs))
        while not importer.run(known):
            known = Known(archive)
        num_mails = len(spool) + len(spool.known_contents)
    return _result(archive, cycle, num_mails)


@dataclass(frozen=True, slots=True)
class _Importer:
    """Plans the windows of an import and commits them."""

    archive: Archive
    spool: Spool
    parameters: Json
    counter: TokenCounter
    config: Config
    cycle: str
    cursors: Json

    def run(self, known: Known) -> bool:
        """Plan on what the archive holds, and commit; False where another writer was first."""
        parameters = self.parameters
        rule = SplitRule(parameters["seed"], tuple(parameters["ratios"]))
        # One that was killed goes on as it began: then all that is there is of this cycle.
        is_first = all(header.cycle == self.cycle for header in known.headers)
        placed = place(self.spool, known, rule, self.config.window_period if is_first else None)
        if placed.windows and known.num_threads and not self.config.incremental:
            raise ConfigError(
                f"the archive holds mail, and {len(placed.new_mails())} new mails would be added to it",
                where=self.archive.store.url,
                hint="say --incremental to add them",
            )
        windows = WindowSettings(parameters["max_tokens"], parameters["window_size"], parameters["window_overlap"])
        cutter = Cutter(self.spool, placed, known, windows, self.counter, quotes=parameters["quotes"])
        overlap = Overlap(self.archive, self.spool, placed, cutter)
        writer = WindowWriter(
            self.archive,
            self.spool,
            placed,
            cutter=cutter,
            overlap=overlap,
            parameters=parameters,
            cycle=self.cycle,
        )
        head = known.head
        try:
            for window in progress(placed.windows, "windows", unit="window"):
                # The mailboxes have been read to the end of the last window, not before.
                cursors = self.cursors if window is placed.windows[-1] else {}
                head = writer.commit(window, cursors, head)
        except OvertakenError:
            return False
        self.archive.write_checkpoint()
        return True


def _records(inputs: Inputs) -> Iterator[Json]:
    paths = sorted(inputs.paths["messages"], key=lambda path: (path.name, path))
    records = chain.from_iterable(map(_mail_records, paths))
    return iter(progress(records, "decoding", unit="mail"))


def _mail_records(path: Path) -> Iterator[Json]:
    """The records of a file; InputError says where one is not of a mail."""
    try:
        for number, record in enumerate(read_records(path), 1):
            if not is_mail_record(record):
                raise InputError("a record without `email_message`", where=f"{path}, record {number}")
            yield record
    except InputError as error:
        if isinstance(error.__cause__, OSError):
            raise
        raise InputError(error.what, where=error.where, hint=error.hint or PARSE_HINT) from error


def _cursors(inputs: Inputs) -> Json:
    return read_json(inputs.one("cursor")) if inputs.paths.get("cursor") else {}


def _cycle_of(spool: Spool) -> str:
    """A name for an import that belongs to no cycle: the same mail has the same."""
    contents = sorted([*spool.contents, *spool.known_contents])
    return "import-" + short_digest("".join(contents))[:12]


def _parameters(config: Config, counter: TokenCounter, archive: Archive) -> Json:
    """The archive's settings: those it was begun with, else the ones asked for.

    Raises ConfigError where one was asked for that differs.
    """
    asked = {
        "seed": config.seed,
        "ratios": list(whole_ratios(config.ratios)) if config.ratios else None,
        "window_size": config.window_size,
        "window_overlap": config.window_overlap,
        "max_tokens": config.max_tokens,
        "quotes": config.quotes,
        "text": asdict(config.text) if config.text else None,
        "tokenizer": counter.digest if config.tokenizer else None,
        "template": TEMPLATE_DIGEST,
    }
    begun_with = archive.log.parameters()
    if begun_with is None:
        return {name: _DEFAULTS.get(name) if value is None else value for name, value in asked.items()}
    for name, value in asked.items():
        if value is not None and value != begun_with.get(name):
            raise ConfigError(
                f"{_FLAGS[name]} is {_said(name, value)}, but the archive was begun with "
                f"{_said(name, begun_with.get(name))}",
                where=archive.store.url,
                hint="leave the flag out to use the archive's setting, or begin a new archive",
            )
    if counter.digest != begun_with["tokenizer"]:
        raise ConfigError(
            f"the archive counts tokens by a tokenizer with digest {begun_with['tokenizer']}",
            where=archive.store.url,
            hint="name that tokenizer with --tokenizer",
        )
    return begun_with


_FLAGS = {
    "seed": "--seed",
    "ratios": "--ratios",
    "window_size": "--window-size",
    "window_overlap": "--window-overlap",
    "max_tokens": "--max-tokens",
    "quotes": "--quotes",
    "text": "--keep",
    "tokenizer": "--tokenizer",
    "template": "this version's template of a message",
}


def _said(name: str, value: Any) -> str:
    """A setting as its flag would have it."""
    if name == "ratios":
        return ":".join(map(str, value))
    if name == "text":
        kept = sorted(key.removeprefix("strip_") for key, stripped in value.items() if not stripped)
        return " ".join(kept) or "nothing"
    return "no limit" if value is None else str(value)


_DEFAULTS: Json = {
    "seed": DEFAULT_SEED,
    "ratios": list(DEFAULT_RATIOS),
    "window_size": None,
    "window_overlap": 0,
    "max_tokens": DEFAULT_MAX_TOKENS,
    "quotes": "in-thread",
    "text": asdict(TextOptions()),
    "tokenizer": WhitespaceCounter.digest,
}


def _result(archive: Archive, cycle: str, num_mails: int) -> Json:
    """What the cycle has added, as the log tells it: the same after a restart."""
    snapshot = archive.snapshot()
    own = [header for header in snapshot.headers if header.cycle == cycle]
    windows = [header.window_idx for header in own]
    last = snapshot.headers[-1].window_idx if snapshot.headers else -1
    rows = np.isin(snapshot.table.window_idx, windows)
    messages = {split: _num_rows(own, "messages", split) for split in SPLITS}
    num_new = sum(messages.values())
    return {
        "window_idx": windows[-1] if windows else last,
        "num_windows": len(windows),
        "num_mails": num_mails,
        "num_new": num_new,
        "num_in_archive_or_twice": max(0, num_mails - num_new),
        "num_threads": len(np.unique(snapshot.table.thread[rows])),
        "num_messages": messages,
        "num_chunks": {split: _num_rows(own, "chunks", split) for split in SPLITS},
        "num_joins": _num_rows(own, "links", "links"),
        "num_exclusions": _num_rows(own, "exclusions", "exclusions"),
        "log": _head_behind(snapshot, own),
    }


def _head_behind(snapshot: Snapshot, own: Sequence[SegmentHeader]) -> Json | None:
    """The log's head when the cycle had committed, whatever others have added since; None: the log is empty.

    Of a cycle that has added nothing it is the newest segment.
    """
    if not snapshot.headers:
        return None
    last = own[-1] if own else snapshot.headers[-1]
    behind = snapshot.headers[last.seq + 1 :]
    return asdict(Head(last.seq, behind[0].prev_sha256 if behind else snapshot.head.sha256))


def _num_rows(headers: Sequence[SegmentHeader], kind: str, name: str) -> int:
    """Rows of the data files of some segments, of a kind and name."""
    files = (file for header in headers for file in header.files.get(kind, ()))
    return sum(file.num_rows for file in files if f"/{name}-" in file.key)


def split_files(
    config: Config,
    sources: Sequence[Path],
    assignments: Path,
    *,
    output: Path | None = None,
    named: Sequence[Path] = (),
    shard_size: int | None = None,
) -> Json:
    """Split plain files: add to the archive beside `assignments`, and write it and its splits out anew.

    `named` are the three files of the splits, where they are wanted elsewhere than in the folder `output`.
    Assignments of the original's shape, without an archive, are taken over first. Waits where another process
    is at it: else the files of the one that was first could take the place of the other's.
    """
    if assignments.exists() and not assignments.is_file():
        raise UsageError("not a file", where=str(assignments), hint="name the assignments.json with -m")
    paths = [path for source in sources for path in _parsed_files(source)]
    splits = output or assignments.parent / "splits"
    targets = [*named] or [splits / f"{split}.json" for split in SPLITS]
    for target in targets:
        if target.is_file() or not target.exists():
            require_writable(target.parent)
    if not named:
        require_one_form(splits, shard_size)
    folder = archive_folder(assignments)
    with _archive(folder) as archive:
        if assignments.exists() and is_to_be_taken_over(archive):
            counter = load_token_counter(config.tokenizer or WHITESPACE)
            records = named or (sorted(splits.glob("*.json*")) if splits.is_dir() else [])
            take_over(archive, assignments, records, _parameters(config, counter, archive))
        before = archive.log.head()
        result = run(config, Inputs({"messages": paths}, archive), Outputs())
        if result["num_new"] and archive.log.head() == before:
            result["notes"] = ["this very mail was split before: these are that run's numbers, nothing was added now"]
        if not result["num_mails"]:
            raise InputError("no records in it", where=", ".join(map(str, sources)), hint=PARSE_HINT)
        try:
            export_all(archive, assignments)
            for split, path in zip(SPLITS, targets, strict=True):
                export_split(archive, split, path, shard_size)
        except OutputError as error:
            hint = "; ".join(filter(None, [_EXPORT_HINT, error.hint]))
            raise OutputError(error.what, where=error.where, hint=hint) from error
    return result


_EXPORT_HINT = "the mail is in the archive, and the same command again finishes the export"


@contextmanager
def _archive(folder: Path) -> Iterator[Archive]:
    """The archive in a folder, for one process at a time; one that nothing was committed to is not left behind."""
    with unless_unused(folder):
        archive = Archive.open(str(folder))
        with one_at_a_time(folder / LOCK):
            yield archive


def _parsed_files(source: Path) -> list[Path]:
    """A file, or the files of parsed mail in a folder, by name."""
    if not source.is_dir():
        if source != STANDARD and not source.exists():
            raise MissingInputError("no such file or folder", where=str(source))
        return [source]
    names = ("*.json", "*.jsonl", "*.json.gz", "*.jsonl.gz", "*.json.zst", "*.jsonl.zst")
    found = sorted(path for name in names for path in source.glob(name) if ".rejects." not in path.name)
    if not found:
        raise MissingInputError("no parsed mail in this folder", where=str(source), hint="`refrain parse` writes some")
    return found
