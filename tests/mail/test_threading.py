import json
import mailbox
import re
from dataclasses import dataclass
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.mail.headers import Headers, message_id, message_ids, parse_date, split_header
from jobs.mail.threading import (
    UNKNOWN,
    Join,
    ThreadGraph,
    components,
    outline,
    parents,
    thread_references,
    tree,
)

# ---- helpers


def slow_components(num_nodes, edges):
    label = list(range(num_nodes))
    for _ in range(num_nodes):
        for a, b in edges:
            label[a] = label[b] = min(label[a], label[b])
    return label


def groups_of(messages):
    """Sets of ids that are threads, by the tree's own definition: what outline prints together."""
    return {frozenset(entry.message_id for entry in thread) for thread in outline(messages)}


class Archive:
    """Message-IDs interned as a caller does it, and a graph over them."""

    def __init__(self, *periods, known=None, linked=()):
        ids = dict.fromkeys(name for period in periods for mid, refs in period for name in (mid, *refs))
        ids |= dict.fromkeys(known or {})
        self.node = {name: number for number, name in enumerate(ids)}
        self.name = list(ids)
        thread = np.full(len(ids), UNKNOWN, dtype=np.int32)
        for name, number in (known or {}).items():
            thread[self.node[name]] = number
        self.graph = ThreadGraph(thread, 1 + max((known or {}).values(), default=-1), lambda t: t, linked)

    def assign(self, messages):
        nodes = np.array([self.node[mid] for mid, _ in messages], dtype=np.int32)
        offsets = np.cumsum([0, *(len(refs) for _, refs in messages)])
        refs = np.array([self.node[ref] for _, found in messages for ref in found], dtype=np.int32)
        return self.graph.assign(nodes, offsets, refs)

    def threads(self):
        """The ids of each thread, ghosts included."""
        found = {}
        for name, thread in zip(self.name, self.graph.node_thread.tolist(), strict=True):
            found.setdefault(thread, set()).add(name)
        return found

    def thread_of(self, name):
        return int(self.graph.node_thread[self.node[name]])


names = st.integers(0, 11).map("m{}".format)
mails = st.lists(st.tuples(names, st.lists(names, max_size=4)), max_size=12, unique_by=lambda mail: mail[0])


# ---- components


def test_components_are_labelled_by_their_smallest_node():
    left, right = np.array([5, 3, 1]), np.array([3, 4, 0])
    assert components(7, left, right).tolist() == [0, 0, 2, 3, 3, 3, 6]


@pytest.mark.parametrize("step", [1, -1])
def test_components_of_a_long_path(step):
    nodes = np.arange(100_000)[::step]
    assert not components(100_000, nodes[:-1], nodes[1:]).any()


def test_components_of_a_shuffled_path():
    nodes = (np.arange(50_000) * 7919) % 50_000
    assert not components(50_000, nodes[:-1], nodes[1:]).any()


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_components_as_by_hand(edges):
    left, right = np.array(edges, dtype=np.int32).reshape(-1, 2).T
    assert components(20, left, right).tolist() == slow_components(20, edges)


# ---- the tree


def test_a_chain_of_references_makes_ghosts_between():
    assert tree([("d", ["a", "b", "c"])]) == {"a": None, "b": "a", "c": "b", "d": "c"}


def test_a_message_answers_the_last_that_it_refers_to_whatever_others_say_of_it():
    messages = [("c", ["a", "b"]), ("d", ["a", "c"]), ("b", ["x"]), ("a", [])]
    for order in permutations(messages):
        assert tree(order) == {"a": None, "x": None, "b": "x", "c": "b", "d": "c"}


def test_ghosts_stand_where_the_first_message_puts_them():
    messages = [("m1", ["a", "c"]), ("m2", ["a", "b", "c"])]
    assert tree(messages)["c"] == "a"
    assert tree(messages[::-1])["c"] == "b"


def test_self_references_and_loops_are_cut():
    assert tree([("a", ["a"])]) == {"a": None}
    assert tree([("a", ["b"]), ("b", ["a"])]) == {"a": "b", "b": None}
    assert tree([("a", ["b"]), ("b", ["c"]), ("c", ["a"])]) == {"a": "b", "b": "c", "c": None}
    assert tree([("m", ["a", "b", "a"])]) == {"a": None, "b": "a", "m": "a"}


