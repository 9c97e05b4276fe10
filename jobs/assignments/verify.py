"""Whether the log is the one that was committed: chain, rows, checkpoints, data files.

Every segment's digest stands in the next one. So the newest is trusted first, or a head that was
recorded elsewhere, and from there each segment vouches for the one before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from jobs.assignments import checkpoint
from jobs.assignments.archive import Archive
from jobs.assignments.checkpoint_form import Snapshot, same_beginning
from jobs.assignments.row_checks import row_problems
from jobs.assignments.segment import DataFile, Head, SegmentHeader, decode
from jobs.assignments.table import LogTable
from jobs.contracts.artifacts import DATA_KINDS, DELETABLE_KINDS, checkpoint_key, segment_key, segment_seq
from jobs.contracts.errors import IntegrityError, MissingInputError
from jobs.contracts.store import Store
from jobs.progress import progress

_BLOCK_BYTES = 1 << 20
_DELETABLE = tuple(f"{kind}/" for kind in DELETABLE_KINDS)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it was committed."""

    key: str
    """The object that is wrong."""
    what: str


@dataclass(slots=True)
class Report:
    """What `verify` found."""

    head: Head = field(default_factory=Head)
    num_segments: int = 0
    num_rows: int = 0
    num_threads: int = 0
    num_data_files: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is no fault of the log: data files that were deleted, or that no segment names."""


@dataclass(slots=True)
class _Link:
    """A segment as far as the chain is concerned; `damage` says why it could not be read."""

    sha256: str
    header: SegmentHeader | None
    damage: str = ""


def verify(archive: Archive, *, deep: bool = False, head: Head | None = None) -> Report:
    """Check the whole log, also against a head that was recorded elsewhere; `deep` reads every data file too.

    Raises only what stops the reading itself, such as TransientError.
    """
    store = archive.store
    report = Report()
    checkpoints = _checkpoints(archive, report)
    links = {seq: _link(store, seq) for seq in progress(_seqs(store), "segments", unit="segment")}
    last = max([*links, *checkpoints, head.seq if head else -1], default=-1)
    report.num_segments = len(links)
    report.problems += _chain_problems(links, last, _vouched_for(checkpoints, head))
    if any(problem.key.startswith("assignments/") for problem in report.problems):
        report.notes.append("rows, checkpoints and data files were not compared, since the chain is broken")
        return report
    headers = [link.header for _, link in sorted(links.items()) if link.header is not None]
    if headers:
        report.head = Head(last, links[last].sha256)
    _check_rows(archive, headers, checkpoints, report)
    _check_data_files(store, headers, report, deep=deep)
    return report


def _seqs(store: Store) -> list[int]:
    seqs = (segment_seq(key) for key in store.list("assignments/"))
    return [seq for seq in seqs if seq is not None]


def _checkpoints(archive: Archive, report: Report) -> dict[int, Snapshot]:
    """The checkpoints that are sound in themselves; the others are reported."""
    sound = {}
    for seq in checkpoint.newest(archive.store):
        try:
            sound[seq] = checkpoint.read(archive.store, seq, digests=True)
        except checkpoint.UnsoundCheckpointError as error:
            report.problems.append(Problem(checkpoint_key(seq), f"{error.what}; delete it, it is made again"))
    return sound


def _link(store: Store, seq: int) -> _Link:
    data = store.get(segment_key(seq))
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        header = decode(data).header
    except IntegrityError as error:
        return _Link(sha256, None, error.what)
    if header.seq != seq:
        return _Link(sha256, None, f"it says that it is segment {header.seq}")
    return _Link(sha256, header)


def _vouched_for(checkpoints: dict[int, Snapshot], head: Head | None) -> dict[int, tuple[str, str]]:
    """Digests that segments must have by what stands outside of the chain, and who says so."""
    vouched = {seq: (found.head.sha256, f"checkpoint {seq} was made from") for seq, found in checkpoints.items()}
    if head is not None and head.seq >= 0:
        vouched[head.seq] = (head.sha256, "the recorded head has")
    return vouched


def _chain_problems(links: dict[int, _Link], last: int, vouched: dict[int, tuple[str, str]]) -> list[Problem]:
    """What is wrong with the chain, in its order; found from its end."""
    problems = []
    expected = ("", "")
    for seq in range(last, -1, -1):
        link = links.get(seq)
        expected = vouched.get(seq, expected)
        if link is None:
            what = f"segment {seq} is missing"
        elif link.header is None:
            what = f"segment {seq} is damaged: {link.damage}"
        elif expected[0] and expected[0] != link.sha256:
            what = (
                f"segment {seq} was damaged or rewritten: its digest is {link.sha256[:16]}…, "
                f"{expected[1]} {expected[0][:16]}…"
            )
        else:
            expected = (link.header.prev_sha256, f"segment {seq} follows")
            if seq == 0 and link.header.prev_sha256:
                problems.append(Problem(segment_key(0), "segment 0 says that another one came before it"))
            continue
        problems.append(Problem(segment_key(seq), what))
        expected = ("", "")  # what is wrong itself cannot vouch for the one before
    return problems[::-1]


def _check_rows(
    archive: Archive, headers: list[SegmentHeader], checkpoints: dict[int, Snapshot], report: Report
) -> None:
    table = LogTable(digests=True)
    try:
        table.extend(archive.log.segments(upto=len(headers) - 1))
        if headers:
            archive.log.read(len(headers) - 1).rows()  # no other segment vouches for the newest: every field is read
    except IntegrityError as error:
        report.problems.append(Problem(error.where or segment_key(len(headers) - 1), error.what))
        return
    report.num_rows, report.num_threads = len(table), table.num_threads
    report.problems += [Problem(segment_key(seq), what) for seq, what in row_problems(table, headers)]
    whole = Snapshot(report.head, headers, table)
    for seq, found in checkpoints.items():
        if not same_beginning(whole, found):
            what = f"checkpoint {seq} is not what its segments give; delete it, it is made again"
            report.problems.append(Problem(checkpoint_key(seq), what))


def _check_data_files(store: Store, headers: list[SegmentHeader], report: Report, *, deep: bool) -> None:
    named = {file.key: file for header in headers for files in header.files.values() for file in files}
    present = {key for kind in DATA_KINDS for key in store.list(f"{kind}/")}
    report.num_data_files = len(named)
    gone = sorted(named.keys() - present)
    if deleted := [key for key in gone if key.startswith(_DELETABLE)]:
        report.notes.append(f"{len(deleted)} data files are gone, the first of them {deleted[0]}")
    for key in gone:
        if not key.startswith(_DELETABLE):
            report.problems.append(Problem(key, "missing, and no import goes on without it; bring it back"))
    if unnamed := sorted(present - named.keys()):
        report.notes.append(f"{len(unnamed)} data files are of no commit (a writer was stopped, or is at work now)")
    if deep:
        there = [file for key, file in named.items() if key in present]
        report.problems += _damaged(store, there)


def _damaged(store: Store, files: list[DataFile]) -> Iterator[Problem]:
    for file in progress(files, "data files", unit="file"):
        sha256 = hashlib.sha256()
        try:
            with store.open(file.key) as stream:
                while block := stream.read(_BLOCK_BYTES):
                    sha256.update(block)
        except MissingInputError:
            continue
        if (found := sha256.hexdigest()) != file.sha256:
            yield Problem(file.key, f"damaged: its digest is {found[:16]}…, the log says {file.sha256[:16]}…")
