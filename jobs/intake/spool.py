"""The decoded mails of one import: texts in a file, and in memory what threading and cutting need.

A million mails take about half a GiB of memory here, whatever their texts.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import numpy as np
import orjson

from jobs.contracts.records import Json
from jobs.intake.decoding import EPOCH, Batch, Decoded, Held
from jobs.mail.near_duplicates import NUM_BANDS
from jobs.mail.threading import thread_references

_BUFFER_BYTES = 1 << 20
_FROM_NEIGHBOUR = "date-from-neighbour"


def unquoted(record: Json) -> str:
    """A mail's text without quotes; records hold it apart only where it differs."""
    text: str = record["text_unquoted"] if "text_unquoted" in record else record["text"]
    return text


class Spool:
    """Decoded mails by number, in the order in which they came."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(buffering=_BUFFER_BYTES, dir=folder)  # noqa: SIM115 - closed by close()
        self._offsets = array("q", [0])
        self._node_of: dict[str, int] = {}
        self._node_ids: list[str] = []
        self._references = array("i")
        self._reference_offsets = array("q", [0])
        self._bands: list[np.ndarray] = []
        self._fingerprinted = array("i")
        self.nodes = array("i")
        """Node of each mail's own Message-ID."""
        self.dates: list[str] = []
        self.contents: list[str] = []
        self.senders: list[str] = []
        self._sender_of: dict[str, str] = {}
        self.num_header_tokens = array("i")
        self.num_tokens = array("i")
        self.num_unquoted_tokens = array("i")
        self.known_contents: list[str] = []
        """Content digests of mails that the archive held already; nothing else is kept of them."""

    def __len__(self) -> int:
        return len(self.nodes)

    def fill(self, batches: Iterable[Batch]) -> None:
        """Take in decoded mails."""
        date = EPOCH
        for batch in batches:
            first = len(self)
            for mail in batch.mails:
                date = mail.date or date
                if isinstance(mail, Held):
                    self.known_contents.append(mail.content)
                else:
                    self._add(mail, date)
            self._fingerprinted.extend((np.flatnonzero(batch.fingerprinted) + first).tolist())
            self._bands.append(batch.bands[batch.fingerprinted])
        self._date_the_first()
        self._file.flush()

    def _date_the_first(self) -> None:
        """Give the mails before the first one that has a date that one's, their only dated neighbour's."""
        first = next((mail for mail, date in enumerate(self.dates) if date != EPOCH), 0)
        self.dates[:first] = self.dates[first : first + 1] * first

    def _add(self, mail: Decoded, date: str) -> None:
        self._file.write(mail.line)
        self._offsets.append(self._offsets[-1] + len(mail.line))
        self.nodes.append(self.node(mail.message_id))
        named = thread_references(mail.references, mail.in_reply_to)
        self._references.extend(self.node(one) for one in named)
        self._reference_offsets.append(len(self._references))
        self.dates.append(date)
        self.contents.append(mail.content)
        self.senders.append(self._sender_of.setdefault(mail.sender, mail.sender))
        self.num_header_tokens.append(mail.num_header_tokens)
        self.num_tokens.append(mail.num_tokens)
        self.num_unquoted_tokens.append(mail.num_unquoted_tokens)

    def node(self, message_id: str) -> int:
        """The number of a Message-ID, of a mail or of a ghost; a new one where it has none yet."""
        number = self._node_of.setdefault(message_id, len(self._node_ids))
        if number == len(self._node_ids):
            self._node_ids.append(message_id)
        return number

    @property
    def node_ids(self) -> list[str]:
        """Message-ID of each node."""
        return self._node_ids

    def references(self, mail: int) -> list[int]:
        """Nodes that a mail refers to, the nearest last."""
        return self._references[self._reference_offsets[mail] : self._reference_offsets[mail + 1]].tolist()

    def record(self, mail: int) -> Json:
        """What the worker kept of a mail: sender, subject, references, text, flags and so on."""
        start = self._offsets[mail]
        record: Json = orjson.loads(os.pread(self._file.fileno(), self._offsets[mail + 1] - start, start))
        if self.dates[mail] != EPOCH:
            record["flags"] = [_FROM_NEIGHBOUR if flag == "date-missing" else flag for flag in record["flags"]]
        return record

    def fingerprints(self) -> tuple[np.ndarray, np.ndarray]:
        """Mails that have a fingerprint (int64[m]), and its bands (uint64[m, b])."""
        mails = np.array(self._fingerprinted, dtype=np.int64)
        if not self._bands:
            return mails, np.empty((0, NUM_BANDS), dtype=np.uint64)
        self._bands = [np.concatenate(self._bands)]
        return mails, self._bands[0]

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