def test_an_id_that_comes_twice_is_one_node():
    assert tree([("a", []), ("b", []), ("b", ["a"]), ("b", ["z"])]) == {"a": None, "b": "a", "z": None}


@given(mails)
def test_the_tree_is_a_forest_of_all_ids(messages):
    above = tree(messages)
    assert set(above) == {name for mid, refs in messages for name in (mid, *refs)}
    for start in above:
        seen, at = set(), start
        while at is not None:
            assert at not in seen
            seen.add(at)
            at = above[at]


@given(mails)
def test_an_outline_has_every_message_once_and_its_threads_are_the_components(messages):
    found = outline(messages)
    listed = [entry.message_id for thread in found for entry in thread]
    assert sorted(listed) == sorted(mid for mid, _ in messages)
    archive = Archive(messages)
    archive.assign(messages)
    present = set(listed)
    assert groups_of(messages) == {frozenset(ids & present) for ids in archive.threads().values() if ids & present}


def test_long_chains_and_deep_trees_take_no_stack():
    messages = [(str(i), [str(i - 1)] if i else []) for i in range(20_000)]
    assert outline(messages)[0][-1].depth == 19_999
    above = parents(20_000, list(range(20_000))[::-1], [[i - 1] if i else [] for i in range(20_000)][::-1])
    assert above == [UNKNOWN, *range(19_999)]


def test_what_a_message_refers_to():
    assert thread_references(["a", "b"], ["b"]) == ["a", "b"]
    assert thread_references([], ["p", "an@address"]) == ["p"]
    assert thread_references(["a"], ["p"]) == ["a", "p"]
    assert thread_references(["a"], ["p", "q"]) == ["a"]
    assert thread_references([], []) == []


# ---- the graph


def test_a_new_thread_is_named_by_the_first_reference_of_its_earliest_message():
    messages = [("m1", ["ghost", "g2"]), ("m2", ["m1"]), ("m3", []), ("m4", ["m4", "m3"]), ("m5", ["m5"])]
    archive = Archive(messages)
    assigned = archive.assign(messages)
    assert [archive.name[root] for root in assigned.new_roots] == ["ghost", "m3", "m5"]
    assert assigned.thread.tolist() == [0, 0, 1, 1, 2]
    assert archive.threads() == {0: {"m1", "m2", "ghost", "g2"}, 1: {"m3", "m4"}, 2: {"m5"}}
    assert assigned.joins == []
    assert archive.graph.next_thread == 3


def test_a_message_that_comes_later_goes_to_its_thread_also_as_a_ghost_of_it():
    first, second = [("m1", ["ghost", "late"])], [("late", ["other"]), ("m9", []), ("reply", ["other"])]
    archive = Archive(first, second)
    archive.assign(first)
    assigned = archive.assign(second)
    assert assigned.thread.tolist() == [0, 1, 0]
    assert [archive.name[root] for root in assigned.new_roots] == ["m9"]


def test_a_mail_that_joins_two_threads_goes_to_its_nearest_ancestors():
    known = {"a": 0, "b": 1}
    messages = [("m", ["a", "u1", "b", "u2"]), ("reply", ["m"]), ("aside", ["u1"])]
    archive = Archive(messages, known=known)
    assigned = archive.assign(messages)
    assert assigned.thread.tolist() == [1, 1, 0]  # u2 answers b, u1 answers a
    assert assigned.joins == [Join(message=0, thread=1, other=0)]
    assert len(assigned.new_roots) == 0


def test_without_an_ancestor_in_a_thread_a_message_goes_to_the_lowest():
    known = {"a": 0, "b": 1}
    messages = [("top", []), ("m", ["top", "a"]), ("n", ["top", "b"])]
    for ranks, expected in (({0: 5, 1: 9}, 0), ({0: 9, 1: 5}, 1)):
        archive = Archive(messages, known=known)
        archive.graph._rank = ranks.__getitem__
        assert archive.assign(messages).thread.tolist() == [expected, 0, 1]
        assert archive.thread_of("top") == expected


