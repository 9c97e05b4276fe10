"""Threads as a caller makes them: Message-IDs interned, and a graph over them."""

from __future__ import annotations

import numpy as np

from jobs.mail.threading import UNKNOWN, ThreadGraph, outline


def groups_of(messages):
    """Sets of ids that are threads, by the tree's own definition: what outline prints together."""
    return {frozenset(entry.message_id for entry in thread) for thread in outline(messages)}


class Archive:
    """Message-IDs interned as a caller does it, and a graph over them."""

    def __init__(self, *periods, known=None, linked=()):
        ids = dict.fromkeys(name for period in periods for mid, refs in period for name in (mid, *refs))
        ids |= dict.fromkeys(known or {})
        self.node = {name: number for number, name in enumerate(ids)}
        self.name = list(ids)
        thread = np.full(len(ids), UNKNOWN, dtype=np.int32)
        for name, number in (known or {}).items():
            thread[self.node[name]] = number
        self.graph = ThreadGraph(thread, 1 + max((known or {}).values(), default=-1), lambda t: t, linked)

    def assign(self, messages):
        nodes = np.array([self.node[mid] for mid, _ in messages], dtype=np.int32)
        offsets = np.cumsum([0, *(len(refs) for _, refs in messages)])
        refs = np.array([self.node[ref] for _, found in messages for ref in found], dtype=np.int32)
        return self.graph.assign(nodes, offsets, refs)

    def threads(self):
        """The ids of each thread, ghosts included."""
        found = {}
        for name, thread in zip(self.name, self.graph.node_thread.tolist(), strict=True):
            found.setdefault(thread, set()).add(name)
        return found

    def thread_of(self, name):
        return int(self.graph.node_thread[self.node[name]])
