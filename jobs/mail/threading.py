"""Messages to threads: by References, then In-Reply-To, never by subject alone.

A thread is a connected component of the graph whose edges join a message with each message that it
refers to; a message that is referred to and not there is a *ghost*. Inside a thread the tree of RFC
5256 (REFERENCES, after Jamie Zawinski) says who answers whom. A thread that has been written is
frozen: `ThreadGraph` puts new messages into the threads that there are and never moves one.

Everything works on nodes: small integers that the caller gave to Message-IDs, ghosts included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

UNKNOWN = -1


def thread_references(references: Sequence[str], in_reply_to: Sequence[str]) -> list[str]:
    """What a message refers to, oldest first: its References, and its In-Reply-To where that adds something.

    An In-Reply-To of several ids often holds addresses (RFC 5256 takes the first); beside References
    it counts only where it is a single id.
    """
    found = list(references)
    if in_reply_to and in_reply_to[0] not in found and (not found or len(in_reply_to) == 1):
        found.append(in_reply_to[0])
    return found


def components(num_nodes: int, left: NDArray[Any], right: NDArray[Any]) -> Int32:
    """For each node the smallest node that the edges (left[i], right[i]) connect it with.

    Each round hooks every root on the smallest root it has an edge with, then makes all trees flat
    (Shiloach and Vishkin 1982). At least one root goes in every round, so it ends.
    """
    label = np.arange(num_nodes, dtype=np.int32)
    while len(left):
        a, b = label[left], label[right]
        apart = a != b
        left, right, a, b = left[apart], right[apart], a[apart], b[apart]
        np.minimum.at(label, np.maximum(a, b), np.minimum(a, b))
        _flatten(label)
    return label


def _flatten(label: Int32) -> None:
    while True:
        above = label[label]
        if np.array_equal(above, label):
            return
        label[:] = above


def parents(num_nodes: int, messages: Sequence[int], references: Sequence[Sequence[int]]) -> list[int]:
    """For each node the node that it answers, UNKNOWN for roots; never a loop.

    `messages` are in canonical order, `references` theirs, oldest first. A message answers the last one that
    it refers to; only ghosts, and messages without references, stand where the first message that names them
    puts them (RFC 5256, section 3, steps 1.A and 1.B, in two passes so that less depends on the order). A
    link that would close a loop is left out.
    """
    parent = [UNKNOWN] * num_nodes
    root = list(range(num_nodes))  # the trees so far, with path halving: only roots are ever linked

    def link(child: int, above: int) -> None:
        top = above
        while root[top] != top:
            root[top] = root[root[top]]
            top = root[top]
        if top != child:
            parent[child] = above
            root[child] = top

    answers = {message: refs[-1] for message, refs in zip(messages, references, strict=True) if refs}
    for message, above in answers.items():
        link(message, above)
    for refs in references:
        for above, child in pairwise(refs):
            if parent[child] == UNKNOWN and child not in answers:
                link(child, above)
    return parent


def _downward(above: Sequence[int]) -> list[int]:
    """All nodes of a forest, each behind its parent."""
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(above):
        children.setdefault(parent, []).append(node)
    found = [UNKNOWN]
    for node in found:  # the list grows as it is walked
        found += children.get(node, ())
    return found[1:]


def tree(messages: Iterable[tuple[str, Sequence[str]]]) -> dict[str, str | None]:
    """The parent of every Message-ID, ghosts included; None for roots.

    Messages are (id, what it refers to, oldest first) in canonical order: by date, then id. An id that
    comes twice is one node with the references of its first message that has any.
    """
    nodes: dict[str, int] = {}
    references: dict[int, list[int]] = {}
    for message_id, names in messages:
        node = nodes.setdefault(message_id, len(nodes))
        refs = [nodes.setdefault(name, len(nodes)) for name in names if name != message_id]
        references[node] = references.get(node) or refs
    ids = list(nodes)
    found = parents(len(ids), list(references), list(references.values()))
    return {name: None if above == UNKNOWN else ids[above] for name, above in zip(ids, found, strict=True)}


@dataclass(frozen=True, slots=True)
class Outlined:
    """A message's place in its thread as a reader sees it."""

    message_id: str
    depth: int
    """Messages above it; ghosts do not count."""