def test_a_join_is_reported_once():
    known = {"a": 0, "b": 1, "c": 2}
    first, second = [("m", ["a", "b"]), ("n", ["a", "b", "m"])], [("o", ["a", "m"]), ("p", ["c", "b"])]
    archive = Archive(first, second, known=known)
    assert archive.assign(first).joins == [Join(0, 1, 0)]
    assert archive.assign(second).joins == [Join(1, 1, 2)]  # p answers b
    later = Archive(first, second, known=known, linked=[(0, 1)])
    assert later.assign(first).joins == []
    assert later.assign(second).joins == [Join(1, 1, 2)]


def test_an_older_reference_counts_where_the_last_leads_nowhere():
    known = {"a": 0, "b": 1}
    messages = [("n", ["nowhere"]), ("m", ["b", "n"]), ("o", ["nowhere", "a"]), ("reply", ["m"])]
    archive = Archive(messages, known=known)
    assert archive.assign(messages).thread.tolist() == [0, 1, 0, 1]


def test_three_threads_joined_by_one_mail():
    archive = Archive([("m", ["a", "b", "c"])], known={"a": 0, "b": 1, "c": 2})
    assert archive.assign([("m", ["a", "b", "c"])]).joins == [Join(0, 2, 1), Join(0, 2, 0)]


def test_nothing_to_assign():
    archive = Archive()
    assigned = archive.assign([])
    assert (len(assigned.thread), len(assigned.new_roots), assigned.joins) == (0, 0, [])


def test_the_same_node_twice_in_one_call():
    messages = [("a", []), ("b", []), ("a", ["b"])]
    archive = Archive(messages)
    assert archive.assign(messages).thread.tolist() == [0, 0, 0]


@given(mails, st.permutations(range(12)))
def test_any_order_of_arrival_gives_the_same_threads(messages, order):
    archive = Archive(messages)
    archive.assign(messages)
    shuffled = Archive(messages)
    shuffled.assign([messages[i] for i in order if i < len(messages)])
    assert set(map(frozenset, archive.threads().values())) == set(map(frozenset, shuffled.threads().values()))


@given(mails, st.lists(st.integers(0, 12), max_size=3))
def test_threads_are_frozen_and_every_node_gets_one(messages, cuts):
    bounds = [0, *sorted(min(cut, len(messages)) for cut in cuts), len(messages)]
    archive = Archive(messages)
    before = archive.graph.node_thread.copy()
    roots = []
    for start, end in pairwise(bounds):
        assigned = archive.assign(messages[start:end])
        roots += assigned.new_roots.tolist()
        now = archive.graph.node_thread
        assert (now[before != UNKNOWN] == before[before != UNKNOWN]).all()
        assert assigned.thread.tolist() == [archive.thread_of(mid) for mid, _ in messages[start:end]]
        for join in assigned.joins:
            assert join.thread == assigned.thread[join.message] != join.other
        before = now.copy()
    assert (before != UNKNOWN).all()
    assert archive.graph.next_thread == len(roots) == len(set(roots))
    assert before[roots].tolist() == list(range(len(roots)))  # a thread's root is in it


@given(mails)
def test_one_by_one_is_all_at_once_where_nothing_joins(messages):
    whole, single = Archive(messages), Archive(messages)
    whole.assign(messages)
    links = [(join.thread, join.other) for message in messages for join in single.assign([message]).joins]
    ours = set(map(frozenset, single.threads().values()))
    theirs = set(map(frozenset, whole.threads().values()))
    if links:
        left, right = np.array(links).T
        assert len(set(components(len(ours), left, right).tolist())) == len(theirs)
        assert len({frozenset(link) for link in links}) == len(links)
    else:
        assert ours == theirs
        assert single.graph.node_thread.tolist() == whole.graph.node_thread.tolist()


