"""Server-sent events, as OpenAI's API streams answers: a line of JSON each, and `[DONE]` at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import orjson

from jobs.contracts.errors import TransientError
from jobs.contracts.records import Json

_DATA = b"data:"


def events(parts: Iterable[bytes]) -> Iterator[Json]:
    """The JSON of a stream that comes in parts; TransientError where it ends without `[DONE]`, ValueError for no JSON.

    An error that the server tells of is an event like any other, with `error` in it, and the last one.
    """
    rest = b""
    for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            said = line.strip().removeprefix(_DATA).strip()
            if said == b"[DONE]":
                return
            if said:
                event: Json = orjson.loads(said)
                yield event
    raise TransientError("the stream broke off in the middle of an answer")
