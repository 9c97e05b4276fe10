"""One planned window as data files and log rows, committed as one segment."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jobs.assignments.archive import Archive
from jobs.assignments.segment import Draft, Head
from jobs.contracts.errors import TransientError
from jobs.contracts.records import (
    SPLITS,
    Assignment,
    Chunk,
    Json,
    Length,
    Message,
    length_bucket,
    short_digest,
)
from jobs.intake.cutting import Cutter, ThreadState
from jobs.intake.data_files import DataFiles, length_table
from jobs.intake.overlap import Overlap
from jobs.intake.placing import Placed, Placement
from jobs.intake.spool import Spool, unquoted
from jobs.mail.windows import Window


class OvertakenError(TransientError):
    """Another writer committed first: what was planned must be planned anew."""


class WindowWriter:
    """Writes the windows of one import, in order."""

    def __init__(
        self,
        archive: Archive,
        spool: Spool,
        placed: Placed,
        *,
        cutter: Cutter,
        overlap: Overlap,
        parameters: Mapping[str, Any],
        cycle: str,
    ) -> None:
        self._archive = archive
        self._spool = spool
        self._placed = placed
        self._cutter = cutter
        self._overlap = overlap
        self._parameters = parameters
        self._cycle = cycle

    def commit(self, window: Placement, cursors: Mapping[str, Any], after: Head) -> Head:
        """Write a window's files, then its segment; the new head. OvertakenError where `after` is the head no more."""
        with (
            tempfile.TemporaryDirectory(prefix="refrain-window-") as folder,
            DataFiles(self._archive, window.window_idx, Path(folder)) as files,
        ):
            rows, lengths = self._write_chunks(window, files)
            files.add_bytes("lengths", length_table(lengths), len(lengths), ".parquet")
            files.add_bytes("fingerprints", *self._overlap.file(window), ".npy")
            files.add_records("exclusions", self._overlap.exclusions(window))
            files.add_records("links", self._overlap.links(window))
            draft = Draft(
                rows=rows,
                window_idx=window.window_idx,
                parameters=self._parameters,
                cycle=self._cycle,
                period=window.period,
                files=files.written(),
                cursors=cursors,
            )

            def build(head: Head) -> Draft:
                if head != after:
                    raise OvertakenError(f"another writer committed segment {head.seq}", where=self._archive.store.url)
                return draft

            self._archive.log.append(build)
        return self._archive.log.seen  # not the store's head, which may be another writer's by now

    def _write_chunks(self, window: Placement, files: DataFiles) -> tuple[list[Assignment], list[Length]]:
        rows: list[Assignment] = []
        lengths: list[Length] = []
        with ExitStack() as stack:
            chunk_files = {split: stack.enter_context(files.records("chunks", split)) for split in SPLITS}
            message_files = {split: stack.enter_context(files.records("messages", split)) for split in SPLITS}
            for state, mails, windows in self._cutter.cut(window):
                for k, planned in enumerate(windows, state.next_k):
                    chunk = self._cutter.chunk(state, k, planned, window.window_idx)
                    chunk_files[state.split].write(chunk)
                    rows.append(self._row(chunk, planned))
                    lengths.append(_length(chunk))
                for mail in mails:
                    message_files[state.split].write(self._message(mail, state, window.window_idx))
        return rows, lengths

    def _node_id(self, mail: int) -> str:
        return self._spool.node_ids[self._placed.nodes[mail]]

    def _row(self, chunk: Chunk, planned: Window) -> Assignment:
        mails = [piece.message for piece in planned.targets]
        ghosts = {
            node
            for mail in mails
            for node in self._spool.references(mail)
            if self._placed.node_window[node] > self._placed.mail_window[mail]
        }
        return Assignment(
            chunk_id=chunk.chunk_id,
            thread_id=chunk.thread_id,
            split=chunk.split,
            window_idx=chunk.window_idx,
            messages=[short_digest(self._node_id(mail)) for mail in mails],
            contents=[self._spool.contents[mail] for mail in mails],
            ghosts=sorted(short_digest(self._spool.node_ids[node]) for node in ghosts),
            text_sha256=hashlib.sha256(chunk.text.encode()).hexdigest(),
        )

    def _message(self, mail: int, state: ThreadState, window_idx: int) -> Message | Json:
        record = self._cutter.mail(mail)
        flags = list(record["flags"])
        if mail in self._placed.same_id:
            flags.append("duplicate-message-id")
        message = Message(
            message_id=self._node_id(mail),
            sender=record["sender"],
            subject=record["subject"],
            date=self._spool.dates[mail],
            references=record["references"],
            in_reply_to=record["in_reply_to"],
            text=record["body"],
            thread_id=state.thread_id,
            split=state.split,
            window_idx=window_idx,
            flags=flags,
        )
        if record["body"] == unquoted(record):
            return message
        return dataclasses.asdict(message) | {"text_unquoted": record["text_unquoted"]}


def _length(chunk: Chunk) -> Length:
    bucket = length_bucket(chunk.num_tokens)
    return Length(chunk.chunk_id, chunk.sender, chunk.num_tokens, chunk.num_target_tokens, bucket)
