"""A store that can be written without changing it: writes go to another one that lies over it."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from jobs.contracts.store import Store


class OverlayStore:
    """A `Store` (see `jobs.contracts.store`): what is written and deleted shows, and `below` stays as it is.

    For one process alone: its conditional writes are no protection against others.
    """

    def __init__(self, below: Store | None, above: Store) -> None:
        self._below = below
        """None: there is nothing yet."""
        self._above = above
        self._deleted: set[str] = set()

    @property
    def url(self) -> str:
        """That of the store below, whose contents these would be."""
        return (self._below or self._above).url

    def get(self, key: str) -> bytes:
        """See `Store`."""
        return self._holder(key).get(key)

    def open(self, key: str) -> BinaryIO:
        """See `Store`."""
        return self._holder(key).open(key)

    def exists(self, key: str) -> bool:
        """See `Store`."""
        return self._above.exists(key) or self._shows(key)

    def list(self, prefix: str = "", start_after: str = "") -> Iterator[str]:
        """See `Store`."""
        below = self._below.list(prefix, start_after) if self._below else iter(())
        shown = (key for key in below if key not in self._deleted)
        for key, _ in groupby(heapq.merge(shown, self._above.list(prefix, start_after))):
            yield key

    def put(self, key: str, data: bytes) -> None:
        """See `Store`."""
        self._above.put(key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See `Store`."""
        return not self._shows(key) and self._above.put_if_absent(key, data)

    def upload(self, key: str, path: Path) -> None:
        """See `Store`."""
        self._above.upload(key, path)

    def delete(self, key: str) -> None:
        """See `Store`."""
        self._above.delete(key)
        self._deleted.add(key)

    def _shows(self, key: str) -> bool:
        """Whether the key of the store below is to be seen."""
        return key not in self._deleted and self._below is not None and self._below.exists(key)

    def _holder(self, key: str) -> Store:
        if self._below is None or key in self._deleted or self._above.exists(key):
            return self._above
        return self._below
