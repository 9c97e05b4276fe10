"""How often each message was learnt from: overlap, epochs and replay multiply it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from jobs.contracts.records import Chunk, Json, short_digest


def exposures(chunks: Sequence[Chunk], counts: Counter[str], starts_from: str) -> Json:
    """How often each message (short digest of its Message-ID) was a target, and how many were so often.

    A mail that was cut is a target as often as the part of it that is most often. `context` counts likewise how
    often it was read without being a target. `starts_from` is the digest of the adapter that training went on from,
    which brings along what that one has seen; empty for a fresh one.
    """
    messages = _times(chunks, counts, context=False)
    histogram = Counter(messages.values())
    return {
        "num_messages": len(messages),
        "histogram": {str(times): histogram[times] for times in sorted(histogram)},
        "messages": messages,
        "context": _times(chunks, counts, context=True),
        "chunks": dict(sorted(counts.items())),
        "starts_from": starts_from,
    }


def _times(chunks: Sequence[Chunk], counts: Counter[str], *, context: bool) -> dict[str, int]:
    """By message, in the order of digests: how often it stood in a chunk that was trained on, in that role."""
    parts: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for chunk in chunks:
        for message_id, part in {(one.message_id, one.part) for one in chunk.messages if one.context == context}:
            parts[short_digest(message_id)][part] += counts[chunk.chunk_id]
    return {digest: max(parts[digest].values()) for digest in sorted(parts)}
