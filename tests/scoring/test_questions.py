"""Questions: who is asked what, what is relevant, and that nothing of the answer is given away."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from scoring.mails import message, question, reading

from jobs.contracts.records import Split
from jobs.mail.quoting import own_text
from jobs.scoring.questions import POOL_SIZE, Outline, make_questions, random_sources

ROOT = message("root", day=1)
SECOND = message("second", day=2, answers="root", sender="bob@example.org")
THIRD = message("third", day=3, answers="second", refers=("root", "second"))


def made(*messages, targets: dict[str, Split] | None = None, **settings):
    wanted = targets if targets is not None else dict.fromkeys((one.message_id for one in messages), "val")
    return make_questions(reading(*messages), wanted, **{"max_queries": 10, "seed": 42} | settings)


def pairs(questions) -> set[tuple[str, str]]:
    return {(one.target.message_id, one.answered.message_id) for one in questions.asked}


def test_a_reply_is_asked_for_by_the_mail_that_it_answers() -> None:
    found = made(ROOT, SECOND, THIRD)
    assert pairs(found) == {("second", "root"), ("third", "second")}
    assert found.num_replies == 2


def test_what_else_a_reply_refers_to_is_relevant() -> None:
    asked = {one.target.message_id: one for one in made(ROOT, SECOND, THIRD).asked}
    assert asked["third"].relevant == ("root",)
    assert asked["second"].relevant == ()
    assert asked["third"].hidden == {"third", "second"}


def test_only_mails_that_count_are_targets() -> None:
    assert pairs(made(ROOT, SECOND, THIRD, targets={"third": "val"})) == {("third", "second")}
    assert made(ROOT, SECOND, targets={}).asked == []
    assert made(ROOT, SECOND, max_queries=0).asked == []


def test_a_persona_answers_for_itself() -> None:
    assert pairs(made(ROOT, SECOND, THIRD, persona=("Bob@Example.org",))) == {("second", "root")}
    assert made(ROOT, SECOND, THIRD, persona=("eve@example.org",)).asked == []


def test_a_reply_that_says_nothing_is_no_target() -> None:
    quoting = "On Monday, Ann <ann@example.org> wrote:\n> This is root.\n"
    for text in ("", "  \n", quoting):
        assert made(ROOT, message("second", day=2, answers="root", text=text)).asked == []


def test_a_reply_to_a_mail_that_is_not_there_or_later_is_none() -> None:
    assert made(ROOT, message("second", day=2, answers="ghost")).asked == []
    assert made(message("root", day=3), message("second", day=2, answers="root")).asked == []
    assert made(message("loop", day=2, answers="loop")).asked == []


def test_the_nearest_mail_that_is_there_is_the_one_that_is_answered() -> None:
    found = made(ROOT, SECOND, message("late", day=4, answers="ghost", refers=("root", "second", "ghost")))
    assert ("late", "second") in pairs(found)
    assert next(one for one in found.asked if one.target.message_id == "late").relevant == ("root",)


def test_relevant_is_earlier_than_the_target() -> None:
    late = message("late", day=9)
    (asked,) = made(
        ROOT, late, message("reply", day=5, answers="root", refers=("late",)), targets={"reply": "val"}
    ).asked
    assert asked.relevant == ()


QUOTED = "the stripe cache was exhausted on the second array"


def test_what_a_reply_quotes_is_relevant_wherever_it_stands() -> None:
    source = message("source", thread="other", day=1, text=f"Hello,\n  {QUOTED.title()}\nBye")
    reply = message("reply", day=5, answers="root", text=f"I think so.\n\n> > {QUOTED}\n\nIndeed.")
    (asked,) = made(ROOT, source, reply, targets={"reply": "val"}).asked
    assert asked.relevant == ("source",)


def test_who_only_quotes_a_line_has_not_said_it_and_short_or_common_lines_say_nothing() -> None:
    requoting = message("requoting", thread="other", day=2, text=f"See:\n> {QUOTED}\nOh.")
    first, second = (
        message(name, thread="other", day=3, text="so many words that two have said\nyes") for name in "ab"
    )
    text = f"No.\n\n> {QUOTED}\n> so many words that two have said\n> yes\n\nDone."
    reply = message("reply", day=5, answers="root", text=text)
    (asked,) = made(ROOT, requoting, first, second, reply, targets={"reply": "val"}).asked
    assert asked.relevant == ()


def conversations(num: int, length: int):
    for thread in range(num):
        for place in range(length * (1 + 9 * (thread == 0))):
            name = f"{thread}.{place}"
            yield message(
                name, thread=f"t{thread}", day=1 + place % 28, answers=f"{thread}.{place - 1}" if place else ""
            )


def test_threads_take_turns() -> None:
    mails = list(conversations(8, 4))
    found = made(*mails, max_queries=16)
    counts = Counter(one.thread_id for one in found.asked)
    assert set(counts.values()) == {2}
    assert len(counts) == 8


def test_test_has_up_to_half_and_what_one_split_lacks_the_other_has() -> None:
    mails = list(conversations(6, 4))

    def asked(val: set[str], most: int) -> Counter[str]:
        targets: dict[str, Split] = {one.message_id: "val" if one.thread_id in val else "test" for one in mails}
        return Counter(one.split for one in made(*mails, targets=targets, max_queries=most).asked)

    assert asked({"t1", "t2", "t3"}, 9) == {"val": 5, "test": 4}
    assert asked({"t1"}, 12) == {"val": 3, "test": 9}
    assert asked({"t0", "t1", "t2", "t3", "t4"}, 12) == {"val": 9, "test": 3}


@given(st.randoms(use_true_random=False))
def test_the_order_of_the_mails_changes_nothing(random) -> None:
    mails = list(conversations(5, 4))
    before = made(*mails, max_queries=7)
    random.shuffle(mails)
    assert made(*mails, max_queries=7) == before


def test_more_mail_of_other_threads_changes_no_question_that_stays() -> None:
    before = {one.target.message_id: one for one in made(*conversations(5, 4), max_queries=100).asked}
    after = {one.target.message_id: one for one in made(*conversations(9, 4), max_queries=100).asked}
    assert {name: after[name] for name in before} == before


def test_random_sources_are_earlier_and_have_nothing_to_do_with_it() -> None:
    pool = [Outline(f"p{number}", f"t{number % 4}", f"2024-01-{1 + number % 9:02d}T09:00:00Z") for number in range(40)]
    asked = question("q", thread="t1", day=5, relevant=("p2",))
    found = random_sources(asked, pool, 8, seed=1)
    dates = {one.message_id: (one.date, one.thread_id) for one in pool}
    assert len(set(found)) == 8
    assert all(dates[one][0] < asked.target.date and dates[one][1] != "t1" and one != "p2" for one in found)
    assert found == random_sources(asked, pool[::-1], 8, seed=1) != random_sources(asked, pool, 8, seed=2)


def test_the_pool_is_bounded_and_of_all_mail() -> None:
    mails = [message(f"m{number}", thread=f"t{number}", day=1 + number % 28) for number in range(POOL_SIZE + 500)]
    pool = made(*mails).pool
    assert len(pool) == POOL_SIZE
    assert sum(int(one.message_id[1:]) >= POOL_SIZE for one in pool) > 200


def test_own_text() -> None:
    assert own_text("On Monday, Ann <ann@example.org> wrote:\n> old\n\nnew\n") == "new"
