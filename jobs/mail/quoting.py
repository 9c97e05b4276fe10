"""Where a mail quotes another: spans of its text, found line by line.

What counts as a quote:

- runs of lines that begin with `>`, with the attribution that introduces them ("On … wrote:");
- all that follows "-----Original Message-----", or a block of From/Sent/To/Subject lines as Outlook
  writes it, or an attribution behind which nothing is marked;

in the languages of `jobs.mail.languages`. What does not: a mail that begins with such a block
(a forward without comment, the in-body headers of a patch), what a forward carries, `>From ` of an
mbox, `>>>` prompts where nothing is quoted at a lower level, and `> ` lines of a plain diff. Other
prefixes than `>` (`| `, `JD> `) are taken for text. Patches hold no line that begins with `>`.

Every rule takes time linear in the text: candidates come from plain searches, and a candidate is
judged by the few hundred characters around it.
"""

from __future__ import annotations

import re
from collections import defaultdict

from jobs.mail.languages import FORWARDED_MESSAGE, HEADER_NAMES, OPENINGS, ORIGINAL_MESSAGE, WROTE

Span = tuple[int, int]
"""Start and end of a piece of the text, in characters; it holds whole lines."""

_CLASS_OF = {name.lower(): kind for kind, names in HEADER_NAMES.items() for name in names}
_MAX_NAME_CHARS = max(map(len, _CLASS_OF))
_FROM_LINE = re.compile(rf"\n[ *_]{{0,3}}(?:{'|'.join(HEADER_NAMES['from'])})[ *_]{{0,3}}:")
_ORIGINAL = re.compile(rf"\s*-{{2,}}\s*(?:{'|'.join(ORIGINAL_MESSAGE)})\s*-{{2,}}\s*", re.IGNORECASE)
_FORWARD = re.compile("|".join(FORWARDED_MESSAGE), re.IGNORECASE)
_WROTE = re.compile("|".join(WROTE))
_OPENING = re.compile(rf"\s{{0,3}}(?:{'|'.join(OPENINGS)})", re.IGNORECASE)
_WHO_OR_WHEN = re.compile(r"\S@\S|\d{1,4}[./-]\d{1,2}[./-]\d{2,4}|\b\d{1,2}:\d\d\b")
_MARKED_RUN = re.compile(r"(?:>[^\n]*(?:\n|\Z))++")
_LOWER_LEVEL = re.compile(r"^>(?!>>)", re.MULTILINE)
_DIFF_COMMAND = re.compile(r"\d+(?:,\d+)?[acd]\d+(?:,\d+)?")
_ELISION = re.compile(r"[\[<( ]{0,3}(?:\.{3,5}|snip(?:ped)?|cut)[\])> ]{0,3}", re.IGNORECASE)
_SEPARATOR = re.compile(r"[\s*]*[_=-]{5,}[\s*]*")
_PATCH_HEADER = re.compile(r"From [0-9a-f]{7,40} |-{1,2} ?>8")
_COLONS = (":", "\N{FULLWIDTH COLON}")
_MAX_LINE = 400
_MAX_AFTER_VERB = 120


def quote_spans(text: str, *, forwarded: bool = False) -> list[Span]:
    """The quotes of a text, in order, none touching another.

    A `forwarded` mail (by its subject) keeps what follows a block of header lines.
    """
    marked = _marked_spans(text)
    start = _rest_start(text, marked[-1][1] if marked else 0, forwarded=forwarded)
    if start is None:
        return marked
    return [span for span in marked if span[0] < start] + [(start, len(text))]


def split_by_quotes(text: str) -> tuple[list[str], list[str]]:
    """The pieces of a mail's text that are its own, and those that it quotes."""
    own, quoted, position = [], [], 0
    for start, end in quote_spans(text):
        own.append(text[position:start])
        quoted.append(text[start:end])
        position = end
    own.append(text[position:])
    return own, quoted


def own_text(text: str) -> str:
    """A mail's text without what it quotes; empty where it only quotes."""
    return "".join(split_by_quotes(text)[0]).strip()


def quoted_levels(text: str) -> list[str]:
    """What a mail's text quotes, the lines with as many `>` together: of the mail it answers, of the one before."""
    levels: dict[int, list[str]] = defaultdict(list)
    for quote in split_by_quotes(text)[1]:
        for line in quote.splitlines():
            marks = line.removesuffix(line.lstrip("> \t"))
            levels[marks.count(">")].append(line)
    return ["\n".join(lines) for _, lines in sorted(levels.items())]


# ---- lines that begin with >


def _marked_spans(text: str) -> list[Span]:
    spans: list[Span] = []
    prompts: bool | None = None
    position = 0 if text.startswith(">") else _next_line(text, "\n>", 0)
    while position >= 0:
        match = _MARKED_RUN.match(text, position)
        end = match.end() if match is not None else len(text)
        if text.startswith(">>> ", position) and prompts is None:
            prompts = _LOWER_LEVEL.search(text) is None
        is_prompt = bool(prompts) and text.startswith(">>> ", position)
        if not is_prompt and not _is_from_line(text, position, end) and not _is_plain_diff(text, position):
            floor = spans[-1][1] if spans else 0
            start = _attribution_start(text, position, floor)
            if spans and not text[floor:start].strip():
                spans[-1] = (spans[-1][0], end)
            else:
                spans.append((start, end))
        position = _next_line(text, "\n>", end - 1)
    return spans


def _next_line(text: str, prefix: str, position: int) -> int:
    found = text.find(prefix, max(position, 0))
    return found + 1 if found >= 0 else -1


def _is_from_line(text: str, start: int, end: int) -> bool:
    """Whether this is one line of body text that an mbox has escaped."""
    return text.startswith(">From ", start) and text.find("\n", start) in (end - 1, -1)


