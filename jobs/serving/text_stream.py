"""What of a text that grows may be shown already: nothing that a stop may yet take back."""

from __future__ import annotations

from collections.abc import Sequence

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""How a tokenizer spells a character whose last bytes have not come yet."""


class TextStream:
    """The visible pieces of one text. Together they are what one look at the whole text would show.

    The text ends before the first of `stops`; with `trimmed`, white space around it is left out.
    """

    def __init__(self, stops: Sequence[str] = (), *, trimmed: bool = False) -> None:
        self.is_stopped = False
        self._stops = [stop for stop in stops if stop]
        self._trimmed = trimmed
        self._num_shown = 0

    def grow(self, text: str) -> str:
        """The further piece that may be shown, now that this is the whole text so far."""
        text, self.is_stopped = self._cut(text)
        return self._further(text if self.is_stopped else text[: self._certain(text)])

    def end(self, text: str) -> str:
        """The last piece, now that this is the whole text."""
        text, is_stopped = self._cut(text)
        self.is_stopped |= is_stopped
        return self._further(text)

    def _cut(self, text: str) -> tuple[str, bool]:
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        return (text[: min(found)], True) if found else (text, False)

    def _further(self, text: str) -> str:
        text = text.strip() if self._trimmed else text
        piece = text[self._num_shown :]
        self._num_shown = max(self._num_shown, len(text))
        return piece

    def _certain(self, text: str) -> int:
        """How many characters stay, whatever follows."""
        certain = len(text.rstrip(_UNFINISHED))
        for stop in self._stops:
            longest = min(len(stop) - 1, len(text))
            begun = next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
            certain = min(certain, len(text) - begun)
        return certain
