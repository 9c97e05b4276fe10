"""Bytes to text: the charset that was declared, else the one that fits, else replacement characters."""

from __future__ import annotations

import codecs
import re
from functools import lru_cache

_ALIASES = {
    "ansi": "cp1252",
    "big5-eten": "cp950",
    "cp-850": "cp850",
    "gb2312": "gb18030",
    "gb_2312-80": "gb18030",
    "gbk": "gb18030",
    "iso-8859-6-e": "iso8859-6",
    "iso-8859-6-i": "iso8859-6",
    "iso-8859-8-e": "iso8859-8",
    "iso-8859-8-i": "iso8859-8",
    "ks_c_5601-1987": "cp949",
    "ks_c_5601": "cp949",
    "euc-kr": "cp949",
    "latin-9": "iso8859-15",
    "macintosh": "mac-roman",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "sjis": "cp932",
    "x-sjis": "cp932",
    "tis-620": "cp874",
    "unicode-1-1-utf-7": "utf-7",
    "utf8mb4": "utf-8",
    "windows-31j": "cp932",
    "windows-874": "cp874",
}
"""Names that Python does not know, and those whose vendor superset is what mail programs really send."""

_NOT_FOR_MAIL = frozenset({"idna", "mbcs", "oem", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"})
"""Python codecs that are no charsets; two of them take quadratic time."""

_CANDIDATES = (
    *("cp1252", "cp1251", "koi8_r", "cp1250", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp874"),
    *("gb18030", "big5", "cp932", "euc_jp", "cp949"),
)
"""What mail without a declared charset is looked for in."""

_SAMPLE_BYTES = 8192
_MIN_NON_ASCII = 24
"""Fewer bytes than these tell nothing about a charset."""
_NON_ASCII = re.compile(rb"[\x80-\xff]")


@lru_cache(maxsize=1024)
def codec_name(charset: str) -> str | None:
    """Python's name of the codec for a MIME charset name; None where it is unknown."""
    name = charset.strip().strip("\"'").lower()
    name = _ALIASES.get(name) or _ALIASES.get(name.removeprefix("x-").removeprefix("cs"), name)
    if not name.isascii() or len(name) > 40 or "\0" in name:
        return None
    try:
        info = codecs.lookup(name)
        "".encode(info.name)
    except (LookupError, UnicodeError, ValueError):
        return None
    return None if info.name in _NOT_FOR_MAIL else info.name


def decode_bytes(data: bytes, charset: str | None) -> tuple[str, bool]:
    """Text of `data`, and whether characters had to be guessed or replaced because `charset` did not fit.

    A declared charset is used where it fits. UTF-8 comes next, since text is hardly ever valid UTF-8
    by chance; then detection, on a sample of 8 KiB, where no usable charset was declared. ISO 8859-1
    is read as Windows-1252, as browsers do. Never raises; linear in the length of `data`.
    """
    codec = codec_name(charset) if charset else None
    declared = codec if codec != "ascii" else None
    if declared is None and data.isascii():
        return data.decode("ascii"), False
    for candidate in ("cp1252", "iso8859-1") if declared == "iso8859-1" else (declared,):
        if candidate is not None and (text := _strict(data, candidate)) is not None:
            return text, False
    if (text := _strict(data, "utf-8")) is not None:
        return text, declared is not None
    codec = declared or _detect(data)
    return data.decode(codec, "replace"), True


def _strict(data: bytes, codec: str) -> str | None:
    try:
        return data.decode(codec)
    except (UnicodeError, ValueError):
        return None


def _detect(data: bytes) -> str:
    """A codec for bytes that are neither declared nor UTF-8; Windows-1252 where nothing is more likely."""
    from charset_normalizer import from_bytes

    first = _NON_ASCII.search(data)
    start = max(0, (first.start() if first else 0) - _SAMPLE_BYTES // 8)
    sample = data[start : start + _SAMPLE_BYTES]
    if len(_NON_ASCII.findall(sample)) < _MIN_NON_ASCII:
        return "cp1252"
    best = from_bytes(sample, cp_isolation=list(_CANDIDATES)).best()
    codec = codec_name(best.encoding) if best is not None else None
    return codec if codec is not None and _strict(data, codec) is not None else "cp1252"
