"""Threads of made-up mails: components, trees, and which thread a mail goes to."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mail_threads import Archive, groups_of

from jobs.mail.threading import UNKNOWN, Join, components, outline, parents, thread_references, tree

# ---- helpers


def slow_components(num_nodes, edges):
    label = list(range(num_nodes))
    for _ in range(num_nodes):
        for a, b in edges:
            label[a] = label[b] = min(label[a], label[b])
    return label


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


def test_a_tree_cuts_a_loop_where_rfc_5256_does():
    assert tree([("a", []), ("b", ["a", "c"]), ("c", ["b"])]) == {"a": None, "b": "c", "c": None}  # imaptest's `thread`


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
