"""Which mail comes in at all: rules over headers, lists, labels and folders. Pure.

A rule reads `KIND:PATTERN`; patterns are shell globs and ignore case.

    from:*@notifications.example    the address of From or Sender
    to:team@example.org             an address of To or Cc
    list:*linux-raid*               the id in List-Id, else the address in List-Post
    header:Auto-Submitted           a header that is there; `header:X-Spam-Flag=yes` has that value
    label:Spam                      one of the mail's labels (Gmail Takeout, Maildir and IMAP flags)
    folder:Archive/*                the Maildir or IMAP folder
    subject:*[newsletter]*          the decoded subject

`header:Auto-Submitted` does not match the value `no`, by which a person's mail says that it is one (RFC 3834).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import translate
from typing import Literal, get_args

from jobs.contracts.errors import UsageError
from jobs.mail.addresses import addresses
from jobs.mail.encoded_words import decode_words
from jobs.mail.headers import Headers

Kind = Literal["from", "to", "list", "header", "label", "folder", "subject"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_FIELD_NAME = re.compile(r"[!-9;-~]+")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: what it looks at, and the glob that one of the values must match."""

    kind: Kind
    pattern: re.Pattern[str]
    text: str
    """The rule as the user wrote it; results are counted under it."""
    header: bytes = b""
    """Name of the header, in lower case, of a `header:` rule."""

    def matches(self, headers: Headers, labels: Iterable[str], folder: str | None) -> bool:
        """Whether a mail is one that the rule means."""
        return any(self.pattern.match(value) for value in self._values(headers, labels, folder))

    def _values(self, headers: Headers, labels: Iterable[str], folder: str | None) -> Iterable[str]:
        match self.kind:
            case "from" | "to":
                return _addresses(headers, _ADDRESS_FIELDS[self.kind])
            case "list":
                return _list_ids(headers)
            case "subject":
                return [headers.text(b"subject")]
            case "label":
                return labels
            case "folder":
                return [folder] if folder is not None else []
            case _:
                return _header_values(headers, self.header)


def parse_rule(text: str) -> Rule:
    """The rule that `KIND:PATTERN` writes; UsageError where it is none."""
    kind, _, value = (part.strip() for part in text.partition(":"))
    kind = kind.lower()
    header, pattern = "", value
    if kind == "header":
        header, _, pattern = (part.strip() for part in value.partition("="))
        pattern = pattern or "*"
    if kind not in KINDS or not value or (kind == "header" and not _FIELD_NAME.fullmatch(header)):
        raise UsageError(
            f"not a filter: {text!r}",
            hint=f"write KIND:PATTERN, as from:*@example.com; a KIND is one of {', '.join(KINDS)}",
        )
    return Rule(kind, re.compile(translate(pattern), re.IGNORECASE), f"{kind}:{value}", header.lower().encode())


def rule_text(form: str | Mapping[str, str]) -> str:
    """A rule as text, from the form that a cycle's spec gives it: `{header: Auto-Submitted}`."""
    if isinstance(form, str):
        return form
    if len(form) != 1:
        raise UsageError(f"a filter has one field, this one has {len(form)}: {dict(form)!r}")
    return ":".join(next(iter(form.items())))


@dataclass(frozen=True, slots=True)
class Filters:
    """Rules together: a mail comes in where an include rule matches, or there is none, and no exclude rule does."""

    include: tuple[Rule, ...] = ()
    exclude: tuple[Rule, ...] = ()

    @classmethod
    def parse(cls, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> Filters:
        """Filters from rules as text; UsageError names the one that is none."""
        return cls(tuple(parse_rule(text) for text in include), tuple(parse_rule(text) for text in exclude))

    def __bool__(self) -> bool:
        return bool(self.include or self.exclude)

    def left_out_by(self, headers: Headers, labels: Iterable[str] = (), folder: str | None = None) -> str | None:
        """The rule that leaves a mail out, as it is counted; None where the mail comes in."""
        labels = list(labels)
        for rule in self.exclude:
            if rule.matches(headers, labels, folder):
                return f"exclude {rule.text}"
        if self.include and not any(rule.matches(headers, labels, folder) for rule in self.include):
            return NOT_INCLUDED
        return None


NO_FILTERS = Filters()
NOT_INCLUDED = "matched no include"


_NOT_AUTOMATIC = re.compile(r"\s*no\s*(?:[;(]|$)", re.IGNORECASE)


def _header_values(headers: Headers, name: bytes) -> list[str]:
    values = [decode_words(value) for value in headers.get_all(name)]
    if name == b"auto-submitted":
        return [value for value in values if not _NOT_AUTOMATIC.match(value)]
    return values


_ADDRESS_FIELDS = {"from": (b"from", b"sender"), "to": (b"to", b"cc")}


def _addresses(headers: Headers, names: Iterable[bytes]) -> list[str]:
    return [item.address for name in names for value in headers.get_all(name) for item in addresses(value)]


_BRACKETED = re.compile(r"<(?:mailto:)?([^<>]*)>", re.IGNORECASE)


def _list_ids(headers: Headers) -> list[str]:
    """The List-Id's id (RFC 2919), in brackets or bare; the address of List-Post (RFC 2369) without one."""
    for name in (b"list-id", b"list-post"):
        text = headers.text(name)
        if text:
            return _BRACKETED.findall(text) or [text]
    return []
