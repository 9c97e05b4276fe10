"""Where every new mail of an import goes: which window, and which thread with which split.

Nothing is cut or written here; texts are not looked at.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from jobs.contracts.errors import ConfigError
from jobs.contracts.records import SPLITS, Split
from jobs.intake.known import Known
from jobs.intake.spool import Spool
from jobs.mail.threading import UNKNOWN, Join, ThreadGraph
from jobs.mail.windows import Period, period_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEVER = np.iinfo(np.int32).max
"""Window of a node that is no mail of the archive: a ghost."""

_OWN_ID_CHARS = (8, 32)
"""Of the content digest in a mail's own id; all of it where another mail's Message-ID is the shorter one."""
_THREAD_ID_CHARS = 24


@dataclass(frozen=True, slots=True)
class SplitRule:
    """How threads are split: fixed for the life of an archive."""

    seed: int
    ratios: tuple[int, int, int]
    """Weights of train, val and test."""

    def split_of(self, thread_id: str) -> Split:
        """The split of a thread: where its hash falls among the ratios."""
        total = sum(self.ratios)
        reached = 0
        for split, weight in zip(SPLITS, self.ratios, strict=True):
            reached += weight
            if self._hash(thread_id) * total < reached << 64:  # in whole numbers: equal everywhere
                return split
        raise AssertionError("a hash is below 2^64")

    def position(self, thread_id: str) -> float:
        """The hash of a thread as a share of the whole, 0 to 1."""
        return self._hash(thread_id) / 2**64

    def _hash(self, thread_id: str) -> int:
        """The first 8 bytes of SHA-256(seed, thread id)."""
        return int.from_bytes(hashlib.sha256(f"{self.seed}{thread_id}".encode()).digest()[:8], "big")


def whole_ratios(weights: Sequence[str | float]) -> tuple[int, int, int]:
    """Weights of train, val and test as whole numbers: percents where they are, so that 8:1:1 is 80:10:10.

    ConfigError for what are not three finite numbers of which none is negative and the first is not 0.
    """
    try:
        shares = [Fraction(str(weight).strip()) for weight in weights]
    except (ValueError, ZeroDivisionError):
        shares = []
    if len(shares) != len(SPLITS) or min(shares) < 0 or not shares[0]:
        shown = ":".join(map(str, weights))
        raise ConfigError(f"not shares of train, val and test: {shown}", where="ratios", hint="write them as 80:10:10")
    percents = [100 * share / sum(shares) for share in shares]
    scale = math.lcm(*(percent.denominator for percent in percents))
    train, val, test = (int(percent * scale) for percent in percents)
    common = math.gcd(train, val, test) if scale > 1 else 1
    return train // common, val // common, test // common


@dataclass(slots=True)
class Placement:
    """The mails of one window, in canonical order."""

    window_idx: int
    period: str
    mails: list[int]
    joins: list[Join] = field(default_factory=list)
    """Their messages are mails' numbers."""


