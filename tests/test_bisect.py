"""The search, over invented histories of numbered revisions: nothing is installed, nothing is run."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repros.bisect.search import BAD, GOOD, SKIP, Answer, Kind, Result, Search, Votes, bound, is_bad

LETTERS = {"g": GOOD, "b": BAD, "s": SKIP, "x": "bad: ValueError"}


def history(letters: str) -> list[str]:
    """Return the labels that a row of letters stands for."""
    return [LETTERS[letter] for letter in letters]


def run(search: Search, probe: Callable[[int], str], k: int = 1, limit: int = 2000) -> tuple[Answer, list[int]]:
    """Drive a search to its end; also return the revisions in the order in which they were probed."""
    order: list[int] = []
    while asked := search.ask(k):
        assert len(asked) <= k
        assert len(set(asked)) == len(asked)
        for index in asked:
            order.append(index)
            search.tell(index, probe(index))
        assert len(order) < limit, "the search does not end"
    return search.answer(), order


def monotone(at: int) -> Callable[[int], str]:
    return lambda i: GOOD if i < at else BAD


def racy(at: int, hit: float, false: float, odds: random.Random) -> Callable[[int], str]:
    return lambda i: BAD if odds.random() < (hit if i >= at else false) else GOOD


def edges(answer: Answer) -> list[tuple[int, int]]:
    return [(edge.low, edge.high) for edge in answer.edges]


def brute(labels: list[str]) -> list[tuple[int, int]]:
    """Return every edge by looking at every revision."""
    answered = [i for i, label in enumerate(labels) if label != SKIP]
    return [(a, b) for a, b in itertools.pairwise(answered) if labels[a] != labels[b]]


TABLE = {
    "monotone": ("gggggbbb", [], Result.FOUND, [(4, 5)]),
    "fixed only": ("bbbgggggggg", [], Result.FOUND, [(2, 3)]),
    "first revision bad": ("gbbbbbbb", [], Result.FOUND, [(0, 1)]),
    "last revision bad": ("gggggggb", [], Result.FOUND, [(6, 7)]),
    "two revisions": ("gb", [], Result.FOUND, [(0, 1)]),
    "two edges, bad point known": ("gggggggggbgggggg", [9], Result.FOUND, [(8, 9), (9, 10)]),
    "two edges, found by the scan": ("gggggbbbgggggggg", [], Result.FOUND, [(4, 5), (7, 8)]),
    "two edges, the known point is stale": ("gggggbbbgggggggg", [12], Result.FOUND, [(4, 5), (7, 8)]),
    "three edges, a point of each phase known": ("bbbbggggbbgggg", [5, 8], Result.FOUND, [(3, 4), (7, 8), (9, 10)]),
    "bad, good, bad": ("bbbgggbbb", [], Result.FOUND, [(2, 3), (5, 6)]),
    "skips around the edge": ("ggggsssbbbb", [], Result.RANGE, [(3, 7)]),
    "skips beside the edge": ("ggsggbsbsbb", [], Result.FOUND, [(4, 5)]),
    "skips at both ends": ("ssssgggbbsss", [], Result.FOUND, [(6, 7)]),
    "all skipped": ("sssssssss", [], Result.ALL_SKIPPED, []),
    "all but one skipped": ("sssgsssss", [], Result.NOT_REPRODUCED, []),
    "all but the ends skipped": ("gsssssb", [], Result.RANGE, [(0, 6)]),
    "never bad": ("gggggggggg", [], Result.NOT_REPRODUCED, []),
    "never good": ("bbbbbbbb", [], Result.ALWAYS_BAD, []),
    "another signature from the middle on": ("gggbbbxxx", [], Result.FOUND, [(2, 3), (5, 6)]),
}


@pytest.mark.parametrize("name", TABLE)
def test_histories(name: str) -> None:
    letters, hints, result, wanted = TABLE[name]
    labels = history(letters)
    search = Search(len(labels), hints=hints)
    answer, _ = run(search, lambda i: labels[i])
    assert edges(answer) == wanted
    assert answer.result is result


def test_kinds() -> None:
    answer, _ = run(Search(6, hints=[2]), lambda i: history("ggbbgg")[i])
    assert [edge.kind for edge in answer.edges] == [Kind.FIRST_BAD, Kind.FIRST_FIXED]


def test_both_ends_come_first() -> None:
    _, order = run(Search(64), lambda i: GOOD if i < 40 else BAD)
    assert order[:2] == [0, 63]


def test_a_bug_of_another_signature_is_neither_good_nor_the_same_bug() -> None:
    labels = history("gggxxxxbbbbbb")
    answer, _ = run(Search(len(labels)), lambda i: labels[i])
    kinds = {edge.kind for edge in answer.edges}
    assert kinds == {Kind.FIRST_BAD, Kind.SIGNATURE}
    assert edges(answer) == [(2, 3), (6, 7)]


def test_no_op_culprit() -> None:
    answer, _ = _two_halves().answer(identical=lambda a, b: (a, b) == (3, 4)), None
    assert [edge.result for edge in answer.edges] == [Result.NO_OP]
    assert answer.result is Result.NO_OP


def _two_halves() -> Search:
    search = Search(8)
    run(search, lambda i: GOOD if i < 4 else BAD)
    return search


def test_a_culprit_that_differs_is_no_no_op() -> None:
    assert _two_halves().answer(identical=lambda a, b: False).result is Result.FOUND


@pytest.mark.parametrize("n", [2, 3, 7, 8, 9, 100, 1000])
def test_probes_of_an_edge_stay_inside_the_bound(n: int) -> None:
    for first_bad in range(1, n, max(1, n // 40)):
        answer, order = run(Search(n), monotone(first_bad))
        (edge,) = answer.edges
        assert edge.high == first_bad
        assert len(order) == edge.probes <= edge.bound == bound(n) == math.ceil(math.log2(n)) + 2


@pytest.mark.parametrize("k", [2, 3, 7])
def test_k_at_a_time_cut_by_k_plus_one(k: int) -> None:
    rounds = 0
    search = Search(500)
    while asked := search.ask(k):
        rounds += 1
        for i in asked:
            search.tell(i, GOOD if i < 321 else BAD)
    assert edges(search.answer()) == [(320, 321)]
    assert rounds <= math.ceil(math.log(500, k + 1)) + 1
    (edge,) = search.answer().edges
    assert edge.probes <= edge.bound


def test_what_comes_next_is_known_while_a_probe_runs() -> None:
    labels = history("gggggggggggggbbbbbb")
    search = Search(len(labels))
    looked = 0
    while asked := search.ask():
        following = search.after(asked[0])
        search.tell(asked[0], labels[asked[0]])
        now = search.ask()
        if len(search.ballots) > 1 and now:
            assert now[0] in following
            assert len(following) <= 2
            looked += 1
    assert looked >= 3


def test_votes_settle_on_a_posterior() -> None:
    racy = Votes(hit=0.5, false=0.001, sure=0.99)
    assert racy.settle([]) is None
    assert racy.settle([BAD]) == BAD
    assert racy.settle([GOOD] * 6) is None
    assert racy.settle([GOOD] * 7) == GOOD
    assert racy.settle([SKIP]) == SKIP
    assert Votes(hit=0.6, false=0.4, most=4).settle([BAD, GOOD, BAD, GOOD]) == SKIP


@pytest.mark.parametrize(("hit", "false"), [(0.4, 0.001), (0.8, 0.1), (0.99, 0.01)])
def test_confidence_is_what_it_says(hit: float, false: float) -> None:
    """Over many searches of a racy bug, answers given with confidence c are right in about that share."""
    odds = random.Random(7)
    right, promised, rounds = 0, 0.0, 300
    for _ in range(rounds):
        at = odds.randrange(1, 40)
        search = Search(40, votes=Votes(hit=hit, false=false, sure=0.99, most=64))
        answer, _ = run(search, racy(at, hit, false, odds))
        for edge in answer.edges:
            right += edge.low < at <= edge.high
            promised += edge.confidence
    assert promised > 0.9 * rounds
    assert abs(right - promised) < 3 * math.sqrt(rounds * 0.05)
    assert right >= 0.93 * rounds


def test_votes_that_disagree_lower_the_trust() -> None:
    odds = Votes()
    assert odds.seen([[GOOD, GOOD], [BAD, BAD]]).false < odds.false
    assert odds.seen([[GOOD, BAD, GOOD], [BAD, GOOD]]).false > odds.false
    assert odds.seen([[GOOD], [BAD]]) == odds


def test_a_confirmation_that_contradicts_opens_the_search_again() -> None:
    search = _two_halves()
    search.tell(4, GOOD)
    assert search.ask() == [4]
    search.tell(4, GOOD)
    answer, _ = run(search, lambda i: GOOD if i < 5 else BAD)
    assert edges(answer) == [(4, 5)]


def test_two_ends_are_needed() -> None:
    with pytest.raises(ValueError, match="two ends"):
        Search(1)


RUNS = st.lists(st.integers(1, 12), min_size=1, max_size=3)


@given(lengths=RUNS, first=st.booleans(), skips=st.sets(st.integers(0, 35)), k=st.integers(1, 4), data=st.data())
def test_random_histories_against_brute_force(
    lengths: list[int], first: bool, skips: set[int], k: int, data: st.DataObject
) -> None:
    """One phase, one edge or two, with any revisions skipped: the edges are those that trying everything gives."""
    state, labels = first, []
    for length in lengths:
        labels += [BAD if state else GOOD] * length
        state = not state
    labels = [SKIP if i in skips else label for i, label in enumerate(labels)]
    if len(labels) < 2:
        labels.append(labels[0])
    odd = [i for i, label in enumerate(labels) if label != SKIP and label != next(x for x in labels if x != SKIP)]
    hints = [data.draw(st.sampled_from(odd))] if odd else []
    answer, order = run(Search(len(labels), hints=hints), lambda i: labels[i], k)
    assert len(order) == len(set(order)) <= len(labels)
    assert edges(answer) == brute(labels)
    for edge in answer.edges:
        assert all(labels[i] == SKIP for i in range(edge.low + 1, edge.high))
        assert edge.probes + edge.skipped <= edge.bound


@given(st.lists(st.sampled_from([GOOD, BAD, SKIP, "bad: other"]), min_size=2, max_size=40), st.integers(1, 3))
def test_any_history_gives_true_edges_only(labels: list[str], k: int) -> None:
    """However wild the history, every edge is one: answered on both sides, differing, nothing untried between."""
    answer, order = run(Search(len(labels)), lambda i: labels[i], k)
    assert len(order) == len(set(order))
    assert set(edges(answer)) <= set(brute(labels))
    if SKIP not in (labels[0], labels[-1]) and labels[0] != labels[-1]:
        assert answer.edges
    tried = {is_bad(label) for label in answer.labels.values() if label != SKIP}
    assert (answer.result is Result.ALWAYS_BAD) == (tried == {True} and not answer.edges)
    assert (answer.result is Result.NOT_REPRODUCED) == (tried == {False})


@given(st.integers(2, 300), st.integers(1, 299), st.integers(1, 6))
def test_without_skips_no_edge_exceeds_its_bound(n: int, at: int, k: int) -> None:
    at = min(at, n - 1)
    answer, _ = run(Search(n), lambda i: GOOD if i < at else BAD, k)
    (edge,) = answer.edges
    assert edge.high == at
    assert edge.probes <= bound(n, k=k)
