"""What is known of a report in one row: who is hit, which releases are bad, from which on it is good, what to do.

README, page, terminal and advisories all say it from here. Pure but for the title, which the report's story has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from repros import ROOT
from repros.advisory.model import Advisory, load
from repros.case import Claim
from repros.cases import Entry
from repros.report import standing
from repros.report.machine import rank
from repros.run.results import Record
from repros.verdict import SETTLED, Verdict

#: How a claim begins that is not the report's.
BESIDE = "not in the report: "
NOBODY, UNTRIED = "nobody", "unknown"
#: What is said to be good from where no release that was tried is.
NO_RELEASE = "none of those tried"
#: Of a release that a record does not name.
NOT_NOTED = "(not noted)"


@dataclass(frozen=True)
class Line:
    """What is known of one mechanism of a report; releases are those that were tried.

    ``case`` is empty where nothing was reproduced: then ``hit`` is `NOBODY` or `UNTRIED`. ``upgrade`` maps packages to
    the release from which on nobody is hit any more; ``newest`` says what is known of the newest releases.
    """

    case: str
    hit: str
    bad: str
    good: str
    upgrade: dict[str, str]
    newest: str

    @property
    def advice(self) -> str:
        """Return what to do, if there is a release that helps."""
        return f"upgrade to {self.good}" if self.upgrade else ""


@dataclass(frozen=True)
class Row:
    """What is known of one report, of what it claims itself; a line for each of its mechanisms that is so."""

    report: str
    url: str
    title: str
    lines: tuple[Line, ...]
    refuted: int
    """How many of its own claims are refuted, of ``claims``."""
    claims: int


def row(entries: Sequence[Entry], records: Sequence[Record]) -> Row:
    """Return the row of one report, by these records of it."""
    own = {entry.name: own_records(entry, records) for entry in entries}
    lines = tuple(line(entry, own[entry.name]) for entry in entries if _any(own[entry.name], (Verdict.REPRODUCED,)))
    if not lines:
        tried = any(_any(mine, SETTLED) for mine in own.values())
        words = (NOBODY, "none", "every release tried") if tried else (UNTRIED, "untested", "untested")
        lines = (Line("", *words, {}, ""),)
    first = entries[0].case
    return Row(first.report, first.url, title(entries), lines, *refuted_of(entries, records))


def of_advisory(advisory: Advisory) -> Row:
    """Return the row of a report over all evidence."""
    about = advisory.about
    lines = tuple(Line(**msgspec.structs.asdict(one)) for one in about.lines)
    return Row(about.report, about.url, advisory.summary, lines, about.refuted, about.claims)


def over_all() -> dict[str, Row]:
    """Return report -> its row over all evidence, from the advisories."""
    return {one.about.report: of_advisory(one) for one in load()}


def line(entry: Entry, records: Sequence[Record]) -> Line:
    """Return what the records say of one mechanism, which they reproduced."""
    fixes = standing.good_from(records)
    packages = [fix.package for fix in fixes] or [standing.deciding(records, entry.case.blamed)]
    bad = " and ".join(f"{package} {standing.bad_releases(records, package)}" for package in packages)
    upgrade = {fix.package: str(fix.by) for fix in fixes}
    releases = " and ".join(f"{package} {release}" for package, release in upgrade.items())
    return Line(entry.name, entry.case.trigger, bad, releases or NO_RELEASE, upgrade, newest(records, packages))


def newest(records: Sequence[Record], packages: Sequence[str]) -> str:
    """Return what the trials say of the newest release of these packages: reproduced there, or absent."""
    settled = [record for record in records if record.verdict in SETTLED]
    for package in packages:
        last = max(rank(record.versions.get(package, "")) for record in settled)
        settled = [record for record in settled if rank(record.versions.get(package, "")) == last]
    if not settled:
        return ""
    releases = " and ".join(f"{package} {settled[0].versions.get(package) or NOT_NOTED}" for package in packages)
    verdict = Verdict.REPRODUCED if _any(settled, (Verdict.REPRODUCED,)) else Verdict.ABSENT
    return f"{verdict} in {releases}"


def own_records(entry: Entry, records: Sequence[Record]) -> list[Record]:
    """Return the records of a case that speak to what its report claims itself."""
    own = own_conditions(entry)
    return [record for record in records if record.case == entry.name and record.condition in own]


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


def reading_path(entry: Entry) -> Path:
    """Return where the reading of a case's report lies: in its folder."""
    return ROOT.joinpath(*entry.module.split(".")[:-1]) / "story.md"


def title(entries: Sequence[Entry]) -> str:
    """Return a report's title: that of the reading, else of the first case."""
    try:
        found = re.match(r"# (.+)\n", reading_path(entries[0]).read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found[1].strip() if found else entries[0].case.title


def _any(records: Sequence[Record], verdicts: Sequence[Verdict]) -> bool:
    return any(record.verdict in verdicts for record in records)