@dataclass(slots=True)
class Placed:
    """Where the mails of an import go."""

    known: Known
    windows: list[Placement]
    nodes: array[int]
    """Each mail's own node: of its Message-ID, or of its own id where another mail has that one."""
    node_window: list[int]
    """The window in which a node's mail came: -1 for one that was in the archive before, NEVER for ghosts."""
    mail_thread: NDArray[np.int32]
    """Thread number of each mail; UNKNOWN for one that is in the archive already."""
    mail_window: NDArray[np.int32]
    thread_ids: list[str]
    """Ids of the threads that are new; their numbers follow the archive's."""
    splits: list[Split]
    """Splits of the new threads."""
    duplicates: int = 0
    """Mails that came twice in this import, or were in the archive."""
    same_id: set[int] = field(default_factory=set)
    """Mails that have the Message-ID of another mail."""

    def thread_id(self, thread: int) -> str:
        """The id of a thread, of the archive or new."""
        new = thread - self.known.num_threads
        return self.known.thread_id(thread) if new < 0 else self.thread_ids[new]

    def split(self, thread: int) -> Split:
        """The split of a thread, of the archive or new."""
        new = thread - self.known.num_threads
        return self.known.split(thread) if new < 0 else self.splits[new]

    def new_mails(self) -> NDArray[np.int64]:
        """The mails that are not in the archive yet."""
        return np.flatnonzero(self.mail_thread != UNKNOWN)

    def is_new(self, mails: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these mails are not in the archive yet."""
        return np.asarray(self.mail_thread[mails] != UNKNOWN)

    def is_train(self, mails: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these new mails stand on the train side."""
        return np.array([self.split(thread) == "train" for thread in self.mail_thread[mails].tolist()], dtype=bool)


def canonical_order(spool: Spool) -> list[int]:
    """The mails by date, then Message-ID, then content: the order in which everything is done."""
    ids = spool.node_ids
    return sorted(range(len(spool)), key=lambda mail: (spool.dates[mail], ids[spool.nodes[mail]], spool.contents[mail]))


def place(spool: Spool, known: Known, rule: SplitRule, period: Period | None) -> Placed:
    """Place the new mails of an import: exactly as one import per period would have placed them."""
    nodes = array("i", spool.nodes)
    own_reference: dict[int, int] = {}
    fresh, duplicates = _new_mails(spool, known, nodes, own_reference)
    thread, present = known.nodes(spool.node_ids)
    if known.num_threads:  # of what was taken over, texts being deleted, a root may be known by its thread's id alone
        new = np.flatnonzero(thread == UNKNOWN)
        thread[new] = known.threads([thread_id_of(spool.node_ids[node]) for node in new.tolist()])
    placed = Placed(
        known=known,
        windows=_windows(spool, known, fresh, period),
        nodes=nodes,
        node_window=np.where(present, -1, NEVER).tolist(),
        mail_thread=np.full(len(spool), UNKNOWN, dtype=np.int32),
        mail_window=np.full(len(spool), NEVER, dtype=np.int32),
        thread_ids=[],
        splits=[],
        duplicates=duplicates,
        same_id=set(own_reference),
    )
    ranks = _Ranks(known, placed)
    graph = ThreadGraph(thread, known.num_threads, ranks.of, known.links)
    for window in placed.windows:
        _thread_window(spool, graph, window, placed, own_reference)
        for _ in range(len(placed.thread_ids) - len(ranks.first_window)):
            ranks.first_window.append(window.window_idx)
    placed.splits = [rule.split_of(thread_id) for thread_id in placed.thread_ids]
    return placed


class _Ranks:
    """Which of two threads is the lower: by first window, then id."""

    def __init__(self, known: Known, placed: Placed) -> None:
        self._known = known
        self._placed = placed
        self.first_window: list[int] = []
        """Of the new threads."""

    def of(self, thread: int) -> tuple[int, str]:
        new = thread - self._known.num_threads
        if new < 0:
            return self._known.first_window(thread), self._known.thread_id(thread)
        return self.first_window[new], self._placed.thread_ids[new]


def _new_mails(spool: Spool, known: Known, nodes: array[int], own_reference: dict[int, int]) -> tuple[list[int], int]:
    """The mails that are not in the archive, in canonical order, and how many others there are.

    A mail with another mail's Message-ID and other content gets its own id, and refers to that other one.
    """
    ids = spool.node_ids
    in_archive = known.has_contents(spool.contents)
    taken = known.has_messages(ids)
    whole = known.has_whole(ids)
    seen: set[str] = set()
    claimed: set[int] = set()
    fresh = []

    def is_free(message_id: str) -> bool:
        return spool.node(message_id) not in claimed and not known.has_messages([message_id])[0]

    for mail in canonical_order(spool):
        content = spool.contents[mail]
        if in_archive[mail] or content in seen or whole[nodes[mail]]:
            continue
        seen.add(content)
        node = nodes[mail]
        if node in claimed or taken[node]:
            own_reference[mail] = node
            own_ids = [f"{ids[node]}#{content[:chars]}" for chars in _OWN_ID_CHARS]
            nodes[mail] = spool.node(next(filter(is_free, own_ids), own_ids[-1]))
        claimed.add(nodes[mail])
        fresh.append(mail)
    return fresh, len(spool) - len(fresh)


def _windows(spool: Spool, known: Known, fresh: list[int], period: Period | None) -> list[Placement]:
    """The new mails by window. Late mail goes into the first new one, never into an older one."""
    if not fresh:
        return []
    next_window = known.last_window + 1
    if period is None:
        return [Placement(next_window, "", fresh)]
    last = known.last_period(period)
    keys = {mail: period_of(spool.dates[mail], period) for mail in fresh}
    first_new = min((key for key in keys.values() if key > last), default=last)
    by_period: dict[str, list[int]] = {}
    for mail in fresh:
        by_period.setdefault(max(keys[mail], first_new), []).append(mail)
    return [Placement(next_window + number, key, by_period[key]) for number, key in enumerate(sorted(by_period))]


def _thread_window(
    spool: Spool, graph: ThreadGraph, window: Placement, placed: Placed, own_reference: dict[int, int]
) -> None:
    mails = window.mails
    references = [spool.references(mail) for mail in mails]
    for number, mail in enumerate(mails):
        if mail in own_reference:
            references[number] = [*references[number], own_reference[mail]]
    messages = np.array([placed.nodes[mail] for mail in mails], dtype=np.int32)
    offsets = np.cumsum([0, *map(len, references)], dtype=np.int64)
    refs = np.fromiter(chain.from_iterable(references), dtype=np.int32, count=int(offsets[-1]))
    assigned = graph.assign(messages, offsets, refs)
    placed.mail_thread[mails] = assigned.thread
    placed.mail_window[mails] = window.window_idx
    for node in messages.tolist():
        placed.node_window[node] = window.window_idx
    placed.thread_ids += [thread_id_of(spool.node_ids[root]) for root in assigned.new_roots.tolist()]
    window.joins = [Join(mails[join.message], join.thread, join.other) for join in assigned.joins]


def thread_id_of(root_message_id: str) -> str:
    """The id of a thread, from the Message-ID of its root."""
    return "thread_" + hashlib.sha256(root_message_id.encode("utf-8", "surrogatepass")).hexdigest()[:_THREAD_ID_CHARS]
