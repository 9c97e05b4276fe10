"""What an archive holds already, as placing and cutting new mail need to know it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from jobs.assignments.archive import Archive
from jobs.contracts.records import Chunk, ChunkMessage, Link, Split, short_digest, split_chunk_id
from jobs.intake.reading import read_data
from jobs.mail.threading import UNKNOWN
from jobs.mail.windows import Period


class Known:
    """The threads of an archive by number, and which thread a Message-ID belongs to."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._ids: list[str] = []
        self._number: dict[str, int] = {}
        self._splits: list[Split] = []
        self._next_k: list[int] = []
        self._first: list[int] = []
        self._last: list[int] = []
        self._messages: dict[str, int] = {}
        self._ghosts: dict[str, int] = {}
        self._contents: set[str] = set()
        self.head = archive.log.head()
        self.last_window = -1
        self._last_period = ""
        for segment in archive.log.segments():
            self.last_window = segment.header.window_idx
            self._last_period = max(self._last_period, segment.header.period)
            for row in segment.rows():
                number = self._number.setdefault(row.thread_id, len(self._ids))
                if number == len(self._ids):
                    self._ids.append(row.thread_id)
                    self._splits.append(row.split)
                    self._next_k.append(0)
                    self._first.append(row.window_idx)
                    self._last.append(row.window_idx)
                self._next_k[number] = split_chunk_id(row.chunk_id)[1] + 1
                self._last[number] = row.window_idx
                for message in row.messages:
                    self._messages.setdefault(message, number)
                for ghost in row.ghosts:
                    self._ghosts.setdefault(ghost, number)
                self._contents.update(row.contents)
        self.links = [
            (self._number[link.thread_id], self._number[link.other_thread_id])
            for link in (Link(**record) for record in read_data(archive, "links"))
        ]

    @property
    def num_threads(self) -> int:
        """How many threads there are; their numbers are 0 to this."""
        return len(self._ids)

    def contents(self) -> frozenset[str]:
        """Content digests of all its mails."""
        return frozenset(self._contents)

    def has_contents(self, contents: Sequence[str]) -> NDArray[np.bool_]:
        """Which of these content digests it holds."""
        return np.array([one in self._contents for one in contents], dtype=bool)

    def has_messages(self, message_ids: Iterable[str]) -> NDArray[np.bool_]:
        """Which of these Message-IDs are those of its mails."""
        return np.array([short_digest(one) in self._messages for one in message_ids], dtype=bool)

    def has_whole(self, message_ids: Iterable[str]) -> NDArray[np.bool_]:
        """Which of these Message-IDs are of mails whose content it does not know: any mail of that id is the same."""
        return self.has_contents([short_digest(one) for one in message_ids])

    def nodes(self, message_ids: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """The thread of each Message-ID, UNKNOWN where it has none, and whether it is a mail (else a ghost)."""
        digests = [short_digest(one) for one in message_ids]
        thread = [self._messages.get(one, self._ghosts.get(one, UNKNOWN)) for one in digests]
        return np.array(thread, dtype=np.int32), np.array([one in self._messages for one in digests], dtype=bool)

    def thread_id(self, thread: int) -> str:
        """The id of a thread."""
        return self._ids[thread]

    def split(self, thread: int) -> Split:
        """The split of a thread."""
        return self._splits[thread]

    def first_window(self, thread: int) -> int:
        """The window of a thread's first chunk."""
        return self._first[thread]

    def next_k(self, thread: int) -> int:
        """How many chunks a thread has."""
        return self._next_k[thread]

    def last_period(self, period: Period) -> str:
        """The newest period that the archive covers, empty where it knows none of that kind."""
        return self._last_period if ("W" in self._last_period) == (period == "week") else ""

    def last_chunks(self, threads: Sequence[int]) -> Iterator[tuple[int, Chunk]]:
        """The last chunk of each of these threads; reads only the windows in which they are."""
        wanted = {f"{self._ids[thread]}_window_{self._next_k[thread] - 1}": thread for thread in threads}
        windows = {self._last[thread] for thread in threads}
        splits = {self._splits[thread] for thread in threads}
        for record in read_data(self._archive, "chunks", windows=windows, splits=splits):
            if record["chunk_id"] in wanted:
                record["messages"] = [ChunkMessage(**one) for one in record["messages"]]
                yield wanted[record["chunk_id"]], Chunk(**record)
