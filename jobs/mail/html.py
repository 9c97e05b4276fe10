"""HTML mail to plain text that quoting and signatures can be read from.

One pass over the events of libxml2's parser, without a tree: linear time, flat memory, any nesting.
Quoted blocks get `> ` before each line, so that one set of rules finds quotes in both kinds of mail.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

MAX_HTML_CHARS = 1 << 20
MAX_QUOTE_DEPTH = 8

_PARAGRAPH = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "ul", "ol", "dl", "pre", "table", "hr"})
_LINE = frozenset(
    {"address", "article", "aside", "body", "caption", "center", "dd", "details", "div", "dt", "fieldset", "figure"}
    | {"footer", "form", "header", "li", "main", "nav", "section", "summary", "tbody", "tfoot", "thead", "tr"}
)
_SKIPPED = frozenset({"applet", "head", "noscript", "object", "script", "select", "style", "svg", "template", "title"})
_XML_DECLARATION = re.compile(r"\A\s*<\?xml[^>]*>")
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s{0,9}=\s{0,9}[\"']?([A-Za-z0-9_:.-]{1,40})", re.IGNORECASE)
_QUOTE_IDS = frozenset({"OLK_SRC_BODY_SECTION", "isReplyContent", "mailContentContainer"})
_NO_BORDER = re.compile(r"border\s*:\s*(?:none|0)", re.IGNORECASE)


def html_to_text(html: str) -> str:
    """The text of an HTML document: paragraphs, lists and preformatted lines kept, markup and styles gone.

    Only the first `MAX_HTML_CHARS` characters are read. Never raises.
    """
    from lxml.etree import HTMLParser, LxmlError

    reader = _Reader()
    parser = HTMLParser(target=reader, huge_tree=True, remove_comments=True, remove_pis=True)
    try:
        parser.feed(_XML_DECLARATION.sub("", html[:MAX_HTML_CHARS]))
        parser.close()
    except LxmlError:
        pass  # an empty document; what was read before a fatal error is kept
    return reader.text()


def declared_charset(data: bytes) -> str | None:
    """The charset that a `<meta>` element near the beginning names."""
    match = _CHARSET.search(data, 0, 4096)
    return match[1].decode("ascii") if match is not None else None


class _Reader:
    """Receives the parser's events and builds lines."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._line: list[str] = []
        self._space = False
        self._skip = 0
        self._pre = 0
        self._quotes: list[bool] = []
        self._lists: list[int] = []
        self._depth = 0
        self._only_space = False

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """An element begins."""
        if tag in _SKIPPED:
            self._skip += 1
        if self._skip:
            return
        if tag == "br":
            self._break(keep_empty=True)
        elif tag in ("td", "th"):
            self._space = bool(self._line)
        elif tag in _PARAGRAPH or tag in _LINE:
            self._break()
            if tag in _PARAGRAPH and not _tight(attributes):
                self._blank()
            self._block(tag, attributes)

    def _block(self, tag: str, attributes: Mapping[str, str]) -> None:
        if tag in ("ul", "ol"):
            self._lists.append(1 if tag == "ol" else 0)
        elif tag == "li":
            self._item()
        elif tag == "pre":
            self._pre += 1
        elif tag in ("blockquote", "div"):
            quoted = _is_quote(tag, attributes)
            self._quotes.append(quoted)
            self._depth += quoted

    def end(self, tag: str) -> None:
        """An element ends."""
        if tag in _SKIPPED:
            self._skip = max(0, self._skip - 1)
            return
        if self._skip or (tag not in _PARAGRAPH and tag not in _LINE):
            return
        self._break()
        if tag in ("ul", "ol") and self._lists:
            self._lists.pop()
        elif tag == "pre":
            self._pre = max(0, self._pre - 1)
        elif tag in ("blockquote", "div") and self._quotes:
            self._depth -= self._quotes.pop()
        if tag in _PARAGRAPH and tag != "p":
            self._blank()

    def data(self, data: str) -> None:
        """Text."""
        if self._skip:
            return
        if self._pre:
            first, *rest = data.split("\n")
            self._line.append(first)
            for line in rest:
                self._break(keep_empty=True)
                self._line.append(line)
            return
        words = data.split()
        if not words:
            self._space = True
            self._only_space = self._only_space or "\xa0" in data
            return
        if self._line and (self._space or data[0].isspace()):
            self._line.append(" ")
        self._line.append(" ".join(words))
        self._space = data[-1].isspace()

    def close(self) -> None:
        """The document ends."""
        self._break()

    def text(self) -> str:
        """All lines so far."""
        self._break()
        while self._lines and not self._lines[-1].strip("> "):
            self._lines.pop()
        return "\n".join(self._lines)

    def _item(self) -> None:
        number = self._lists[-1] if self._lists else 0
        indent = "  " * min(len(self._lists) - 1, 8)
        self._line.append(f"{indent}{number}. " if number else f"{indent}* ")
        if number:
            self._lists[-1] += 1

    def _break(self, *, keep_empty: bool = False) -> None:
        if self._line or keep_empty or self._only_space:
            self._lines.append(self._prefix() + "".join(self._line))
            self._line.clear()
        self._space = self._only_space = False

    def _blank(self) -> None:
        if self._lines and self._lines[-1].strip("> "):
            self._lines.append(self._prefix())

    def _prefix(self) -> str:
        return ">" * min(self._depth, MAX_QUOTE_DEPTH) + " " if self._depth else ""


def _tight(attributes: Mapping[str, str]) -> bool:
    """Whether a paragraph has no space around it: Word's, which are lines."""
    return attributes.get("class", "").startswith("Mso")


def _is_quote(tag: str, attributes: Mapping[str, str]) -> bool:
    """Whether a block holds somebody else's text: a blockquote that is not mere indentation, or a known wrapper."""
    if attributes.get("id") in _QUOTE_IDS:
        return True
    names = attributes.get("class", "")
    if tag == "div":
        return "yahoo_quoted" in names or "protonmail_quote" in names
    return attributes.get("type") == "cite" or "quote" in names or not _NO_BORDER.search(attributes.get("style", ""))
