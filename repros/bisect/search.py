"""Pure search over numbered revisions: where a bug came in, where it went out.

Nothing here knows what a revision is: the caller asks which revisions to probe next (`Search.ask`), probes them in any
way, and tells the votes (`Search.tell`). No package, no file and no clock is touched, so the whole of it is tried as
tables over invented histories (``tests/test_bisect.py``).

A *vote* is ``good``, ``skip`` or a bad one: ``bad``, or ``bad: `` and the bug's signature, so that another bug is
never taken for the one that is looked for. A history is a row of phases; where two neighbouring phases differ, there
is an *edge*. The ends are tried first, then the points of which something is known; where all of these agree, a coarse
scan follows, widest gaps first. Every pair of answered revisions that differ is then narrowed by bisection, so a
history good -> bad -> good gives both edges. Revisions that answer ``skip`` are stepped around; an edge whose inside is
all skipped stays a range.

A search of n revisions takes, for each edge, its two ends and ``ceil(log2(n))`` probes at most; a skipped probe costs
itself and at most one probe more (`bound`). With k probes at a time, a range is cut into k + 1 parts.

Racy bugs: `Votes` says how often a bad revision shows the bug and how often a good one seems to; a revision is voted
on until its posterior is beyond doubt, and the confidence of an edge is the posterior of its place given all votes of
the phases on both sides.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

GOOD, BAD, SKIP = "good", "bad", "skip"

#: Coarse-scan probes that are spent when both ends agree and no bad point is known. Seven points, an eighth of the
#: range apart, cost no more than the halvings that they save; the rest is the price of finding narrower windows.
SCAN = 15


class Kind(StrEnum):
    """What an edge is."""

    FIRST_BAD = "first bad"
    FIRST_FIXED = "first fixed"
    SIGNATURE = "another signature"


class Result(StrEnum):
    """What a search, or one of its edges, has come to."""

    FOUND = "found"
    RANGE = "inconclusive (range)"
    NO_OP = "no-op change"
    NOT_REPRODUCED = "not reproduced"
    ALWAYS_BAD = "bad throughout"
    ALL_SKIPPED = "inconclusive (nothing answered)"


def is_bad(vote: str) -> bool:
    """Return whether a vote is a bad one, with or without a signature."""
    return vote.partition(":")[0] == BAD


@dataclass(frozen=True)
class Votes:
    """How far one probe can be trusted.

    ``hit`` is the probability that a probe of a bad revision shows the bug, ``false`` that a probe of a good one seems
    to. A revision is settled when the posterior of its answer, from even odds, reaches ``sure``; after ``most`` votes
    without that it is skipped.
    """

    hit: float = 0.99
    false: float = 0.01
    sure: float = 0.98
    most: int = 16

    def likelihood(self, vote: str, state: str) -> float:
        """Return the probability of a vote where the revision truly is in this state (a label)."""
        if vote == SKIP:
            return 1.0
        shows = self.hit if is_bad(state) else self.false
        if not is_bad(vote):
            return 1.0 - shows
        # A bug of another signature is as unlikely in a bad revision as any bug is in a good one.
        return shows if not is_bad(state) or vote == state else min(shows, self.false)

    def posterior(self, votes: Sequence[str]) -> float:
        """Return the probability, from even odds, that a revision with these votes is bad."""
        bad = good = 1.0
        for vote in votes:
            if vote != SKIP:
                bad *= self.hit if is_bad(vote) else 1.0 - self.hit
                good *= self.false if is_bad(vote) else 1.0 - self.false
        return bad / (bad + good) if bad + good else 0.5

    def settle(self, votes: Sequence[str]) -> str | None:
        """Return the label that the votes of a revision come to; None while another vote is needed."""
        if not votes:
            return None
        if all(vote == SKIP for vote in votes):
            return SKIP
        chance = self.posterior(votes)
        bads = [vote for vote in votes if is_bad(vote)]
        if chance >= self.sure and bads:
            return max(set(bads), key=lambda label: (bads.count(label), label))
        if 1.0 - chance >= self.sure:
            return GOOD
        return SKIP if len(votes) >= self.most else None

    def seen(self, ballots: Iterable[Sequence[str]]) -> Votes:
        """Return these odds corrected by how often votes on one revision disagreed.

        The odds given count like a hundred votes (a Beta prior), so that a few repeats that agree cannot make a
        search sure of itself, and a few that disagree make it doubt at once.
        """
        again = [[vote for vote in ballot if vote != SKIP] for ballot in ballots]
        again = [ballot for ballot in again if len(ballot) > 1]
        cast = sum(len(ballot) for ballot in again)
        minority = sum(min(n, len(ballot) - n) for ballot in again for n in [sum(map(is_bad, ballot))])
        share = 100 / (100 + cast)
        odd = minority / (100 + cast)
        return replace(self, hit=self.hit * share + (1 - share) - odd, false=self.false * share + odd)


@dataclass(frozen=True)
class Edge:
    """Where the label changes: ``low`` still has ``before``, ``high`` already has ``after``.

    Where ``high`` is not ``low + 1`` everything between was skipped, and the change is one of ``low + 1 .. high``.
    """

    low: int
    high: int
    before: str
    after: str
    probes: int = 0
    """Probes that answered: those that narrowed this edge, and its two ends."""
    skipped: int = 0
    """Probes that were spent on it and answered `skip`."""
    bound: int = 0
    confidence: float = 1.0
    result: Result = Result.FOUND

    @property
    def kind(self) -> Kind:
        """Say what changes here."""
        if is_bad(self.before) and is_bad(self.after):
            return Kind.SIGNATURE
        return Kind.FIRST_BAD if is_bad(self.after) else Kind.FIRST_FIXED


@dataclass(frozen=True)
class Answer:
    """What a search has found, edges in order of revisions."""

    result: Result
    edges: tuple[Edge, ...]
    labels: Mapping[int, str]
    probes: int
    """All probes, votes and skips included."""
    scanned: int
    """Those of the coarse scan among them."""


def bound(n: int, skips: int = 0, k: int = 1) -> int:
    """Return how many probes one edge may take: its ends, the cuts, and two for each that was skipped.

    With `k` probes at a time a cut leaves 1/(k+1) of a range and costs k probes.
    """
    cuts, left = 0, n
    while left > 1:
        left = math.ceil(left / (k + 1))
        cuts += 1
    return k * cuts + 2 + 2 * skips


class Search:
    """The state of one search over revisions ``0 .. n-1``, in the order of their age.

    ``hints`` are points of which something is known, one in each phase that is expected: they are tried after the
    ends. ``scan`` is how many points of the coarse scan are tried where all of those agree.
    """

    def __init__(self, n: int, *, hints: Sequence[int] = (), scan: int = SCAN, votes: Votes | None = None) -> None:
        if n < 2:
            raise ValueError(f"{n} revisions: a search needs two ends")
        self.n = n
        self.hints = tuple(hint for hint in hints if 0 <= hint < n)
        self.scan = scan
        self.votes = votes or Votes()
        self.ballots: dict[int, list[str]] = {}
        self._purpose: dict[int, tuple[str, int, int]] = {}
        self._widest = 1

    # -- asking and telling

    def ask(self, k: int = 1) -> list[int]:
        """Return up to `k` revisions to probe next; none where the search has ended.

        Ask again only when all of them have been told. A racy revision is asked for until its votes settle it.
        """
        self._widest = max(self._widest, k)
        undecided = [i for i, votes in self.ballots.items() if self.votes.settle(votes) is None]
        wanted = undecided[:k]
        if not wanted:
            for purpose, index in self._plan(self.labels(), k):
                self._purpose.setdefault(index, purpose)
                wanted.append(index)
        return wanted

    def tell(self, index: int, vote: str) -> None:
        """Enter one vote."""
        if not 0 <= index < self.n:
            raise IndexError(f"revision {index} of {self.n}")
        self.ballots.setdefault(index, []).append(vote)

    def widest_gap(self) -> int:
        """Return how many revisions at most lie untried between two that answered alike: room for a hidden phase."""
        labels = self.labels()
        answered = [i for i, label in labels.items() if label != SKIP]
        pairs = [(a, b) for a, b in itertools.pairwise(answered) if labels[a] == labels[b]]
        return max((sum(i not in labels for i in range(a + 1, b)) for a, b in pairs), default=0)

    def labels(self) -> dict[int, str]:
        """Return the settled revisions and their labels, in order."""
        found = {i: self.votes.settle(votes) for i, votes in self.ballots.items()}
        return {i: label for i, label in sorted(found.items()) if label is not None}

    def after(self, index: int) -> tuple[int, ...]:
        """Return what would be asked next if `index` answered as one of its sides does: what to prepare meanwhile."""
        labels = self.labels()
        known = list(dict.fromkeys(label for label in labels.values() if label != SKIP)) or [GOOD, BAD]
        if len(known) == 1:
            known.append(BAD if known[0] == GOOD else GOOD)
        following = (self._plan({**labels, index: label}, 1) for label in known)
        return tuple(dict.fromkeys(i for plan in following for _, i in plan if i != index and i not in labels))

    # -- the plan, from labels alone

    def _plan(self, labels: Mapping[int, str], k: int) -> list[tuple[tuple[str, int, int], int]]:
        whole = ("end", 0, self.n - 1)
        forward, backward = range(self.n), range(self.n - 1, -1, -1)
        left, ask_left = _outermost(forward, labels)
        right, ask_right = _outermost(backward, labels)
        asked = list(dict.fromkeys(i for i in (ask_left, ask_right) if i is not None))
        if asked:
            return [(whole, i) for i in asked[:k]]
        if left is None or right is None:
            return []
        untried = [i for i in self.hints if i not in labels]
        if untried:
            return [(("scan", left, right), i) for i in untried[:k]]
        answered = [i for i in sorted(labels) if labels[i] != SKIP]
        pairs = [(a, b) for a, b in itertools.pairwise(answered) if labels[a] != labels[b]]
        if not pairs:
            # Beyond the ends are those that the doubling strides over skipped ones passed by.
            tries = [*_widest_gaps(left, right), *(i for i in range(self.n) if not left <= i <= right)]
            spent = sum(what == "scan" and i in labels for i, (what, _, _) in self._purpose.items())
            left_over = max(0, self.scan + len(self.hints) - spent)
            return [(("scan", left, right), i) for i in tries if i not in labels][: min(k, left_over)]
        return self._cut(pairs, labels, k)

    def _cut(
        self, pairs: Sequence[tuple[int, int]], labels: Mapping[int, str], k: int
    ) -> list[tuple[tuple[str, int, int], int]]:
        """Share out k probes among the open edges, the widest first, and spread each share evenly."""
        inside = {(a, b): [i for i in range(a + 1, b) if i not in labels] for a, b in pairs}
        shares = dict.fromkeys((pair for pair in pairs if inside[pair]), 0)
        for _ in range(k):
            room = [pair for pair in shares if shares[pair] < len(inside[pair])]
            if room:
                widest = max(room, key=lambda pair: len(inside[pair]) / (shares[pair] + 1))
                shares[widest] += 1
        found = []
        for (a, b), share in shares.items():
            skips = sum(labels.get(i) == SKIP for i in range(a + 1, b))
            for i in _spread(inside[a, b], share, skips):
                found.append((("edge", a, b), i))
        return found

    # -- the answer

    def answer(self, identical: Callable[[int, int], bool] | None = None, votes: Votes | None = None) -> Answer:
        """Return what is known now; `identical` says whether two revisions hold the same files.

        `votes` replaces the trust in one probe for the confidences, e.g. by what the votes themselves showed.
        """
        labels = self.labels()
        answered = [i for i, label in labels.items() if label != SKIP]
        edges = [
            self._edge(a, b, labels)
            for a, b in itertools.pairwise(answered)
            if labels[a] != labels[b]
        ]  # fmt: skip
        edges = [replace(e, confidence=self._confidence(e, edges, votes or self.votes)) for e in edges]
        if identical:
            edges = [replace(e, result=Result.NO_OP) if identical(e.low, e.high) else e for e in edges]
        states = {labels[i] for i in answered}
        if edges:
            worst = (Result.RANGE, Result.NO_OP)
            result = next((r for r in worst if any(e.result is r for e in edges)), Result.FOUND)
        elif not states:
            result = Result.ALL_SKIPPED
        else:
            result = Result.ALWAYS_BAD if is_bad(states.pop()) else Result.NOT_REPRODUCED
        spent = {i: len(votes) for i, votes in self.ballots.items()}
        scanned = sum(spent[i] for i, (what, _, _) in self._purpose.items() if what == "scan" and i in spent)
        return Answer(result, tuple(edges), labels, sum(spent.values()), scanned)

    def _edge(self, low: int, high: int, labels: Mapping[int, str]) -> Edge:
        mine = [
            i
            for i, (what, a, b) in self._purpose.items()
            if i in labels and (what == "end" or (what == "edge" and a <= low and high <= b))
        ]
        skipped = sum(labels[i] == SKIP for i in mine)
        return Edge(
            low,
            high,
            labels[low],
            labels[high],
            probes=len(mine) - skipped,
            skipped=skipped,
            bound=bound(self.n, skipped, self._widest),
            result=Result.FOUND if high == low + 1 else Result.RANGE,
        )

    def _confidence(self, edge: Edge, edges: Sequence[Edge], votes: Votes) -> float:
        """Return the posterior that the change lies in ``low + 1 .. high``, every place being as likely before."""
        first = max((e.high for e in edges if e.high <= edge.low), default=0)
        last = min((e.low for e in edges if e.low >= edge.high), default=self.n - 1)
        ballots = {i: b for i, b in self.ballots.items() if first <= i <= last}
        weights = {}
        for place in range(first + 1, last + 1):
            weights[place] = sum(
                math.log(max(votes.likelihood(vote, edge.before if i < place else edge.after), 1e-300))
                for i, ballot in ballots.items()
                for vote in ballot
            )
        top = max(weights.values())
        shares = {place: math.exp(weight - top) for place, weight in weights.items()}
        return sum(share for place, share in shares.items() if edge.low < place <= edge.high) / sum(shares.values())


def _outermost(order: Sequence[int], labels: Mapping[int, str]) -> tuple[int | None, int | None]:
    """Return the first revision of an order that answers, and the one to ask to find it out (one of them is None).

    Skipped ones at an end come in a row (too old for this host, say), so the strides double until one answers, and
    what lies between the last skip and the first answer is halved. Both are None where all are skipped.
    """
    last, at, stride = -1, 0, 1
    while at < len(order):
        label = labels.get(order[at])
        if label is None:
            return None, order[at]
        if label != SKIP:
            break
        last, at, stride = at, at + stride, stride * 2
    else:
        at = len(order) - 1
        label = labels.get(order[at])
        if label is None:
            return None, order[at]
        if label == SKIP:
            rest = [i for i in order if i not in labels]
            answered = [i for i in order if labels.get(i, SKIP) != SKIP]
            if answered:
                return answered[0], None
            return None, _spread(rest, 1, len(order) - len(rest))[0] if rest else None
    while at - last > 1:
        middle = (at + last) // 2
        label = labels.get(order[middle])
        if label is None:
            return None, order[middle]
        last, at = (middle, at) if label == SKIP else (last, middle)
    return order[at], None


def _spread(candidates: Sequence[int], share: int, skips: int) -> list[int]:
    """Return `share` of the candidates, evenly spread; after a skip, away from where it was.

    The second try after a skip is at a quarter, then three quarters, an eighth ..., since what cannot be tried comes in
    clusters.
    """
    if share == 1 and skips:
        fraction = _van_der_corput(skips + 1)
        return [candidates[min(int(fraction * len(candidates)), len(candidates) - 1)]]
    return [candidates[(j * (len(candidates) + 1)) // (share + 1) - 1] for j in range(1, share + 1)] if share else []


def _van_der_corput(number: int) -> float:
    """Return 1/2, 1/4, 3/4, 1/8, 5/8, ... for 1, 2, 3, 4, 5, ..."""
    value, digit = 0.0, 0.5
    while number:
        value += digit * (number & 1)
        number >>= 1
        digit /= 2
    return value


def _widest_gaps(left: int, right: int) -> Iterator[int]:
    """Yield the revisions between two, each time the middle of the widest gap that is left."""
    gaps = [(left, right)]
    while gaps:
        following = []
        for a, b in gaps:
            if b - a > 1:
                middle = (a + b) // 2
                yield middle
                following += [(a, middle), (middle, b)]
        gaps = following
