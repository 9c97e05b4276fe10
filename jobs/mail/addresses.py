"""Address lists (RFC 5322, 3.4), and who wrote a mail.

Python's own `email.utils` recurses into comments and takes quadratic time on hostile lists; this
reader takes linear time and whatever it is given.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from jobs.mail.encoded_words import as_text, decode_words, one_line
from jobs.mail.headers import Headers


@dataclass(frozen=True, slots=True)
class Address:
    """One mailbox of an address list."""

    name: str
    """The display name, decoded; "" where there is none."""
    address: str
    """The address in lower case; "" where a name stands alone."""


MAX_ADDRESS_CHARS = 65_536
_PLAIN = re.compile(r'"?([^"<>@,;:()\\=]*+)"?\s*+<([^<>\s"(),;:]+@[^<>\s"(),;:]+)>')
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*+)"?|<([^<>]*)>?|([(),;:])|([^\s"<>(),;:]+)|(\s+)', re.DOTALL)
_VIA = re.compile(r"^['\"]?(.+?)['\"]?\s+(?:\(via\s|via\s)\s*\S", re.IGNORECASE)


def addresses(value: bytes | str | None) -> list[Address]:
    """The mailboxes of an address list, groups flattened, comments read as names where there is no other."""
    if not value:
        return []
    text = (as_text(value) if isinstance(value, bytes) else value)[:MAX_ADDRESS_CHARS]
    if (match := _PLAIN.fullmatch(text)) is not None:
        return [Address(one_line(match[1]), one_line(match[2]).lower())]
    found: list[Address] = []
    builder = _AddressBuilder()
    for token in _TOKEN.finditer(text):
        done = builder.take(token)
        if done:
            found += builder.build()
            builder = _AddressBuilder()
    return found + builder.build()


class _AddressBuilder:
    """What is known so far of the mailbox that is being read."""

    __slots__ = ("address", "comment", "depth", "words")

    def __init__(self) -> None:
        self.words: list[str] = []
        self.comment: list[str] = []
        self.address = ""
        self.depth = 0

    def take(self, token: re.Match[str]) -> bool:
        """Take in one token; True where it ends the mailbox."""
        quoted, angled, mark, _, _ = token.groups()
        if mark in ("(", ")"):
            self.depth = max(0, self.depth + (1 if mark == "(" else -1))
        elif self.depth:
            self.comment.append(token[0])
        elif mark in (",", ";"):
            return True
        elif mark == ":":
            self.words.clear()
        elif angled is not None:
            self.address = self.address or angled.rpartition(":")[2]
        elif quoted is not None and not token[0].endswith("@"):
            self.words.append(_QUOTED_PAIR.sub(r"\1", quoted))
        else:
            self.words.append(token[0])
        return False

    def build(self) -> list[Address]:
        """The mailbox, or nothing where there was none."""
        words, comment = "".join(self.words), "".join(self.comment)
        address = self.address
        if not address and "@" in words:
            address, words = words, ""
        name = one_line(decode_words(words.strip() or comment.strip()))
        address = one_line(address).replace(" ", "").lower()
        return [Address(name, address)] if name or address else []


def sender(headers: Headers) -> str:
    """Who wrote a mail: the address of From, in lower case; "" where nobody is named.

    A list that rewrites From writes "Name via list <list@…>" (Mailman, Google Groups). There it is the
    address that the list kept (X-Original-From, or a Reply-To by the same name), else that name.
    Without a From it is the Sender; without an address, the name.
    """
    author = _first(headers, b"from") or _first(headers, b"sender")
    if author is None:
        return ""
    if " via " in author.name.lower() or "(via " in author.name.lower():
        rewritten = _VIA.match(author.name)
        if rewritten is not None:
            return _before_rewriting(headers, rewritten[1].strip("'\" "), author.address)
    return author.address or author.name


def _before_rewriting(headers: Headers, name: str, list_address: str) -> str:
    for field in (b"x-original-from", b"x-original-sender"):
        original = _first(headers, field)
        if original is not None and original.address not in ("", list_address):
            return original.address
    for reply_to in addresses(headers.get(b"reply-to")):
        if reply_to.address != list_address and reply_to.name.strip("'\" ").lower() == name.lower():
            return reply_to.address
    return name


def _first(headers: Headers, field: bytes) -> Address | None:
    found = addresses(headers.get(field))
    return next((item for item in found if item.address), found[0] if found else None)
