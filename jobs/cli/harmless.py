"""Texts of mails and models as a terminal may show them."""

from __future__ import annotations

import unicodedata

_TURNING = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
"""Classes of characters that change the direction of writing: a line may look like another."""


def harmless(text: str) -> str:
    """A text that a terminal only shows: what would steer it, or turn the direction of writing, is replaced."""
    if text.isprintable():
        return text
    return "".join("\N{REPLACEMENT CHARACTER}" if _steers(character) else character for character in text)


def _steers(character: str) -> bool:
    if character in "\n\t":
        return False
    return unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} or (
        unicodedata.bidirectional(character) in _TURNING
    )


def one_line(text: str) -> str:
    """The same on one line."""
    return " ".join(harmless(text).split())
