"""What stands on both sides of train and val/test, and so leaves the scores: joined threads, near-identical texts.

A mail of val or test is compared by its own text; one of train by all that is learnt from it, its quotes included
where they are kept: of these each level has a fingerprint of its own, for who quotes a mail adds to it.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jobs.assignments.archive import Archive
from jobs.assignments.digests import WIDTH, Bytes, pack, short_digests
from jobs.contracts.records import Exclusion, Link, short_digest
from jobs.intake.cutting import Cutter
from jobs.intake.placing import Placed, Placement
from jobs.intake.reading import read_data
from jobs.intake.spool import Spool, unquoted
from jobs.mail.near_duplicates import NUM_BANDS, candidates, fingerprints, verified
from jobs.mail.quoting import quoted_levels

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FINGERPRINT = np.dtype([("message", "V16"), ("train", "?"), ("bands", "<u8", NUM_BANDS)])
"""One row of a fingerprints file: the Message-ID's short digest, the side that it is on, its band keys.

A message of train has more than one where quotes are kept; archives of before that was so lack those.
"""
_BLOCK_MAILS = 256


@dataclass(frozen=True, slots=True)
class _Rows:
    """Texts that can be compared, those of the archive first, then those of the import, in the order they came."""

    bands: NDArray[np.uint64]
    train: NDArray[np.bool_]
    window: NDArray[np.int32]
    messages: Bytes
    """Short digest of each Message-ID."""
    mails: NDArray[np.int64]
    """Of each of the import's rows the number of its mail."""

    @property
    def num_old(self) -> int:
        return len(self.messages) - len(self.mails)

    def message(self, row: int) -> str:
        """A message's short digest in hex."""
        digest: bytes = self.messages[row].tobytes()
        return digest.hex()