def outline(messages: Sequence[tuple[str, Sequence[str]]]) -> list[list[Outlined]]:
    """Threads as a reader sees them: depth first, siblings in the order given, ghosts left out.

    Each id once. Threads come in the order of their earliest message; what several roots share through a
    cut link or a ghost stays one thread.
    """
    above = tree(messages)
    nodes = {name: number for number, name in enumerate(above)}
    edges = [(nodes[message_id], nodes[name]) for message_id, names in messages for name in names]
    left, right = np.array(edges, dtype=np.int32).reshape(-1, 2).T
    label = components(len(nodes), left, right)

    present = list(dict.fromkeys(message_id for message_id, _ in messages))
    order = {message_id: number for number, message_id in enumerate(present)}
    children: dict[str | None, list[str]] = {}
    for name, parent in above.items():
        children.setdefault(parent, []).append(name)
    earliest = _earliest_below(children, order)
    for names in children.values():
        names.sort(key=earliest.__getitem__)

    threads: dict[int, list[Outlined]] = {}
    pending = [(name, 0) for name in reversed(children.get(None, []))]
    while pending:
        name, depth = pending.pop()
        thread = threads.setdefault(int(label[nodes[name]]), [])
        if name in order:
            thread.append(Outlined(name, depth))
        pending += [(child, depth + (name in order)) for child in reversed(children.get(name, []))]
    return sorted(threads.values(), key=lambda thread: min(order[entry.message_id] for entry in thread))


def _earliest_below(children: dict[str | None, list[str]], order: dict[str, int]) -> dict[str, int]:
    """For each name where its subtree stands among its siblings: a message by itself, a ghost by its first below."""
    pending = list(children.get(None, []))
    downward: list[str] = []
    while pending:
        name = pending.pop()
        downward.append(name)
        pending += children.get(name, [])
    earliest: dict[str, int] = {}
    for name in reversed(downward):
        below = (earliest[child] for child in children.get(name, []))
        earliest[name] = order[name] if name in order else min(below, default=len(order))
    return earliest


@dataclass(frozen=True, slots=True)
class Join:
    """The first mail that connects these two threads, which were frozen already."""

    message: int
    """Position of the mail among those assigned."""
    thread: int
    """Where the mail went."""
    other: int


@dataclass(frozen=True, slots=True)
class Assigned:
    """Where the messages of one call went."""

    thread: Int32
    """Per message."""
    new_roots: Int32
    """The root node of every new thread; the first of them has the number that was next."""
    joins: list[Join]


