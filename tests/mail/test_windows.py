import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contracts.errors import ConfigError
from jobs.mail.template import BODY_END, message_header, render, segments, subject_header
from jobs.mail.windows import (
    Piece,
    WindowSettings,
    cut_body,
    cut_message,
    cut_windows,
    period_of,
    sender_of_chunk,
    shortened,
)
from jobs.ml.tokens import WhitespaceCounter

WORDS = WhitespaceCounter()


class Characters:
    """The shortest tokens that there are: every character is two, as a letter of two bytes may be."""

    def count(self, texts):
        return [2 * len(text) for text in texts]

    def offsets(self, text):
        return [(i, i + 1) for i in range(len(text)) for _ in "ab"]


class Merging:
    """Pairs of letters, counted from the beginning of their run: text that is cut inside is tokenised otherwise."""

    def count(self, texts):
        return [len(self.offsets(text)) for text in texts]

    def offsets(self, text):
        found, start = [], 0
        for i in range(1, len(text) + 1):
            if i == len(text) or not {text[i - 1], text[i]} <= {"a", "b"} or i - start == 2:
                found.append((start, i))
                start = i
        return found


def piece(number, num_tokens=1, num_header_tokens=0):
    return Piece(number, 0, 1, 0, 1, num_tokens, num_header_tokens)


def numbers(windows):
    return [([p.message for p in w.context], [p.message for p in w.targets]) for w in windows]


def cut(lengths, tail=(), *, tokens=100, size=None, overlap=0, subject=0):
    settings = WindowSettings(max_tokens=tokens, window_size=size, window_overlap=overlap)
    new = [piece(len(tail) + i, length) for i, length in enumerate(lengths)]
    return cut_windows([piece(i, length) for i, length in enumerate(tail)], new, settings, subject)


# ---- windows


def test_a_thread_without_limits_is_one_chunk():
    assert numbers(cut([1] * 9)) == [([], list(range(9)))]
    assert cut([]) == []


def test_the_size_counts_the_overlap_too():
    assert numbers(cut([1] * 7, size=4, overlap=2)) == [([], [0, 1, 2, 3]), ([2, 3], [4, 5]), ([4, 5], [6])]


def test_the_budget_counts_headers_and_the_end():
    assert numbers(cut([4, 4, 1], tokens=9)) == [([], [0, 1]), ([], [2])]
    assert numbers(cut([4, 4, 1], tokens=10)) == [([], [0, 1, 2])]
    assert numbers(cut([4, 4, 1], tokens=10, subject=1)) == [([], [0, 1]), ([], [2])]
    headed = [piece(0, 2, 3), piece(1, 2, 3)]
    assert numbers(cut_windows([], headed, WindowSettings(max_tokens=10), 0)) == [([], [0]), ([], [1])]
    assert numbers(cut_windows([], headed, WindowSettings(max_tokens=11), 0)) == [([], [0, 1])]


def test_the_overlap_is_at_most_half_of_the_budget_oldest_dropped_first():
    assert numbers(cut([1, 1], tail=[3, 3, 3, 3], tokens=20, overlap=4)) == [([1, 2, 3], [4, 5])]


def test_the_overlap_gives_way_to_the_next_message():
    assert numbers(cut([6], tail=[3, 3, 3], tokens=10, overlap=3)) == [([2], [3])]
    assert numbers(cut([9], tail=[3, 3, 3], tokens=10, overlap=3)) == [([], [3])]


def test_a_thread_grows_from_its_last_chunk_on():
    first = cut([1, 1, 1], size=4, overlap=2)
    tail = [*first[-1].context, *first[-1].targets]
    second = cut_windows(tail, [piece(3), piece(4), piece(5)], WindowSettings(100, 4, 2), 0)
    assert numbers(second) == [([1, 2], [3, 4]), ([3, 4], [5])]


