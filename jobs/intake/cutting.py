"""The new mails of one window into chunks, thread by thread, and their texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from jobs.contracts.records import Chunk, ChunkMessage, Json, Split, chunk_id
from jobs.intake.decoding import UNCOUNTED
from jobs.intake.known import Known
from jobs.intake.placing import Placed, Placement
from jobs.intake.spool import Spool, unquoted
from jobs.mail import template
from jobs.mail.windows import (
    Piece,
    Window,
    WindowSettings,
    cut_message,
    cut_windows,
    sender_of_chunk,
    shortened,
)
from jobs.ml.tokens import TokenCounter

_HEADER_SHARE = 8
"""A subject or a sender takes at most one part in so many of a chunk's budget."""
_RECENT_MAILS = 4096


@dataclass(slots=True)
class ThreadState:
    """A thread as its next chunk needs to know it."""

    thread_id: str
    split: Split
    next_k: int
    subject: str
    num_subject_tokens: int
    tail: list[Piece] = field(default_factory=list)
    """The pieces of its last chunk."""


@dataclass(frozen=True, slots=True)
class Quoted:
    """A mail of the archive that a new chunk begins with, as the chunk before it shows it."""

    message: ChunkMessage
    body: str


class Cutter:
    """Cuts window after window; keeps of each thread what its next chunk will need."""

    def __init__(
        self,
        spool: Spool,
        placed: Placed,
        known: Known,
        settings: WindowSettings,
        counter: TokenCounter,
        *,
        quotes: str = "in-thread",
    ) -> None:
        self._spool = spool
        self._placed = placed
        self._known = known
        self._settings = settings
        self._counter = counter
        self._quotes = quotes
        self._header_room = max(1, settings.max_tokens // _HEADER_SHARE)
        self._num_body_end_tokens = counter.count([template.BODY_END])[0]
        self._threads: dict[int, ThreadState] = {}
        self._old: list[Quoted] = []
        self.mail = lru_cache(_RECENT_MAILS)(self._mail)
        """What the spool holds of a mail, with `body`: its text as chunks show it."""

    def _mail(self, mail: int) -> Json:
        record = self._spool.record(mail)
        record["sender"] = shortened(record["sender"], self._header_room, self._counter)
        record["drops_quotes"] = self.drops_quotes(mail)
        record["body"] = unquoted(record) if record["drops_quotes"] else record["text"]
        return record

    def drops_quotes(self, mail: int) -> bool:
        """Whether a mail's quotes are left out: by default when another one it refers to is there by its window."""
        if self._quotes != "in-thread":
            return self._quotes == "none"
        window_idx, node_window = int(self._placed.mail_window[mail]), self._placed.node_window
        own = self._spool.nodes[mail]
        return any(node != own and node_window[node] <= window_idx for node in self._spool.references(mail))

    def cut(self, window: Placement) -> Iterator[tuple[ThreadState, list[int], list[Window]]]:
        """The window's threads in the order of their earliest new mail: each with its new mails and its new chunks."""
        by_thread: dict[int, list[int]] = {}
        for mail in window.mails:
            by_thread.setdefault(int(self._placed.mail_thread[mail]), []).append(mail)
        self._recall([thread for thread in by_thread if thread not in self._threads])
        for thread, mails in by_thread.items():
            state = self._threads.get(thread) or self._begin(thread, mails[0])
            pieces = [piece for mail in mails for piece in self._pieces(mail, state)]
            windows = cut_windows(state.tail, pieces, self._settings, state.num_subject_tokens)
            state.tail = [*windows[-1].context, *windows[-1].targets]
            yield state, mails, windows
            state.next_k += len(windows)

    def _begin(self, thread: int, first: int) -> ThreadState:
        # A thread of the archive begins here too where its chunks' texts are gone, or never were there.
        next_k = self._known.next_k(thread) if thread < self._known.num_threads else 0
        subject = self.mail(first)["subject"]
        state = self._state(self._placed.thread_id(thread), self._placed.split(thread), next_k, subject)
        self._threads[thread] = state
        return state

    def _state(self, thread_id: str, split: Split, next_k: int, subject: str) -> ThreadState:
        subject = shortened(subject, self._header_room, self._counter)
        count = self._counter.count([template.subject_header(subject)])[0]
        return ThreadState(thread_id, split, next_k, subject, count)

    def _recall(self, threads: Sequence[int]) -> None:
        """Bring back the last chunks of threads of the archive that grow now."""
        for thread, chunk in self._known.last_chunks([one for one in threads if one < self._known.num_threads]):
            state = self._state(chunk.thread_id, chunk.split, self._known.next_k(thread), chunk.subject)
            headers = [template.message_header(one.sender, one.date) for one in chunk.messages]
            for message, num_header in zip(chunk.messages, self._counter.count(headers), strict=True):
                self._old.append(Quoted(message, chunk.text[message.start : message.end]))
                state.tail.append(
                    Piece(
                        -len(self._old),
                        message.part,
                        message.num_parts,
                        0,
                        message.end - message.start,
                        message.num_tokens,
                        num_header + self._num_body_end_tokens,
                    )
                )
            self._threads[thread] = state

    def _pieces(self, mail: int, state: ThreadState) -> list[Piece]:
        dropped = self.mail(mail)["drops_quotes"]
        num_tokens = self._spool.num_unquoted_tokens[mail] if dropped else self._spool.num_tokens[mail]
        num_header = self._spool.num_header_tokens[mail]
        if num_header == UNCOUNTED or num_header > self._header_room:  # a hostile sender is shortened
            header = template.message_header(self.mail(mail)["sender"], self._spool.dates[mail])
            num_header = self._counter.count([header])[0]
        num_header += self._num_body_end_tokens
        room = self._settings.max_tokens - state.num_subject_tokens - template.NUM_END_TOKENS - num_header
        body = "" if num_tokens <= room else self.mail(mail)["body"]
        return cut_message(
            mail,
            body,
            num_tokens=num_tokens,
            num_header_tokens=num_header,
            num_subject_tokens=state.num_subject_tokens,
            settings=self._settings,
            tokens=self._counter,
        )

    def chunk(self, state: ThreadState, k: int, window: Window, window_idx: int) -> Chunk:
        """One chunk with its text."""
        pieces = [*window.context, *window.targets]
        shown = [self._show(piece) for piece in pieces]
        text, bodies = template.render(state.subject, [(message.sender, message.date, body) for message, body in shown])
        for number, ((message, _), (start, end)) in enumerate(zip(shown, bodies, strict=True)):
            message.start, message.end, message.context = start, end, number < len(window.context)
        targets = [message for message, _ in shown[len(window.context) :]]
        return Chunk(
            chunk_id=chunk_id(state.thread_id, k),
            thread_id=state.thread_id,
            split=state.split,
            window_idx=window_idx,
            sender=sender_of_chunk((message.sender, message.num_tokens) for message in targets),
            subject=state.subject,
            date=max(message.date for message, _ in shown),
            num_tokens=state.num_subject_tokens + template.NUM_END_TOKENS + sum(piece.cost for piece in pieces),
            num_target_tokens=sum(piece.num_tokens for piece in window.targets),
            messages=[message for message, _ in shown],
            text=text,
        )

    def _show(self, piece: Piece) -> tuple[ChunkMessage, str]:
        if piece.message < 0:
            old = self._old[-piece.message - 1]
            message, body = old.message, old.body
            sender, date, message_id = message.sender, message.date, message.message_id
        else:
            mail = self.mail(piece.message)
            end = piece.end if piece.num_parts > 1 else len(mail["body"])
            body = mail["body"][piece.start : end]
            sender, date = mail["sender"], self._spool.dates[piece.message]
            message_id = self._spool.node_ids[self._placed.nodes[piece.message]]
        return (
            ChunkMessage(message_id, sender, date, 0, 0, piece.num_tokens, part=piece.part, num_parts=piece.num_parts),
            body,
        )
