"""What is known of a report, in a row: who is hit, which releases are bad, from which on it is good, what to do.

README, page and terminal print the same rows. Pure but for a report's title, which is that of its reading.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from repros import ROOT
from repros.case import Case, Claim
from repros.cases import Entry
from repros.report import standing
from repros.run.results import Record
from repros.verdict import SETTLED, Verdict

#: How a claim begins that is not the report's.
BESIDE = "not in the report: "
#: What is said to be good from where a symptom has no end in the releases that were tried.
NO_RELEASE = "no release tried"


@dataclass(frozen=True)
class Line:
    """One case of a report: who is hit, and by which releases; ``upgrade`` is empty where no release tried is good."""

    hit: str
    bad: str
    good: str
    upgrade: str = ""


@dataclass(frozen=True)
class Row:
    """One report: a line for each of its cases that is reproduced, or the one that says that none is."""

    case: Case
    """The first of its cases, for what all of them have alike."""
    title: str
    refuted: int
    """Of the claims that the report itself makes."""
    claims: int
    lines: tuple[Line, ...]


def rows(records: Sequence[Record], known: Mapping[str, Entry]) -> list[Row]:
    """Return a row for each report that has trials among the records."""
    return [row(entries, of(entries, records)) for entries in standing.by_report(known, records)]


def row(entries: Sequence[Entry], records: Sequence[Record]) -> Row:
    """Return the row of one report, of what it claims itself."""
    refuted, claims = refuted_of(entries, records)
    own = {entry.name: [r for r in of([entry], records) if r.condition in own_conditions(entry)] for entry in entries}
    lines = [line(entry, own[entry.name]) for entry in entries if _any(own[entry.name], (Verdict.REPRODUCED,))]
    if not lines:
        tried = any(_any(mine, SETTLED) for mine in own.values())
        lines = [Line("nobody", "none", "every release tried") if tried else Line("unknown", "untested", "untested")]
    return Row(entries[0].case, title(entries), refuted, claims, tuple(lines))


def line(entry: Entry, records: Sequence[Record]) -> Line:
    """Return who is hit by a case, which releases have its symptom, from which on it is gone, and what to do."""
    good = standing.good_from(records)
    packages = [fix.package for fix in good] or [standing.deciding(records, entry.case.package)]
    bad = " and ".join(f"{package} {standing.bad_releases(records, package)}" for package in packages)
    releases = " and ".join(f"{fix.package} {fix.by}" for fix in good)
    return Line(entry.case.trigger, bad, releases or NO_RELEASE, f"upgrade to {releases}" if releases else "")


def of(entries: Sequence[Entry], records: Sequence[Record]) -> list[Record]:
    """Return the records of these cases."""
    names = {entry.name for entry in entries}
    return [record for record in records if record.case in names]


def is_own(claim: Claim) -> bool:
    """Return whether a claim is the report's, and not what the suite found beside it."""
    return not claim.text.startswith(BESIDE)


def own_conditions(entry: Entry) -> frozenset[str]:
    """Return the conditions that speak to what the report claims itself."""
    return frozenset().union(*(entry.case.speaking_to(claim) for claim in entry.case.claims if is_own(claim)))


def refuted_of(entries: Sequence[Entry], records: Sequence[Record]) -> tuple[int, int]:
    """Return how many of a report's own claims are refuted, and how many it makes."""
    own = [told for told in standing.claims_of(entries).values() if is_own(told[0][1])]
    words = [standing.of(standing.spoken(told, records)).word for told in own]
    return words.count("refuted"), len(words)


def title(entries: Sequence[Entry]) -> str:
    """Return a report's title: that of the reading, else of the first case."""
    try:
        found = re.match(r"# (.+)\n", reading_path(entries[0]).read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found[1].strip() if found else entries[0].case.title


def reading_path(entry: Entry) -> Path:
    """Return where the reading of a case's report lies: in its folder."""
    return ROOT.joinpath(*entry.module.split(".")[:-1]) / "story.md"


def _any(records: Sequence[Record], verdicts: Sequence[Verdict]) -> bool:
    return any(record.verdict in verdicts for record in records)
