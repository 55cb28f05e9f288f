"""What releases were tried under one condition, and how they did: the head of an attachment. Pure: from records."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from packaging.version import Version

from repros.case import Affected
from repros.report import standing
from repros.report.machine import rank
from repros.report.standing import AXES, Fix
from repros.run.record import Record
from repros.verdict import SETTLED, VOTES, Verdict


@dataclass(frozen=True)
class Commit:
    """A commit, or a release, that a bisection named; the one of an `Evidence` is the first without the symptom."""

    package: str
    name: str
    subject: str = ""
    url: str = ""


@dataclass(frozen=True)
class Bisected:
    """Where a bisection of a script found a change."""

    kind: str
    """``first bad`` or ``first fixed``."""
    at: Commit
    after: str
    """The last revision before it that answered."""
    exact: bool = True
    """Whether nothing lies between the two."""


@dataclass(frozen=True)
class Evidence:
    """What is committed beside a run: trials and probes of a condition, what they stand in, and the fixing commit."""

    records: Sequence[Record] = ()
    folders: Sequence[str] = ()
    fixed_by: Commit | None = None
    #: What the report's story says to do today, in Markdown.
    today: str = ""


@dataclass(frozen=True)
class Releases:
    """The releases of the package that decides: the newest bad one, the first good one above it, the vote of each."""

    package: str
    rows: tuple[tuple[Version, str], ...]
    bad: Version | None = None
    good: Version | None = None
    #: What ends the symptom with all other packages as they were: that good release, and such of other packages.
    fixes: tuple[Fix, ...] = ()

    @property
    def span(self) -> str:
        """Return the tried range in words."""
        return " to ".join(dict.fromkeys(str(self.rows[end][0]) for end in (0, -1)))


def of(records: Sequence[Record], affected: Sequence[Affected] | None, package: str) -> Releases:
    """Return how the releases that were tried did under one condition; ``package`` is the one that the report is on.

    The package that decides is one of those that the windows name: one of which a newer release is good, the report's
    own first.
    """
    settled = [record for record in records if record.verdict in SETTLED]
    names = deciding(affected, package) or [standing.deciding(settled, package)]
    fixes = [fix for name in names if (fix := standing.fixed_in(name, _released(settled, name)))]
    decides = fixes[0].package if fixes else names[0]
    rows: dict[Version, list[Record]] = {}
    for record in _released(settled, decides):
        rows.setdefault(rank(record.versions.get(decides, "")), []).append(record)
    bad = max((release for release, row in rows.items() if _has(row, Verdict.REPRODUCED)), default=None)
    return Releases(
        decides,
        tuple((release, _vote(rows[release], decides)) for release in sorted(rows)),
        bad,
        fixes[0].by if fixes else min((release for release in rows if bad and release > bad), default=None),
        tuple(fixes),
    )


def alike(record: Record, others: Iterable[Record]) -> list[Record]:
    """Return the trials of a trial's condition; what another source than its own did is no evidence of it."""
    of = (record.case, record.condition)
    return [one for one in others if (one.case, one.condition) == of and one.source in ("", record.source)]


def deciding(affected: Sequence[Affected] | None, package: str) -> list[str]:
    """Return the packages that a condition's windows name, the report's own first."""
    named = dict.fromkeys(name for window in affected or () for name in window.versions)
    return sorted(named, key=lambda name: name != package)


def rows(found: Iterable[tuple[object, str]], *, together: bool) -> list[list[str]]:
    """Return the table's rows: one a release and vote, or those of neighbours that voted alike ``together``."""
    if not together:
        return [[str(release), vote] for release, vote in found]
    made = []
    for vote, several in itertools.groupby(found, key=lambda one: one[1]):
        releases = [str(release) for release, _ in several]
        many = f" ({len(releases)} tried)" if len(releases) > 2 else ""
        made.append([" to ".join(dict.fromkeys((releases[0], releases[-1]))) + many, vote])
    return made


def _released(records: Iterable[Record], package: str) -> list[Record]:
    """Return the trials that say in which release of a package they were; a version may be any word."""
    return [record for record in records if rank(record.versions.get(package, "")) != rank("")]


def _has(records: Sequence[Record], verdict: Verdict) -> bool:
    return any(record.verdict is verdict for record in records)


def _vote(records: Sequence[Record], package: str) -> str:
    """Return the vote of one release; where it depends on another package, on which releases of that."""
    found = {VOTES[record.verdict] for record in records}
    if len(found) == 1:
        return found.pop()
    bad, good = ([r for r in records if r.verdict is verdict] for verdict in (Verdict.REPRODUCED, Verdict.ABSENT))
    for axis in AXES:
        with_it, without = ({rank(r.versions.get(axis, "")) for r in side} for side in (bad, good))
        if axis != package and not with_it & without:
            return f"bad with {axis} {_span(with_it)}, good with {_span(without)}"
    return f"bad in {len(bad)} of {len(records)} trials"


def _span(releases: set[Version]) -> str:
    return " to ".join(dict.fromkeys(str(end) for end in (min(releases), max(releases))))
