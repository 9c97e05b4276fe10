"""What is shown of a text that grows is what is shown of the whole."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from jobs.serving.text_stream import TextStream

SMALL = st.text(alphabet="ab \n", max_size=12)


def shown(text: str, stops: list[str], *, trimmed: bool, at_once: int = 1) -> str:
    stream, pieces = TextStream(stops, trimmed=trimmed), []
    for end in range(at_once, len(text), at_once):
        pieces.append(stream.grow(text[:end]))
        if stream.is_stopped:
            return "".join(pieces)
    return "".join([*pieces, stream.end(text)])


@given(SMALL, st.lists(SMALL, max_size=3), st.booleans(), st.integers(1, 5))
@example("ab ab", ["b a"], True, 1)
def test_piece_by_piece_as_at_once(text: str, stops: list[str], trimmed: bool, at_once: int) -> None:
    whole = text
    # Of two stops the one that is whole first ends the text as it grows.
    found = [(place + len(stop), place) for stop in stops if stop and (place := text.find(stop)) >= 0]
    if at_once == 1 or len(stops) < 2:
        whole = text[: min(found)[1]] if found else text
        assert shown(text, stops, trimmed=trimmed, at_once=at_once) == (whole.strip() if trimmed else whole)


def test_a_character_that_is_not_whole_waits() -> None:
    stream = TextStream()
    assert [stream.grow(text) for text in ("a", "a\ufffd", "aé")] == ["a", "", "é"]
    assert stream.end("aé") == ""
