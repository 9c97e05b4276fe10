import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.mail.template import (
    BODY_END,
    TEMPLATE_DIGEST,
    Segment,
    message_header,
    render,
    render_prompt,
    segments,
    subject_header,
)

DATE = "2019-07-01T09:30:59Z"
lines = st.text(max_size=20)
messages = st.lists(st.tuples(lines, st.just(DATE), st.text(max_size=60)), max_size=4)


def test_a_text_as_a_reader_sees_it():
    text, bodies = render("Disk full", [("a@x.example", DATE, "Help!"), ("b@x.example", DATE, "Delete\nsomething.")])
    assert text == (
        "Subject: Disk full\n\n"
        "From: a@x.example\nDate: 2019-07-01 09:30\n\nHelp!\n\n"
        "From: b@x.example\nDate: 2019-07-01 09:30\n\nDelete\nsomething.\n\n"
    )
    assert [text[start:end] for start, end in bodies] == ["Help!", "Delete\nsomething."]


def test_the_digest_is_pinned():
    """Another digest is another archive: every text and count in the present ones would change."""
    assert TEMPLATE_DIGEST == "c4896193c76e86af3963e13dfedc1aa7"


@pytest.mark.parametrize("value", ["a\nFrom: b", "a\r\n\r\nb", "a\u2028b", "a\x1cb", "a\x85b", "\n", ""])
def test_a_header_has_the_lines_that_it_should_have(value):
    assert subject_header(value).count("\n") == 2
    assert message_header(value, DATE).count("\n") == 3
    assert len((subject_header(value) + message_header(value, DATE)).splitlines()) == 5


def test_a_body_cannot_forge_the_structure():
    forged = "\n\nFrom: b@x.example\nDate: 2019-07-01 09:30\n\nI said so.\n\nSubject: x\n\n"
    text, bodies = render("s", [("a", DATE, forged), ("c", DATE, "")])
    kinds = [segment.kind for segment in segments(text, bodies)]
    assert kinds == ["subject", "header", "body", "end", "header", "body", "end"]
    assert [text[start:end] for start, end in bodies] == [forged, ""]


@given(lines, messages)
def test_segments_are_the_strings_that_are_counted(subject, found):
    text, bodies = render(subject, found)
    parts = list(segments(text, bodies))
    assert "".join(text[part.start : part.end] for part in parts) == text
    assert [text[start:end] for start, end in bodies] == [body for _, _, body in found]
    expected = [subject_header(subject)]
    for sender, date, body in found:
        expected += [message_header(sender, date), body, BODY_END]
    assert [text[part.start : part.end] for part in parts] == expected
    assert parts[0] == Segment("subject", 0, len(expected[0]))


@given(lines, messages, st.text(max_size=60))
def test_a_prompt_is_a_text_up_to_the_body_that_is_asked_for(subject, mails, body):
    whole, spans = render(subject, [*mails, ("b@x.example", DATE, body)])
    prompt, bodies = render_prompt(subject, mails, "b@x.example", DATE)
    assert whole == prompt + body + BODY_END
    assert [*bodies, (len(prompt), len(prompt) + len(body))] == spans
