"""Searches under way: one for each case and condition, over one row of revisions, probed together where they meet.

Each turn takes the revision that most searches ask for, so that its environment serves them all. While it is tried the
environments of what either answer would lead to are made. Kept probes are told without running anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from repros.bisect.probe import Kept, Probe, identity
from repros.bisect.revisions import Revision
from repros.bisect.scripts import ScriptEntry
from repros.bisect.search import BAD, GOOD, SKIP, Answer, Edge, Search, is_bad
from repros.cases import Entry
from repros.errors import UserError


@dataclass(eq=False)
class Walk:
    """One search: a case under a condition, or a script under a rule, over the revisions that can be tried under it."""

    entry: Entry | ScriptEntry
    condition: str
    """For a script: the rule."""
    revisions: tuple[Revision, ...]
    search: Search
    ruled_out: tuple[tuple[Revision, str], ...] = ()
    given: Mapping[int, str] = field(default_factory=dict)
    """What the user said of an end: index -> ``good`` or ``bad``."""
    signatures: bool = True
    """Whether a bug of another signature is another label; else any reproduction is the same."""
    order: list[tuple[int, Probe]] = field(default_factory=list)
    """Every probe that was told, in the order of telling, and the index of its revision."""
    identities: list[str] = field(default_factory=list)
    crossed: list[tuple[int, Probe]] = field(default_factory=list)
    """Of an edge between commits whose native libraries are of two releases: each again with the other's."""

    @property
    def name(self) -> str:
        """Name the search for people."""
        return f"{self.entry.name} [{self.condition}]"

    def told(self, index: int, fresh: bool) -> int:
        """Return how many probes of a revision were told."""
        return sum(i == index and probe.fresh == fresh for i, probe in self.order)

    def tell(self, index: int, probe: Probe) -> None:
        """Enter a probe's votes; an end that contradicts what was said of it is a UserError."""
        self.order.append((index, probe))
        for vote in probe.votes:
            self.search.tell(index, vote if self.signatures or not is_bad(vote) else BAD)
        said, label = self.given.get(index), self.search.labels().get(index)
        if said and label not in (None, SKIP) and is_bad(str(label)) != (said == BAD):
            was = BAD if said == GOOD else GOOD
            raise UserError(
                f"{self.name}: {self.revisions[index].name} was given as {said} and is {was}: {probe.reason}",
                "name other ends, or swap them",
            )

    def answer(self) -> Answer:
        """Return what is known now, with what the votes showed of themselves in the confidences."""
        trust = self.search.votes.seen(self.search.ballots.values())
        return self.search.answer(self._identical, trust)

    def _identical(self, low: int, high: int) -> bool:
        contents = [{p.content for i, p in self.order if i == index and p.content} for index in (low, high)]
        return bool(contents[0]) and contents[0] == contents[1]

    def unconfirmed(self) -> list[int]:
        """Return the neighbours of edges that no fresh environment was asked about."""
        ends = [i for edge in self.answer().edges for i in (edge.low, edge.high)]
        return [i for i in dict.fromkeys(ends) if not self.told(i, fresh=True)]

    def confirmed(self, edge: Edge) -> bool:
        """Return whether both neighbours said the same again, each in an environment made for it alone."""
        labels = ((edge.low, edge.before), (edge.high, edge.after))
        return all(
            any(i == index and p.fresh and all(self._label(v) == label for v in p.votes) for i, p in self.order)
            for index, label in labels
        )

    def _label(self, vote: str) -> str:
        return vote if self.signatures or not is_bad(vote) else BAD


class Probing(Protocol):
    """What makes probes: a `repros.bisect.probe.Workshop`, or the workers of a cluster."""

    def prepare(self, revision: Revision) -> Future[Any]:
        """Begin to make a revision ready."""

    def prepare_fresh(self, revision: Revision) -> Future[Any]:
        """Begin to make a revision ready in an environment of its own."""

    def drop_fresh(self, revision: Revision) -> None:
        """Remove that environment."""

    def try_here(
        self, entry: Entry | ScriptEntry, condition: str, revision: Revision, future: Future[Any], fresh: bool
    ) -> Probe:
        """Run one trial, or a script, at a revision."""

    def trim(self, wanted: set[str]) -> None:
        """Give back revisions that are not wanted next."""


