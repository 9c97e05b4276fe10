"""What an archive holds already, as placing and cutting new mail need to know it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jobs.assignments.archive import Archive
from jobs.assignments.digests import Bytes, short_digests
from jobs.contracts.records import SPLITS, Chunk, ChunkMessage, Json, Link, Split, chunk_id
from jobs.intake.reading import read_data
from jobs.mail.threading import UNKNOWN
from jobs.mail.windows import Period

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Known:
    """The threads of an archive by number, and which thread a Message-ID belongs to; as of one head of its log.

    Stays as it is while others commit, as long as nobody asks the archive for its snapshot anew.
    """

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        snapshot = archive.snapshot(digests=True)
        self._table = snapshot.table
        self.head = snapshot.head
        self.num_threads = self._table.num_threads
        """Threads are numbered from 0 to this."""
        self.headers = list(snapshot.headers)
        """Of the segments up to that head."""
        self.last_window = self.headers[-1].window_idx if self.headers else -1
        links = [Link(**record) for record in read_data(archive, "links", headers=self.headers)]
        sides = self._table.thread_codes([side for link in links for side in (link.thread_id, link.other_thread_id)])
        self.links = [(here, there) for here, there in sides.reshape(-1, 2).tolist()]
        """Pairs of threads that a mail has joined."""

    @property
    def contents(self) -> Bytes:
        """Content digests of all its mails, 16 bytes each."""
        return self._table.digests["contents"].digests

    def has_contents(self, contents: Sequence[str]) -> NDArray[np.bool_]:
        """Which of these content digests it holds."""
        found: NDArray[np.bool_] = self._table.rows_of("contents", contents) >= 0
        return found

    def has_messages(self, message_ids: Sequence[str]) -> NDArray[np.bool_]:
        """Which of these Message-IDs are those of its mails."""
        return self._is_in("messages", message_ids)

    def has_whole(self, message_ids: Sequence[str]) -> NDArray[np.bool_]:
        """Which of these Message-IDs are of mails whose content it does not know: any mail of that id is the same."""
        return self._is_in("contents", message_ids)

    def nodes(self, message_ids: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """The thread of each Message-ID, UNKNOWN where it has none, and whether it is a mail (else a ghost)."""
        if not len(self._table):
            return np.full(len(message_ids), UNKNOWN, np.int32), np.zeros(len(message_ids), np.bool_)
        digests = short_digests(message_ids)
        mails = self._table.lookup("messages", digests)
        ghosts = self._table.lookup("ghosts", digests)
        present = mails != UNKNOWN
        return np.where(present, mails, ghosts).astype(np.int32), present

    def threads(self, thread_ids: Sequence[str]) -> NDArray[np.int32]:
        """The numbers of threads by id; UNKNOWN for those that it does not have."""
        return self._table.thread_codes(thread_ids)

    def _is_in(self, name: str, message_ids: Sequence[str]) -> NDArray[np.bool_]:
        if not len(self._table):
            return np.zeros(len(message_ids), np.bool_)
        found: NDArray[np.bool_] = self._table.rows_of(name, short_digests(message_ids)) >= 0
        return found

    def thread_id(self, thread: int) -> str:
        """The id of a thread."""
        return self._table.thread_id(thread)

    def split(self, thread: int) -> Split:
        """The split of a thread."""
        return SPLITS[int(self._table.thread_split[thread])]

    def first_window(self, thread: int) -> int:
        """The window of a thread's first chunk."""
        return int(self._table.first_window[thread])

    def next_k(self, thread: int) -> int:
        """How many chunks a thread has."""
        return int(self._table.next_k[thread])

    def last_period(self, period: Period) -> str:
        """The newest period that the archive covers, empty where it knows none of that kind."""
        of_that_kind = (header.period for header in self.headers if ("W" in header.period) == (period == "week"))
        return max(of_that_kind, default="")

    def last_chunks(self, threads: Sequence[int]) -> Iterator[tuple[int, Chunk]]:
        """The last chunk of each of these threads; reads only the windows in which they are."""
        wanted = {chunk_id(self.thread_id(thread), self.next_k(thread) - 1): thread for thread in threads}
        windows = {int(self._table.last_window[thread]) for thread in threads}
        splits = {self.split(thread) for thread in threads}
        records = read_data(self._archive, "chunks", headers=self.headers, windows=windows, splits=splits)
        for record in records if wanted else ():
            if record["chunk_id"] in wanted and (chunk := _chunk(record)) is not None:
                yield wanted[record["chunk_id"]], chunk


def _chunk(record: Json) -> Chunk | None:
    """A chunk from its record; None for one of another shape, which was taken over."""
    try:
        return Chunk(**record | {"messages": [ChunkMessage(**one) for one in record["messages"]]})
    except (KeyError, TypeError):
        return None
