"""How often each message was learnt from: overlap, epochs and replay multiply it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from jobs.contracts.records import Chunk, Json, short_digest


def exposures(chunks: Sequence[Chunk], counts: Counter[str]) -> Json:
    """How often each message (short digest of its Message-ID) was a target, and how many were so often.

    A mail that was cut is a target as often as the part of it that is most often.
    """
    parts: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for chunk in chunks:
        for message_id, part in {(one.message_id, one.part) for one in chunk.messages if not one.context}:
            parts[short_digest(message_id)][part] += counts[chunk.chunk_id]
    messages = {digest: max(parts[digest].values()) for digest in sorted(parts)}
    histogram = Counter(messages.values())
    return {
        "num_messages": len(messages),
        "histogram": {str(times): histogram[times] for times in sorted(histogram)},
        "messages": messages,
        "chunks": dict(sorted(counts.items())),
    }