@given(mails)
def test_joins_connect_what_the_references_connect(messages):
    single = Archive(messages)
    links = [(join.thread, join.other) for message in messages for join in single.assign([message]).joins]
    left, right = np.array(links, dtype=np.int32).reshape(-1, 2).T
    label = components(max(single.graph.next_thread, 1), left, right)
    for mid, refs in messages:
        for ref in refs:
            assert label[single.thread_of(mid)] == label[single.thread_of(ref)]


@given(mails, st.dictionaries(names, st.integers(0, 3), max_size=5))
def test_a_call_is_the_same_whatever_the_numbers_of_its_nodes(messages, known):
    forward = Archive(messages, known=known)
    backward = Archive(messages[::-1], known=dict(reversed(known.items())))
    forward.graph.next_thread = backward.graph.next_thread = 9
    one, other = forward.assign(messages), backward.assign(messages)
    assert one.thread.tolist() == other.thread.tolist()
    assert one.joins == other.joins
    assert [forward.name[n] for n in one.new_roots] == [backward.name[n] for n in other.new_roots]


# ---- real mail


@dataclass
class Mail:
    message_id: str
    refs: list[str]
    date: str
    sender: str
    subject: str

    @classmethod
    def read(cls, raw: bytes, number: int) -> "Mail":
        headers = Headers(split_header(raw)[0])
        date = parse_date(headers.get(b"date"))
        references, in_reply_to = message_ids(headers.get(b"references")), message_ids(headers.get(b"in-reply-to"))
        return cls(
            message_id=message_id(headers.get(b"message-id")) or f"without-id-{number}",
            refs=thread_references(references, in_reply_to),
            date=date.isoformat() if date else "",
            sender=headers.text(b"from"),
            subject=headers.text(b"subject"),
        )


def read_folder(folder: Path) -> list[Mail]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    mails = [Mail.read(file.read_bytes(), number) for number, file in enumerate(files)]
    return sorted(mails, key=lambda mail: (mail.date, mail.message_id))


def read_mbox(path: Path) -> list[Mail]:
    return [Mail.read(mail.as_bytes(), number) for number, mail in enumerate(mailbox.mbox(path))]


def as_pairs(found: list[Mail]) -> list[tuple[str, list[str]]]:
    return [(mail.message_id, mail.refs) for mail in found]


def test_notmuch_default_has_exactly_its_24_trees(corpora):
    expected = json.loads((corpora / "threading/notmuch-default.json").read_text())
    found = {mail.message_id: mail for mail in read_folder(corpora / "notmuch/default")}
    threads = outline(as_pairs(list(found.values())))
    assert (len(found), len(threads)) == (52, 24)

    def described(entry):
        mail = found[entry.message_id]
        return mail.date[:10], mail.sender.split("<")[0].strip(' "')[:20], entry.depth

    theirs = [[(entry["date"], entry["author"], entry["depth"]) for entry in t] for t in expected["threads"]]
    assert sorted([described(entry) for entry in thread] for thread in threads) == sorted(theirs)
    groups = {frozenset(entry.message_id for entry in thread) for thread in threads}
    assert groups >= set(map(frozenset, expected["header_derived_groups"]))


def test_notmuch_threading_has_three_threads(corpora):
    threads = outline(as_pairs(read_folder(corpora / "notmuch/threading")))
    assert [[(e.depth, e.message_id.split("@")[0][:22]) for e in thread] for thread in threads] == [
        [
            (0, "000-real-root"),
            (1, "001-child"),
            (2, "001-fake-message-root"),
            (2, "001-grand-child"),
            (3, "001-great-grand-child"),
            (2, "001-grand-child2"),
        ],
        [(0, "B00-root"), (1, "B01-child"), (1, "B01-grand-child")],
        [(0, "87bmc6lp3h.fsf"), (1, "rt-4.2.8-22046-1529425"), (0, "rt-4.2.8-6644-15300170")],
    ]


def test_notmuch_broken_and_duplicates_end_with_every_message_once(corpora):
    broken = as_pairs(read_folder(corpora / "notmuch/broken"))
    assert sorted(len(thread) for thread in outline(broken)) == [1, 1, 2]
    duplicates = as_pairs(read_folder(corpora / "notmuch/duplicate"))
    assert len(duplicates) == 9
    assert [len(thread) for thread in outline(duplicates)] == [1, 1, 1]


