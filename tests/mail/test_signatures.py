"""Signatures, list footers and disclaimers."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.mail.decode import TextOptions, strip_text

PATCH = "Fix it.\n---\n a.c | 2 +-\n\ndiff --git a/a.c b/a.c\n--- a/a.c\n+++ b/a.c\n@@ -1,2 +1,2 @@\n-- old\n--\n+new"


def text_of(text: str, **options: bool) -> str:
    return strip_text(text, TextOptions(**options))[0]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Hello\n-- \nJoe Doe\njoe@x", "Hello"),
        ("Hello\n--\nJoe Doe", "Hello"),
        ("Hello\n\nSent from my iPhone", "Hello"),
        ("Hello\n\nVon meinem iPhone gesendet", "Hello"),
        ("Hello\n\nSent from my phone\n\n-- \nJoe", "Hello"),
        (PATCH + "\n-- \n2.20.1", PATCH),
        (PATCH + "\n-- \n2.20.1\n\nWhat follows stays.", PATCH + "\n\nWhat follows stays."),
    ],
)
def test_signatures_go(text: str, left: str) -> None:
    assert text_of(text) == left
    assert text_of(text, strip_signatures=False) == text


def test_a_signature_above_a_quote_goes_and_the_quote_stays() -> None:
    quote = "On Mon, 1 Jul 2019, Joe wrote:\n> Hi\n> -- \n> Joe"
    text = f"Hello\n-- \nAnn\nSent with Mail\n\n{quote}"
    assert strip_text(text) == (f"Hello\n\n{quote}", "Hello")
    assert strip_text(f"Hello\n\nSent from my iPhone\n\n{quote}") == (f"Hello\n\n{quote}", "Hello")


@pytest.mark.parametrize(
    "text",
    [
        PATCH,
        "-- \nThe whole mail stands below the mark.",
        "Section\n--\n" + "a long text below a bare rule\n" * 30 + "end",
        "Hello\n-- \n" + PATCH,
        "Sent from my iPhone I was not.\nHello",
        "Thanks,\nJoe",
        "a list:\n-- one\n-- two",
    ],
)
def test_what_is_no_signature_stays(text: str) -> None:
    assert text_of(text) == text


RULER = "_" * 47


@pytest.mark.parametrize(
    "footer",
    [
        f"{RULER}\ndev mailing list\ndev@x\nhttps://x/mailman/listinfo/dev",
        f"{'-' * 69}\nTo unsubscribe, e-mail: dev-unsubscribe@x",
        '--\nTo unsubscribe from this list: send the line "unsubscribe dev" in\nthe body of a message to majordomo@x',
        '-- \nYou received this message because you are subscribed to the group "dev".\nTo unsubscribe, x',
        f"{RULER}\ndev mailing list -- dev@x\nTo unsubscribe send an email to dev-leave@x",
    ],
)
def test_list_footers_go(footer: str) -> None:
    assert text_of(f"Hello\n\n{footer}") == "Hello"
    assert text_of(f"Hello\n-- \nJoe\n{footer}") == "Hello"
    kept = text_of(f"Hello\n\n{footer}", strip_footers=False, strip_signatures=False)
    assert kept == f"Hello\n\n{footer}"


@pytest.mark.parametrize(
    "text",
    [
        "How do I unsubscribe from the mailing list?",
        "I asked on the mailing list\nand nobody answered.",
        "To unsubscribe from this list, write to majordomo.",
        "Hello\n\nTo unsubscribe: see\n> the footer\nthat is quoted here.",
    ],
)
def test_talk_about_lists_stays(text: str) -> None:
    assert text_of(text) == text


@pytest.mark.parametrize(
    "disclaimer",
    [
        "CONFIDENTIALITY NOTICE: This e-mail is private.\n\nAnd long.",
        "This e-mail and any attachments are confidential and may be privileged.\nIf you are not …",
        "The information in this message is confidential.",
        "*Disclaimer:* the views are my own.",
        "Diese E-Mail enthält vertrauliche Informationen.",
        "Ce message et toutes les pièces jointes sont confidentiels.",
        "____________\nIf you have received this message in error, it is confidential.",
    ],
)
def test_disclaimers_go(disclaimer: str) -> None:
    assert text_of(f"Hello\n\n{disclaimer}") == "Hello"
    assert text_of(f"Hello\n\n{disclaimer}", strip_disclaimers=False) == f"Hello\n\n{disclaimer}"
    quote = "-----Original Message-----\n\nHi"
    assert strip_text(f"Hello\n\n{disclaimer}\n\n{quote}")[1] == "Hello"


@pytest.mark.parametrize(
    "text",
    [
        "This is confidential between us, Joe.",
        "CONFIDENTIALITY NOTICE: a mail of nothing else stays.",
        "Hello\n\nThe intended recipient of the packet is the kernel.",
        "Hello\n\nDisclaimer: I did not test it.\n\n" + PATCH,
    ],
)
def test_talk_about_secrets_stays(text: str) -> None:
    assert text_of(text) == text


def test_openpgp_armor_goes() -> None:
    armored = (
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nHello\n- -- dashes\n\n"
        "-----BEGIN PGP SIGNATURE-----\nVersion: x\n\niQ+abc=\n=abcd\n-----END PGP SIGNATURE-----"
    )
    assert text_of(armored) == "Hello\n-- dashes"
    assert text_of(armored, strip_signatures=False) == armored


@given(
    st.lists(
        st.sampled_from(
            ["-- ", "--", "> q", "text", "", "Sent from my iPhone", "To unsubscribe, x", "____", "Disclaimer: x"]
        )
    )
)
def test_stripping_only_takes_away_and_loses_no_quote(lines: list[str]) -> None:
    text, unquoted = strip_text("\n".join(lines))
    rest = iter(line for line in lines if line)
    assert all(line in rest for line in text.split("\n") if line)
    assert text.count("> q") == lines.count("> q")
    assert "> q" not in unquoted


@pytest.mark.parametrize(
    "piece",
    [
        *("-- \n", "--\n", "-- \n>q\n", "Sent from \n", "unsubscribe ", "confidential this message ", "_____\n", " "),
        *(
            "-----BEGIN PGP SIGNATURE-----\n",
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: x\n",
            "\nthis message intended ",
        ),
    ],
)
def test_hostile_text_takes_linear_time(piece: str) -> None:
    begin = time.process_time()
    strip_text("x\n" + piece * (1_000_000 // len(piece)))
    assert time.process_time() - begin < 2


TALON_FLOOR = 1 / 6
"""Talon guesses signatures without a delimiter from the sender's name; a name and a greeting stay here on purpose."""


def test_talons_signatures(corpora: Path) -> None:
    bodies = sorted((corpora / "odd-mail" / "talon-quotes" / "signature" / "emails" / "stripped").glob("*_body"))
    right = 0
    for path in bodies:
        body = path.read_text()
        signature = path.with_name(path.name.removesuffix("_body") + "_signature").read_text()
        expected = body.replace(signature, "") if signature else body
        right += re.sub(r"\s", "", text_of(body)) == re.sub(r"\s", "", expected)
    assert len(bodies) == 6
    assert right / len(bodies) >= TALON_FLOOR
