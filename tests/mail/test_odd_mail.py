"""Malformed and unusual mail: all of the corpus decodes within its limits, and as stalwart's parser expects."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs.mail.addresses import addresses
from jobs.mail.bodies import Bodies
from jobs.mail.headers import message_ids, parse_date
from jobs.mail.html import html_to_text
from jobs.mail.mime import part_at

GUESSED = "raw 8-bit text without a charset: guessed here, replaced there"
NO_DELIMITER = "a multipart without any delimiter is kept as text here, dropped there"
UNCLOSED = "parts behind an inner multipart that was never closed: kept here, dropped there"
OTHER_VERSION = "another of the versions of a multipart/alternative"

DISAGREEMENTS = {
    "legacy/010": ("subject", GUESSED),
    "legacy/020": ("subject", GUESSED),
    "legacy/022": ("subject", GUESSED),
    "legacy/027": ("subject", GUESSED),
    "legacy/052": ("subject text", GUESSED),
    "malformed/001": ("text", "a delimiter of an earlier, empty multipart is text here"),
    "malformed/002": ("text", NO_DELIMITER),
    "malformed/003": ("text", "an inner multipart with the boundary of the outer one: its text is kept here"),
    "malformed/004": ("text", NO_DELIMITER),
    "malformed/005": ("text", "a boundary that ends in -- is told from a closing delimiter by guess only"),
    "malformed/006": ("text", UNCLOSED),
    "malformed/008": ("text", UNCLOSED),
    "malformed/009": ("text", UNCLOSED),
    "malformed/011": ("text", UNCLOSED),
    "malformed/016": ("text", "inner delimiters behind the end of their multipart are text here"),
    "malformed/019": ("text", "a header without a blank line behind it: the text is kept here, dropped there"),
    "malformed/020": ("text", OTHER_VERSION),
    "malformed/021": ("text", OTHER_VERSION),
    "rfc/000": ("text", "text/enriched is text here, an attachment there"),
    "rfc/006": ("text", "the plain version only says that it is a fallback: the HTML version is taken here"),
    "rfc/007": ("text", OTHER_VERSION),
    "thirdparty/002": ("text", "what no base64 can be: other replacement characters"),
    "thirdparty/005": ("text", "a delimiter within a line delimits nothing here"),
    "thirdparty/008": ("text", "an unknown kind of text is text here (RFC 2046), an attachment there"),
    "thirdparty/012": ("text", "an unknown kind of text is text here (RFC 2046), an attachment there"),
}
"""What is decoded otherwise than stalwart's mail-parser does: the fields, and why."""


@pytest.fixture(scope="module")
def odd_mail(corpora: Path) -> Path:
    return corpora / "odd-mail"


def paths(odd_mail: Path) -> list[Path]:
    with (odd_mail / "FEATURES.tsv").open(encoding="utf-8", newline="") as table:
        return [odd_mail / row["path"] for row in csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE)]


DECODE_ALL = """
import sys, time
from pathlib import Path
from jobs.mail.decode import decode
for name in sys.stdin.read().splitlines():
    raw = Path(name).read_bytes()
    begin = time.process_time()
    mail = decode(raw, message_id="x")
    seconds = time.process_time() - begin
    if seconds > 2:
        print(f"{name}: {seconds:.1f} s")
    (mail.text + mail.text_unquoted + mail.subject + mail.sender).encode()
    if "\\0" in mail.text or "\\r" in mail.text:
        print(f"{name}: control characters")
# Not ru_maxrss: that begins with what the process that started this one holds.
mebibytes = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
if mebibytes > 256:
    print(f"{mebibytes:.0f} MiB")
"""