class ThreadGraph:
    """Threads that only grow: a node that has a thread keeps it.

    `node_thread` holds each node's thread, UNKNOWN for none yet; it is updated in place. New threads are
    numbered from `next_thread`, in the order of their earliest message. `rank` is asked only for ties and
    says which of two threads is the lower: by (first window_idx, thread id). `linked` are pairs of threads
    that were joined before: each pair is reported once.

    A call costs what its messages and their references are, however many nodes and threads there are.
    """

    def __init__(
        self,
        node_thread: Int32,
        next_thread: int,
        rank: Callable[[int], Any],
        linked: Iterable[tuple[int, int]] = (),
    ) -> None:
        self.node_thread = node_thread
        self.next_thread = next_thread
        self._rank = rank
        self._first_seen = np.zeros(len(node_thread), dtype=np.int32)  # scratch: valid for a call's own nodes alone
        self._linked = {(min(pair), max(pair)) for pair in linked}

    def assign(self, messages: NDArray[Any], offsets: NDArray[Any], refs: NDArray[Any]) -> Assigned:
        """Give a thread to each message, in canonical order, and to each ghost that it refers to.

        Message i refers to refs[offsets[i]:offsets[i + 1]], oldest first. The messages of a component that
        touches no known thread are a new one, whose root is the first that its earliest message refers to,
        or that message. With one known thread all go there. With several each goes where its nearest
        ancestor that has a thread is, by the tree, else by its own references; where there is none, to
        the lowest of them.
        """
        num_messages = len(messages)
        owner = np.repeat(np.arange(num_messages, dtype=np.int32), np.diff(offsets))
        others = refs != messages[owner]
        owner, refs = owner[others], refs[others]
        nodes = np.concatenate([messages, refs])

        # A node stands for itself where it is seen first, so that a component's label is its earliest message.
        self._first_seen[nodes[::-1]] = np.arange(len(nodes) - 1, -1, -1, dtype=np.int32)
        first = self._first_seen[nodes]
        label = components(len(nodes), first[owner], first[num_messages:])[first]

        known = self.node_thread[nodes]
        highest = np.full(len(nodes), UNKNOWN, dtype=np.int32)
        np.maximum.at(highest, label, known)
        lowest = np.full(len(nodes), np.iinfo(np.int32).max, dtype=np.int32)
        has_thread = known != UNKNOWN
        np.minimum.at(lowest, label[has_thread], known[has_thread])

        position = np.arange(len(nodes), dtype=np.int32)
        fresh = np.flatnonzero((label == position) & (highest == UNKNOWN))
        highest[fresh] = self.next_thread + np.arange(len(fresh), dtype=np.int32)
        lowest[fresh] = highest[fresh]
        new_roots = _first_reference(fresh, messages, owner, refs)

        settled = lowest[label] == highest[label]
        self.node_thread[nodes[settled]] = highest[label[settled]]
        joins: list[Join] = []
        if not settled.all():
            joins = self._settle_joins(np.flatnonzero(~settled[:num_messages]), label, messages, owner, refs)
            named = np.flatnonzero(~settled[num_messages:] & (known[num_messages:] == UNKNOWN))
            self._place_ghosts(messages, owner[named], refs[named])
        self.next_thread += len(fresh)
        return Assigned(self.node_thread[messages], new_roots, joins)

    def _settle_joins(
        self, positions: Int64, label: Int32, messages: NDArray[Any], owner: Int32, refs: NDArray[Any]
    ) -> list[Join]:
        """Place the components that touch several known threads, one after the other."""
        start = np.searchsorted(owner, positions)
        end = np.searchsorted(owner, positions, side="right")
        groups: dict[int, list[tuple[int, int, list[int]]]] = {}
        for position, first, last in zip(positions.tolist(), start.tolist(), end.tolist(), strict=True):
            mail = (position, int(messages[position]), refs[first:last].tolist())
            groups.setdefault(int(label[position]), []).append(mail)
        joins = [join for group in groups.values() for join in self._settle_join(group)]
        return sorted(joins, key=lambda join: join.message)

    def _settle_join(self, mails: list[tuple[int, int, list[int]]]) -> list[Join]:
        local: dict[int, int] = {}
        for _, message, refs in mails:
            for node in (message, *refs):
                local.setdefault(node, len(local))
        nodes = list(local)
        above = parents(
            len(nodes),
            [local[message] for _, message, _ in mails],
            [[local[ref] for ref in refs] for _, _, refs in mails],
        )
        thread = self.node_thread[nodes].tolist()
        lowest = min({known for known in thread if known != UNKNOWN}, key=self._rank)
        named = {
            local[message]: known
            for _, message, refs in mails
            for ref in refs
            if (known := thread[local[ref]]) != UNKNOWN
        }
        order = _downward(above)
        _inherit(thread, above, order)
        for node, known in named.items():  # an older reference, where the last one leads nowhere
            thread[node] = known if thread[node] == UNKNOWN else thread[node]
        _inherit(thread, above, order)
        thread = [lowest if found == UNKNOWN else found for found in thread]
        self.node_thread[nodes] = thread
        joins = []
        for position, message, refs in mails:
            here = thread[local[message]]
            there = [thread[local[ref]] for ref in reversed(refs)]
            joins += [Join(position, here, other) for other in there if self._is_new_link(here, other)]
        return joins

    def _place_ghosts(self, messages: NDArray[Any], owner: Int32, refs: NDArray[Any]) -> None:
        """Put the ghosts of joined components where the log will tell that they are.

        That is with the first who names each, by thread: threads in the order of their earliest message.
        """
        thread = self.node_thread[messages]
        _, first, number = np.unique(thread, return_index=True, return_inverse=True)
        ghosts = ~np.isin(refs, messages)
        owner, refs = owner[ghosts], refs[ghosts]
        last_to_first = np.lexsort((owner, first[number[owner]]))[::-1]
        self.node_thread[refs[last_to_first]] = thread[owner[last_to_first]]

    def _is_new_link(self, a: int, b: int) -> bool:
        pair = min(a, b), max(a, b)
        if a == b or pair in self._linked:
            return False
        self._linked.add(pair)
        return True


def _inherit(thread: list[int], above: Sequence[int], order: Sequence[int]) -> None:
    """Give each node that has no thread its parent's."""
    for node in order:
        if thread[node] == UNKNOWN and above[node] != UNKNOWN:
            thread[node] = thread[above[node]]


def _first_reference(positions: Int64, messages: NDArray[Any], owner: Int32, refs: NDArray[Any]) -> Int32:
    """The oldest reference of each of these messages, or the message itself where it has none."""
    found = messages[positions].astype(np.int32)
    if len(refs):
        start = np.searchsorted(owner, positions)
        inside = np.minimum(start, len(refs) - 1)
        has_refs = owner[inside] == positions
        found[has_refs] = refs[inside[has_refs]]
    return found