class Overlap:
    """Finds it for a whole import at once; tells it window by window, each as a single import would have."""

    def __init__(self, archive: Archive, spool: Spool, placed: Placed, cutter: Cutter) -> None:
        self._archive = archive
        self._spool = spool
        self._placed = placed
        self._cutter = cutter
        self._headers = placed.known.headers
        self._rows = self._all_rows()
        self._exclusions: dict[int, list[Exclusion]] = defaultdict(list)
        old = [Exclusion(**record) for record in read_data(archive, "exclusions", headers=self._headers)]
        self._excluded = {(one.kind, one.id) for one in old}
        for exclusion in [*self._joined(), *self._near_duplicates()]:
            if (exclusion.kind, exclusion.id) not in self._excluded:
                self._excluded.add((exclusion.kind, exclusion.id))
                self._exclusions[exclusion.window_idx].append(exclusion)

    def exclusions(self, window: Placement) -> list[Exclusion]:
        """What leaves the scores from this window on."""
        return self._exclusions[window.window_idx]

    def links(self, window: Placement) -> Iterator[Link]:
        """The mails of this window that join two threads."""
        thread_id = self._placed.thread_id
        for join in window.joins:
            message = short_digest(self._message_id(join.message))
            yield Link(message, thread_id(join.thread), thread_id(join.other), window.window_idx)

    def file(self, window: Placement) -> tuple[bytes, int]:
        """The fingerprints of a window, for later imports to compare with, and how many they are."""
        rows = self._rows
        chosen = rows.num_old + np.flatnonzero(rows.window[rows.num_old :] == window.window_idx)
        return _saved(rows.messages[chosen], rows.train[chosen], rows.bands[chosen]), len(chosen)

    def _message_id(self, mail: int) -> str:
        return self._spool.node_ids[self._placed.nodes[mail]]

    def _all_rows(self) -> _Rows:
        messages, bands, train, window = [], [], [], []
        for header in self._headers:
            for file in header.files.get("fingerprints", ()):
                with self._archive.open_data(file) as stream:
                    table = np.load(io.BytesIO(stream.read()))
                messages.append(np.ascontiguousarray(table["message"]).view(np.uint8).reshape(-1, WIDTH))
                bands.append(table["bands"])
                train.append(table["train"])
                window.append(np.full(len(table), header.window_idx, dtype=np.int32))
        mails, mail_bands = map(np.concatenate, zip(self._spool.fingerprints(), self._kept_quotes(), strict=True))
        new = self._in_order(mails)
        mails = mails[new]
        if len(mails):
            messages.append(short_digests(map(self._message_id, mails.tolist())))
            bands.append(mail_bands[new])
            train.append(self._placed.is_train(mails))
            window.append(self._placed.mail_window[mails])
        if not bands:
            empty = np.zeros(0, dtype=np.int32)
            return _Rows(np.zeros((0, NUM_BANDS), np.uint64), empty.astype(bool), empty, pack([]), mails)
        return _Rows(
            np.concatenate(bands), np.concatenate(train), np.concatenate(window), np.concatenate(messages), mails
        )

    def _kept_quotes(self) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """The quotes that are learnt and can be compared, level by level: the mail of each, and its bands."""
        spool, new = self._spool, self._placed.new_mails()
        quoting = new[np.array(spool.num_tokens)[new] > np.array(spool.num_unquoted_tokens)[new]]
        learnt = [
            mail for mail in quoting[self._placed.is_train(quoting)].tolist() if not self._cutter.drops_quotes(mail)
        ]
        mails = [np.zeros(0, dtype=np.int64)]
        bands = [np.zeros((0, NUM_BANDS), dtype=np.uint64)]
        for start in range(0, len(learnt), _BLOCK_MAILS):
            block = learnt[start : start + _BLOCK_MAILS]
            quotes = [(mail, quote) for mail in block for quote in quoted_levels(spool.record(mail)["text"])]
            valid, keys = fingerprints([quote for _, quote in quotes])
            mails.append(np.array([mail for mail, _ in quotes], dtype=np.int64)[valid])
            bands.append(keys[valid])
        return np.concatenate(mails), np.concatenate(bands)

    def _joined(self) -> Iterator[Exclusion]:
        """Threads of val and test that mails have joined with one of train, be it through others between them."""
        placed = self._placed
        groups: dict[int, set[int]] = {}
        for here, there in placed.known.links:
            _join(groups, here, there)
        for window in placed.windows:
            for join in window.joins:
                group = sorted(_join(groups, join.thread, join.other))
                train = [placed.thread_id(thread) for thread in group if placed.split(thread) == "train"]
                for thread in group if train else ():
                    if placed.split(thread) != "train":
                        yield Exclusion("thread", placed.thread_id(thread), window.window_idx, "joined", train[0])

    def _in_order(self, mails: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the new ones of these mails stand among them: by window, then in canonical order."""
        order = [mail for window in self._placed.windows for mail in window.mails]
        rank = np.full(len(self._placed.mail_thread), -1, dtype=np.int64)
        rank[order] = np.arange(len(order))
        new = np.flatnonzero(self._placed.is_new(mails))
        return new[np.argsort(rank[mails[new]], kind="stable")]

    def _near_duplicates(self) -> Iterator[Exclusion]:
        rows = self._rows
        eval_rows, train_rows = candidates(rows.bands, rows.train, rows.num_old)
        kept = np.array(
            [("message", rows.message(row)) not in self._excluded for row in eval_rows.tolist()], dtype=bool
        )
        eval_rows, train_rows = eval_rows[kept], train_rows[kept]
        since = np.maximum(rows.window[eval_rows], rows.window[train_rows])
        # Stable: within a window the likeliest stay first, as in an import of that window alone.
        order = np.lexsort((since, eval_rows))
        eval_rows, train_rows = eval_rows[order], train_rows[order]
        text = self._texts(np.union1d(eval_rows, train_rows))
        for eval_row, train_row, similarity in verified(eval_rows, train_rows, text):
            yield Exclusion(
                "message",
                rows.message(eval_row),
                int(max(rows.window[eval_row], rows.window[train_row])),
                "near-duplicate",
                rows.message(train_row),
                round(similarity, 4),
            )

    def _texts(self, needed: NDArray[np.int64]) -> Callable[[int], str]:
        """The text of any of these rows: what is learnt of a mail of train, what one of val or test says itself."""
        rows = self._rows
        old_rows = needed[needed < rows.num_old].tolist()
        wanted = set(map(rows.message, old_rows))
        windows = {int(rows.window[row]) for row in old_rows}
        old: dict[str, str] = {}
        records = read_data(self._archive, "messages", headers=self._headers, windows=windows)
        for record in records if windows else ():
            digest = short_digest(record["message_id"])
            if digest in wanted:
                learnt = record.get("text") if record["split"] == "train" else None
                # What was taken over may be of any shape.
                old[digest] = _with_levels(learnt) if isinstance(learnt, str) else unquoted(record)

        def text(row: int) -> str:
            if row < rows.num_old:
                return old.get(rows.message(row), "")  # forgotten since: nothing to compare with
            record = self._cutter.mail(int(rows.mails[row - rows.num_old]))
            return _with_levels(record["body"]) if rows.train[row] else unquoted(record)

        return text


def _with_levels(text: str) -> str:
    """A text, and behind it what it quotes without the answers in between, which tear 5-grams apart."""
    return "\n".join([text, *quoted_levels(text)])


def fingerprints_file(texts: Sequence[tuple[str, str, bool]]) -> tuple[bytes, int]:
    """The fingerprints of (Message-ID, text, whether of train) that can be compared, as a file; how many they are.

    A message may come with several texts.
    """
    valid, bands = fingerprints([text for _, text, _ in texts])
    messages = short_digests(texts[row][0] for row in np.flatnonzero(valid).tolist())
    train = np.array([is_train for _, _, is_train in texts], dtype=np.bool_)
    return _saved(messages, train[valid], bands[valid]), len(messages)


def _saved(messages: Bytes, train: NDArray[np.bool_], bands: NDArray[np.uint64]) -> bytes:
    table = np.zeros(len(messages), dtype=_FINGERPRINT)
    table["message"] = np.ascontiguousarray(messages).view("V16")[:, 0]
    table["train"] = train
    table["bands"] = bands
    sink = io.BytesIO()
    np.save(sink, table)
    return sink.getvalue()


def _join(groups: dict[int, set[int]], here: int, there: int) -> set[int]:
    """Make two threads members of one group; the group."""
    group = groups.setdefault(here, {here}) | groups.setdefault(there, {there})
    groups.update(dict.fromkeys(group, group))
    return group