class Bisection:
    """Runs searches to their end, or until the machine gives up; whatever was probed is kept."""

    def __init__(
        self,
        hunts: Sequence[Walk],
        kept: Kept,
        workshop: Probing,
        *,
        k: int = 1,
        ahead: int = 2,
        confirm: bool = True,
        retry: bool = False,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.hunts = list(hunts)
        self.kept = kept
        self.workshop = workshop
        self.ran = 0
        """Probes that were run, beside those that were kept from before."""
        self._k = k
        self._ahead = ahead
        self._confirm = confirm
        self._retry = retry
        self._say = say
        self._pool = ThreadPoolExecutor(max(1, k), thread_name_prefix="probe")
        for hunt in self.hunts:
            hunt.identities = [identity(hunt.entry, revision) for revision in hunt.revisions]

    def run(self) -> None:
        """Search and confirm, until nothing is asked any more."""
        try:
            while True:
                while wanted := self._wanted():
                    self._turn(wanted)
                told = sum(len(hunt.order) for hunt in self.hunts)
                again = self._unconfirmed()  # tells those that are kept, also where no further ones are to be made
                if again and self._confirm:
                    self._confirmations(again)
                elif told == sum(len(hunt.order) for hunt in self.hunts):
                    break
            self._cross()
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    # -- searching

    def _wanted(self) -> dict[Revision, list[tuple[Walk, int]]]:
        """Tell what is kept; return what is still asked, the revision asked for most first."""
        found: dict[Revision, list[tuple[Walk, int]]] = {}
        for hunt in self.hunts:
            while asked := hunt.search.ask(self._k):
                known = [(index, self._known(hunt, index, fresh=False)) for index in asked]
                open_ = [index for index, probe in known if probe is None]
                for index, probe in known:
                    if probe is not None:
                        hunt.tell(index, probe)
                if open_:
                    for index in open_:
                        found.setdefault(hunt.revisions[index], []).append((hunt, index))
                    break
        return dict(sorted(found.items(), key=lambda item: -len(item[1])))

    def _known(self, hunt: Walk, index: int, fresh: bool) -> Probe | None:
        kept = self.kept.find(hunt.entry.name, hunt.condition, hunt.identities[index], fresh)
        if self._retry:
            kept = [probe for probe in kept if probe.verdict not in ("error", "timeout")]
        at = hunt.told(index, fresh)
        return kept[at] if at < len(kept) else None

    def _turn(self, wanted: Mapping[Revision, list[tuple[Walk, int]]]) -> None:
        """Probe the first revision(s) that are wanted, with those that may follow being made ready meanwhile."""
        now = list(wanted)[: self._k]
        futures = {revision: self.workshop.prepare(revision) for revision in now}
        ahead = [
            hunt.revisions[i]
            for revision in now
            for hunt, index in wanted[revision][:1]
            for i in hunt.search.after(index)
            if self._known(hunt, i, fresh=False) is None
        ]
        ahead = list(dict.fromkeys([*ahead, *list(wanted)[len(now) :][:1]]))[: self._ahead * self._k]
        for revision in ahead:
            self.workshop.prepare(revision)
        waiting = [self._pool.submit(self._probe, r, futures[r], wanted[r], fresh=False) for r in now]
        for future in waiting:
            future.result()
        self.workshop.trim({revision.name for revision in (*now, *ahead)})

    def _probe(
        self, revision: Revision, future: Future[Any], hunts: Sequence[tuple[Walk, int]], *, fresh: bool
    ) -> None:
        for hunt, index in hunts:
            probe = self.workshop.try_here(hunt.entry, hunt.condition, revision, future, fresh)
            self.kept.add(probe)
            self.ran += 1
            self._say(line(hunt, probe))
            hunt.tell(index, probe)

    # -- confirming

    def _unconfirmed(self) -> dict[Revision, list[tuple[Walk, int]]]:
        found: dict[Revision, list[tuple[Walk, int]]] = {}
        for hunt in self.hunts:
            for index in hunt.unconfirmed():
                probe = self._known(hunt, index, fresh=True)
                if probe is not None:
                    hunt.tell(index, probe)
                else:
                    found.setdefault(hunt.revisions[index], []).append((hunt, index))
        return found

    def _confirmations(self, wanted: Mapping[Revision, list[tuple[Walk, int]]]) -> None:
        """Try the neighbours of edges again, the next environments being made while some are tried."""
        order = list(wanted)
        for at in range(0, len(order), self._k):
            now = order[at : at + self._k]
            futures = [self.workshop.prepare_fresh(revision) for revision in now]
            for following in order[at + self._k : at + 2 * self._k] if self._ahead else ():
                self.workshop.prepare_fresh(following)
            waiting = [
                self._pool.submit(self._confirm_one, revision, future, wanted[revision])
                for revision, future in zip(now, futures, strict=True)
            ]
            for one in waiting:
                one.result()

    def _confirm_one(self, revision: Revision, future: Future[Any], hunts: Sequence[tuple[Walk, int]]) -> None:
        try:
            self._probe(revision, future, hunts, fresh=True)
        finally:
            with contextlib.suppress(UserError):
                self.workshop.drop_fresh(revision)

    def _cross(self) -> None:
        """Try the neighbours of an edge with each other's native library: the edge may be that library's."""
        for hunt in self.hunts:
            for edge in hunt.answer().edges:
                low, high = hunt.revisions[edge.low], hunt.revisions[edge.high]
                if low.source is None or low.cell.pins == high.cell.pins:
                    continue
                for index, mine, other in ((edge.low, low, high), (edge.high, high, low)):
                    revision = replace(
                        mine, name=f"{mine.name}-other-library", cell=other.cell, native=f"crossed: {other.native}"
                    )
                    kept = self.kept.find(hunt.entry.name, hunt.condition, identity(hunt.entry, revision), False)
                    if not kept:
                        future = self.workshop.prepare(revision)
                        probe = self.workshop.try_here(hunt.entry, hunt.condition, revision, future, False)
                        self.kept.add(probe)
                        self.ran += 1
                        self._say(line(hunt, probe))
                        kept = [probe]
                    hunt.crossed.append((index, kept[0]))


def line(hunt: Walk, probe: Probe) -> str:
    """Return one probe as a line for people."""
    word = probe.votes[0].partition(":")[0] if probe.votes else SKIP
    spent = ", ".join(f"{name} {value:.1f} s" for name, value in probe.seconds.items())
    again = " (fresh environment)" if probe.fresh else ""
    return f"{hunt.name} at {probe.revision}{again}: {word}: {probe.reason} [{spent}]"