def test_what_cannot_fit_is_the_callers_mistake():
    with pytest.raises(ValueError, match="does not fit"):
        cut([10], tokens=10)


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"max_tokens": 0}, "--max-tokens"),
        ({"window_size": 0}, "--window-size"),
        ({"window_overlap": -1}, "--window-overlap"),
        ({"window_size": 3, "window_overlap": 3}, "--window-overlap"),
    ],
)
def test_settings_that_make_no_sense(values, where):
    with pytest.raises(ConfigError) as raised:
        WindowSettings(**values)
    assert raised.value.where == where


pieces_of = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 8)), max_size=25)


@given(
    pieces_of,
    st.lists(st.integers(1, 25), max_size=5),
    st.integers(40, 80),
    st.none() | st.integers(1, 6),
    st.integers(0, 6),
)
def test_windows_of_a_thread_that_grows(found, bounds, max_tokens, size, overlap):
    if size is not None:
        overlap = min(overlap, size - 1)
    settings = WindowSettings(max_tokens, size, overlap)
    new = [piece(i, body, header) for i, (body, header) in enumerate(found)]
    tail, windows = [], []
    for start, end in zip([0, *sorted(bounds)], [*sorted(bounds), len(new)], strict=True):
        for window in cut_windows(tail, new[start:end], settings, 1):
            inside = [*window.context, *window.targets]
            assert window.targets
            assert sum(p.cost for p in inside) + 1 + 1 <= max_tokens
            assert sum(p.cost for p in window.context) <= max_tokens // 2
            assert len(window.context) <= overlap
            assert size is None or len(inside) <= size
            assert list(window.context) == tail[len(tail) - len(window.context) :]  # the end of the last chunk
            if len(window.context) < min(overlap, len(tail)):  # and as much of it as there is room for
                longer = (*window.context, tail[len(tail) - len(window.context) - 1])
                room = min(max_tokens // 2, max_tokens - 2 - window.targets[0].cost)
                assert sum(p.cost for p in longer) > room
            windows.append(window)
            tail = inside
    assert [p for window in windows for p in window.targets] == new


# ---- long messages


def test_a_long_text_is_cut_at_lines_then_words_then_tokens():
    assert parts("one two\nthree four\nfive six", 5) == ["one two\nthree four\n", "five six"]
    assert parts("one two three four five six seven", 3) == ["one two three ", "four five six ", "seven"]
    assert parts("aaaa", 4, Characters()) == ["aa", "aa"]
    assert parts("ab cd ef", 8, Characters()) == ["ab ", "cd ", "ef"]


def test_a_line_that_ends_early_is_no_place_to_cut():
    assert parts("a\nb c d e f g h i", 8) == ["a\nb c d e f g h ", "i"]


def parts(body, room, tokens=WORDS):
    return [body[start:end] for start, end, _ in cut_body(body, room, tokens)]


@pytest.mark.parametrize("tokens", [WORDS, Characters(), Merging()], ids=lambda tokens: type(tokens).__name__)
@given(body=st.text(alphabet="ab c\n\tü", max_size=300), room=st.integers(2, 20))
def test_every_character_is_in_one_part_and_every_part_fits(tokens, body, room):
    found = cut_body(body, room, tokens)
    assert "".join(body[start:end] for start, end, _ in found) == body
    assert [count for _, _, count in found] == tokens.count([body[start:end] for start, end, _ in found])
    assert all(count <= room and start < end for start, end, count in found)


def test_words_are_not_torn():
    body = "lorem ipsum dolor sit amet " * 500
    found = parts(body, 7)
    assert [word for part in found for word in part.split()] == body.split()
    assert len(found) <= len(body.split()) / 7 * 1.2


def test_a_token_longer_than_the_slab():
    body = "x" * 10_000 + " y z " + "w" * 10_000
    assert "".join(parts(body, 2)) == body
    assert [len(part.split()) for part in parts(body, 2)] == [2, 2]


def test_a_short_message_is_one_piece_and_a_long_one_several():
    settings = WindowSettings(max_tokens=20)
    kwargs = {"num_header_tokens": 5, "num_subject_tokens": 4, "settings": settings, "tokens": WORDS}
    fits = " ".join("abcdefghij")
    assert cut_message(7, fits, num_tokens=10, **kwargs) == [Piece(7, 0, 1, 0, 19, 10, 5)]
    assert cut_message(7, "", num_tokens=0, **kwargs) == [Piece(7, 0, 1, 0, 0, 0, 5)]
    found = cut_message(7, fits + " k", num_tokens=11, **kwargs)
    assert [(p.part, p.num_parts, p.num_tokens) for p in found] == [(0, 2, 10), (1, 2, 1)]
    assert found[0].end == found[1].start
    assert len(cut_windows([], found, settings, 4)) == 2


@pytest.mark.parametrize("header", [14, 15, 40])
def test_headers_that_leave_no_room(header):
    with pytest.raises(ConfigError, match="do not hold"):
        cut_message(
            0,
            "a b",
            num_tokens=4,
            num_header_tokens=header,
            num_subject_tokens=4,
            settings=WindowSettings(max_tokens=20),
            tokens=Characters(),
        )


@given(st.lists(st.text(alphabet="ab \n", max_size=120), min_size=1, max_size=8), st.integers(0, 3))
def test_the_rendered_chunk_has_the_tokens_that_were_planned(bodies, overlap):
    """From texts to rendered chunks: counts add up, and every body token is a target exactly once."""
    settings = WindowSettings(max_tokens=24, window_overlap=overlap)
    header = message_header("a@x.example", "2019-07-01T09:30:00Z")
    subject_tokens = WORDS.count([subject_header("the disk")])[0]
    header_tokens = sum(WORDS.count([header, BODY_END]))
    pieces = [
        found
        for number, (body, count) in enumerate(zip(bodies, WORDS.count(bodies), strict=True))
        for found in cut_message(
            number,
            body,
            num_tokens=count,
            num_header_tokens=header_tokens,
            num_subject_tokens=subject_tokens,
            settings=settings,
            tokens=WORDS,
        )
    ]
    num_targets = 0
    for window in cut_windows([], pieces, settings, subject_tokens):
        inside = [*window.context, *window.targets]
        text, spans = render(
            "the disk", [("a@x.example", "2019-07-01T09:30:00Z", bodies[p.message][p.start : p.end]) for p in inside]
        )
        counts = [(s.kind, WORDS.count([text[s.start : s.end]])[0]) for s in segments(text, spans)]
        assert [count for kind, count in counts if kind == "body"] == [p.num_tokens for p in inside]
        assert sum(count for _, count in counts) + 1 == subject_tokens + sum(p.cost for p in inside) + 1 <= 24
        num_targets += sum(p.num_tokens for p in window.targets)
    assert num_targets == sum(WORDS.count(bodies))


# ---- smaller rules


def test_a_subject_that_would_fill_a_chunk_is_shortened():
    assert shortened("one two three", 3, WORDS) == "one two three"
    assert shortened("one two three four", 3, WORDS) == "one two three"
    assert shortened("one", 0, WORDS) == ""
    assert shortened("aaaa", 5, Characters()) == "aa"
    assert shortened("aaaa", 1, Characters()) == ""


def test_the_sender_is_who_wrote_most():
    assert sender_of_chunk([("a", 3), ("b", 4), ("a", 2)]) == "a"
    assert sender_of_chunk([("a", 3), ("b", 4)]) == "b"


def test_of_equal_senders_the_latest():
    assert sender_of_chunk([("a", 3), ("b", 3)]) == "b"
    assert sender_of_chunk([("a", 2), ("b", 3), ("a", 1)]) == "a"
    assert sender_of_chunk([("a", 0), ("b", 0)]) == "b"
    assert sender_of_chunk([]) == ""


def test_periods():
    assert period_of("2019-12-30T00:00:00Z", "week") == "2020-W01"  # ISO weeks belong to their Thursday's year
    assert period_of("2019-12-29T23:59:59Z", "week") == "2019-W52"
    assert period_of("2019-12-29T23:59:59Z", "month") == "2019-12"


@pytest.mark.parametrize("period", ["week", "month"])
@given(days=st.lists(st.dates(), min_size=2, max_size=2))
def test_periods_sort_as_time_does(period, days):
    first, second = sorted(days)
    assert period_of(f"{first}T00:00:00Z", period) <= period_of(f"{second}T00:00:00Z", period)