IMAPTEST_DISAGREEMENTS = {
    "thread.mbox": {frozenset({1, 2, 3})},  # a loop: 2 names 1 and 3, 3 names 2; RFC 5256 cuts 1 off, we keep all
    "thread2.mbox": {frozenset({1})},  # the same bytes twice: one message
    "thread4.mbox": {frozenset({1}), frozenset({2})},  # the subject alone joins nothing
}


def test_imaptest(corpora):
    rows = json.loads((corpora / "threading/imaptest/expected.json").read_text())
    rows = [row for row in rows if row["algorithm"] == "REFERENCES"]
    assert len(rows) == 8
    for row in rows:
        first_bytes: dict[str, bytes] = {}
        found: dict[str, tuple[int, list[str]]] = {}
        for number, mail in enumerate(mailbox.mbox(corpora / "threading/imaptest" / row["mbox"]), start=1):
            raw = mail.as_bytes()
            read = Mail.read(raw, number)
            if first_bytes.setdefault(read.message_id, raw) is raw:
                found[read.message_id] = number, read.refs
            elif first_bytes[read.message_id] != raw:  # another mail of the same id: kept, beside the first
                found[f"{read.message_id}#{number}"] = number, [*read.refs, read.message_id]
        pairs = [(mid, refs) for mid, (number, refs) in found.items() if number <= (row["first_n_messages"] or number)]
        groups = {frozenset(found[mid][0] for mid in group) for group in groups_of(pairs)}
        expected = set(map(frozenset, row["groups"]))
        assert groups == IMAPTEST_DISAGREEMENTS.get(row["mbox"], expected), row["mbox"]
        assert groups != expected or row["mbox"] not in IMAPTEST_DISAGREEMENTS


def test_a_tree_cuts_a_loop_where_rfc_5256_does():
    assert tree([("a", []), ("b", ["a", "c"]), ("c", ["b"])]) == {"a": None, "b": "c", "c": None}  # imaptest's `thread`


def test_jwz(corpora):
    found = read_mbox(corpora / "threading/jwz/jwz-testthreader.mbox")
    threads = outline(as_pairs(found))
    subject = {mail.message_id: mail.subject for mail in found}
    listed = [entry.message_id for thread in threads for entry in thread]
    assert sorted(listed) == sorted({mail.message_id for mail in found})
    printed = ["".join("  " * e.depth + subject[e.message_id] + "\n" for e in thread) for thread in threads]
    for expected in (
        "A\n  B\n    C\n      E\n    F\n  D\n",
        "G\nH\n",
        "Loop5\n  Loop4\n",
        "Loop6\n",
        "Ambig1\n  Ambig2\n    Ambig3\n      Ambig4\n        Ambig5a\n        Ambig5b\n",
        "dup\n  dup-kid\n  dup-kid-2\n",
        "missingmessage\n  missingmessage\n",
        "liar 1\nliar 2\n",
        "liar2 1\nliar2 2\n",
        "Welcome to Netscape\n  Re: Welcome to Netscape\n",
    ):
        assert expected in printed
    loops = {frozenset(re.findall(r"Loop\d+", text)) for text in printed if "Loop" in text}
    assert frozenset({"Loop1", "Loop2", "Loop3"}) in loops


def test_linux_raid_has_345_threads_in_any_order_and_month_by_month(corpora):
    months = [as_pairs(read_mbox(path)) for path in sorted((corpora / "linux-raid-2019H2").glob("*.mbox"))]
    found = [pair for month in months for pair in month]
    assert len(found) == 1242
    archive = Archive(found)
    sizes = np.bincount(archive.assign(found).thread)
    assert (len(sizes), (sizes > 1).sum()) == (345, 192)
    backwards = Archive(found)
    backwards.assign(found[::-1])
    assert set(map(frozenset, archive.threads().values())) == set(map(frozenset, backwards.threads().values()))

    monthly = Archive(found)
    joins = [join for month in months for join in monthly.assign(month).joins]
    assert monthly.graph.next_thread == 345 + len(joins)
