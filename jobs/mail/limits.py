"""What a mail may be at most. More than that is rejected with a reason instead of taking the memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIB: Final = 1 << 20
MAX_MESSAGE_BYTES: Final = 64 * MIB
MAX_HEADER_BYTES: Final = MIB
MAX_HEADER_LINES: Final = 10_000

TOO_LARGE: Final = "larger than the limit for one mail"
HEADER_TOO_LARGE: Final = "header larger than the limit"
TOO_MANY_HEADER_LINES: Final = "more header lines than the limit"
NO_HEADER: Final = "no header"
EMPTY: Final = "empty"
NOT_MAIL: Final = "not mail"
DAMAGED: Final = "compressed data damaged or cut short"
UNFINISHED: Final = "delivery not finished (tmp folder of a Maildir)"
NOT_A_FILE: Final = "not a regular file"
NO_MAILS: Final = frozenset((EMPTY, NOT_MAIL, DAMAGED, UNFINISHED, NOT_A_FILE))
"""Reasons of rejects that are no mails at all."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits that `parse` holds a mail to; nesting and the number of parts are the decoder's."""

    max_message_bytes: int = MAX_MESSAGE_BYTES
    max_header_bytes: int = MAX_HEADER_BYTES
    max_header_lines: int = MAX_HEADER_LINES

    def header_reason(self, header: bytes) -> str | None:
        """Why a mail with that header is not taken; None where it is fine."""
        if not header:
            return NO_HEADER
        if len(header) > self.max_header_bytes:
            return HEADER_TOO_LARGE
        if header.count(b"\n") > self.max_header_lines:
            return TOO_MANY_HEADER_LINES
        return None