def _is_plain_diff(text: str, start: int) -> bool:
    """Whether the lines are those that a diff without context adds: `3a4`, or `---` below lines with `<`."""
    above = _line_above(text, start)
    line = text[above:start].strip()
    if line == "---":
        return text.startswith("<", _line_above(text, above))
    return _DIFF_COMMAND.fullmatch(line) is not None


def _line_above(text: str, position: int) -> int:
    """The start of the line that ends at `position`, at most `_MAX_LINE` characters back."""
    return max(text.rfind("\n", max(0, position - _MAX_LINE), max(0, position - 1)) + 1, position - _MAX_LINE, 0)


def _attribution_start(text: str, position: int, floor: int) -> int:
    """Where the attribution of the quote at `position` begins; `position` itself where it has none."""
    end = _content_above(text, position, floor)
    if end > floor and text[end - 1] in "].>)" and _ELISION.fullmatch(text, _line_above(text, end), end) is not None:
        end = _content_above(text, _line_above(text, end), floor)
    if end <= floor or text[end - 1] not in _COLONS:
        return position
    start = _line_above(text, end)
    line = text[start:end]
    if start < floor or not (_WROTE.search(line) or _WHO_OR_WHEN.search(line)):
        return position
    return _opening(text, start, end, floor) if _OPENING.match(line) is None else start


def _content_above(text: str, position: int, floor: int) -> int:
    """The end of the line above `position`, over at most two blank lines."""
    end = position
    while end > floor and position - end < 3 and text[end - 1] == "\n":
        end -= 1
    return end


def _opening(text: str, last: int, end: int, floor: int) -> int:
    """The first line of an attribution whose last line begins at `last`; `last` where no line opens one."""
    start = last
    for _ in range(3):
        above = _line_above(text, start)
        line = text[above:start]
        if above < floor or start - above > _MAX_LINE - 2 or not line.strip() or line.startswith(">"):
            return last
        start = above
        if _OPENING.match(line) is not None and end - start < _MAX_LINE:
            return start
    return last


# ---- all that follows


def _rest_start(text: str, after_marked: int, *, forwarded: bool) -> int | None:
    """Where a quote begins that runs to the end of the text without marks; None where there is none."""
    starts = []
    position = 0
    while (position := _next_line(text, "\n---", position)) > 0:
        line = text[position : position + 100].partition("\n")[0].rstrip()
        if not line.endswith("-") or not line.strip("-"):
            continue
        if _FORWARD.search(line) is not None:
            break
        if _ORIGINAL.fullmatch(line) is not None:
            starts.append(position)
            break
    limit = position if position > 0 else len(text)
    block = None if forwarded else _header_block(text, limit)
    if block is not None:
        starts.append(block)
    if position <= 0:
        attribution = _bare_attribution(text, after_marked)
        if attribution is not None:
            starts.append(attribution)
    start = min(starts, default=None)
    return start if start is not None and text[:start].strip() else None


def _bare_attribution(text: str, position: int) -> int | None:
    """An attribution behind the last marked line, with text below it that nothing marks."""
    for colon in _COLONS:
        found = position - 1
        while (found := text.find(colon + "\n", found + 1)) >= 0:
            end = found + 1
            start = _line_above(text, end)
            if end + 1 >= len(text) or _WROTE.search(text, max(start, end - _MAX_AFTER_VERB), end) is None:
                continue
            if _OPENING.match(text, start, end) is None:
                start = _opening(text, start, end, position)
            opening = _OPENING.match(text, start, end)
            if opening is not None and _WHO_OR_WHEN.search(text, start, end) is not None:
                return start
    return None


def _header_block(text: str, limit: int) -> int | None:
    """The start of a block of mail header lines, with its separator, below some text of the author's."""
    position = 0
    while (match := _FROM_LINE.search(text, position, limit)) is not None:
        first = match.start() + 1
        for _ in range(4):
            above = _line_above(text, first)
            if above == first or _header_class(text, above) is None:
                break
            first = above
        end, kinds = _read_block(text, first)
        if ("to" in kinds or "sent" in kinds) and len(kinds) >= 3:
            start = _above_block(text, first)
            line = text[_line_above(text, start) : start]
            forward = _FORWARD.search(line) is not None or _PATCH_HEADER.match(line) is not None
            return None if forward else start
        position = max(match.end(), end)
    return None


def _header_class(text: str, position: int) -> str | None:
    """Which header the line at `position` holds, in any of the languages: `from`, `to` and so on."""
    end = text.find(":", position, position + _MAX_NAME_CHARS + 8)
    if end < 0:
        return None
    return _CLASS_OF.get(text[position:end].strip(" *_\t").lower())


def _read_block(text: str, position: int) -> tuple[int, set[str]]:
    """The end of the header lines from `position` on, and which headers they hold.

    A line may be wrapped, and one blank line may stand between two headers.
    """
    kinds: set[str] = set()
    end = position
    misses = 0
    for _ in range(24):
        kind = _header_class(text, position)
        line_end = text.find("\n", position)
        if kind is not None:
            kinds.add(kind)
            misses = 0
            end = line_end if line_end >= 0 else len(text)
        else:
            misses += 1
            blank = text.startswith("\n", position)
            if misses > 2 or (blank and misses > 1):
                break
        if line_end < 0:
            break
        position = line_end + 1
    return end, kinds


def _above_block(text: str, position: int) -> int:
    """`position`, or the start of the blank lines and of the separator right above it."""
    start = position
    while start > 0 and text[start - 1] == "\n" and position - start < 3:
        above = _line_above(text, start)
        line = text[above:start]
        if line.strip() and _SEPARATOR.fullmatch(line) is None:
            break
        start = above
        if line.strip():
            break
    return start