def test_all_decode_within_two_seconds_and_256_mebibytes(odd_mail: Path) -> None:
    names = paths(odd_mail)
    assert len(names) == 275
    command = [sys.executable, "-c", DECODE_ALL]
    done = subprocess.run(command, input="\n".join(map(str, names)), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_same_bytes_give_the_same_mail_in_crlf_and_lf(odd_mail: Path) -> None:
    differing = []
    for path in sorted((odd_mail / "stalwart-mail-parser" / "eml").glob("*/*.eml")):
        lf = path.read_bytes().replace(b"\r\n", b"\n")
        if b"\r" not in lf and found_in(lf) != found_in(lf.replace(b"\n", b"\r\n")):
            differing.append(path.name)
    assert differing == []


def test_headers_and_text_agree_with_stalwarts_expectations(odd_mail: Path) -> None:
    folder = odd_mail / "stalwart-mail-parser"
    found: dict[str, str] = {}
    count = 0
    for path in sorted(folder.glob("eml/*/*.eml")):
        count += 1
        expected = expected_in(json.loads(path.with_suffix(".json").read_text()))
        crlf = expected_in(json.loads(path.with_suffix(".crlf.json").read_text()))
        raw = path.read_bytes()
        raw_crlf = raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        fields = {*differing(expected, found_in(raw)), *differing(crlf, found_in(raw_crlf))}
        if fields:
            found[f"{path.parent.name}/{path.stem}"] = " ".join(sorted(fields))
    assert count == 107
    assert found == {name: fields for name, (fields, _) in DISAGREEMENTS.items()}


def differing(expected: dict[str, Any], got: dict[str, Any]) -> list[str]:
    return [field for field in expected if expected[field] != got[field]]


def found_in(raw: bytes) -> dict[str, Any]:
    """What is read from a mail, in the form of `expected_in`."""
    mail = part_at(raw, 0, len(raw))
    headers = mail.headers
    bodies = Bodies()
    texts = [block for block in bodies.read(mail) if isinstance(block, str)]
    return {
        "message_id": message_ids(headers.get(b"message-id")),
        "references": message_ids(headers.get(b"references")),
        "in_reply_to": message_ids(headers.get(b"in-reply-to")),
        "subject": headers.text(b"subject", bodies.charset),
        "from": [(item.name, item.address) for item in addresses(headers.get(b"from"))],
        "date": parse_date(headers.get(b"date")),
        "text": " ".join(" ".join(texts).split()),
    }


def expected_in(parsed: dict[str, Any]) -> dict[str, Any]:
    """What stalwart's expectation says of the same fields; its pictures within the text are left out."""
    headers: dict[str, Any] = {}
    for header in parsed["parts"][0]["headers"]:
        headers.setdefault(str(header["name"]), header["value"])
    bodies = [parsed["parts"][index]["body"] for index in parsed["text_body"]]
    texts = [body["Text"] if "Text" in body else html_to_text(body.get("Html", "")) for body in bodies]
    return {
        "message_id": strings(headers.get("message_id", "Empty")),
        "references": strings(headers.get("references", "Empty")),
        "in_reply_to": strings(headers.get("in_reply_to", "Empty")),
        "subject": " ".join(" ".join(strings(headers.get("subject", "Empty"))).split()),
        "from": mailboxes(headers.get("from", "Empty")),
        "date": moment(headers.get("date", "Empty")),
        "text": " ".join(" ".join(texts).replace("\0", "").split()),
    }


def strings(value: Any) -> list[str]:
    if value == "Empty":
        return []
    return [value["Text"]] if "Text" in value else value["TextList"]


def mailboxes(value: Any) -> list[tuple[str, str]]:
    if value == "Empty":
        return []
    lists = value["Address"]
    items = lists["List"] if "List" in lists else [item for group in lists["Group"] for item in group["addresses"]]
    return [(" ".join((item["name"] or "").split()), (item["address"] or "").lower()) for item in items]


def moment(value: Any) -> datetime | None:
    if value == "Empty":
        return None
    date = value["DateTime"]
    local = datetime(*(date[part] for part in ("year", "month", "day", "hour", "minute", "second")), tzinfo=UTC)
    offset = timedelta(hours=date["tz_hour"], minutes=date["tz_minute"])
    return local + offset if date["tz_before_gmt"] else local - offset
