"""The rows that a page opens with: of each report who is hit, which releases are bad and good, what to do.

A page over one run may know less than all evidence together. Where it does, its row says both.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from repros import ROOT
from repros.advisory.model import Advisory, Mechanism
from repros.cases import Entry
from repros.report import rows, standing
from repros.report.rows import Line, Row
from repros.run.results import REPORTS, Record
from repros.verdict import SETTLED, Verdict

#: Where the stories of reports and the bisections of releases lie.
STORIES, BISECTIONS = REPORTS / "stories", "reports/bisect/"
STILL = "still bad"
#: The heading of a story's last part.
TODAY = "#what-to-do-today"


@dataclass(frozen=True)
class Link:
    """A way to more: ``href`` is empty where the page lies elsewhere than the file that ``path`` names."""

    text: str
    path: str
    href: str


def answers(
    records: Sequence[Record], known: Mapping[str, Entry], advisories: Mapping[str, Advisory], place: Path | None
) -> list[dict[str, Any]]:
    """Return a row for each report; ``advisories`` are by report, ``place`` is the folder that the page is for."""
    found = []
    for tried in standing.by_report(known, records):
        report = tried[0].case.report
        entries = of_report(known, report)  # of those that were not tried here, too, all evidence may say something
        found.append(
            answer(entries, rows.row(tried, records), advisories.get(report), records, place, f"#{anchor(report)}")
        )
    return found


def of_all(known: Mapping[str, Entry], advisories: Iterable[Advisory], place: Path) -> list[dict[str, Any]]:
    """Return a row for each report over all evidence, for a page that has no trials of its own."""
    found = []
    for one in advisories:
        if entries := of_report(known, one.about.report):
            found.append(answer(entries, rows.of_advisory(one), one, (), place, story(entries, place).href))
    return found


def of_report(known: Mapping[str, Entry], report: str) -> list[Entry]:
    """Return the cases of a report."""
    return [entry for entry in known.values() if entry.case.report == report]


def answer(
    entries: Sequence[Entry],
    here: Row,
    advisory: Advisory | None,
    records: Sequence[Record],
    place: Path | None,
    href: str,
) -> dict[str, Any]:
    """Return the row of one report, a line for each of its mechanisms; ``href`` is where its name leads."""
    whole = rows.of_advisory(advisory) if advisory else here
    seen, more = ({one.case: one for one in row.lines if one.case} for row in (here, whole))
    mechanisms = {one.case: one for one in advisory.about.mechanisms} if advisory else {}
    lines = [
        line(entry, seen.get(entry.name), more.get(entry.name), records, mechanisms.get(entry.name))
        for entry in entries
        if entry.name in seen or entry.name in more
    ]
    fixes = [one.url for one in advisory.references if one.type == "FIX"] if advisory else []
    return {
        "name": here.report,
        "href": href,
        "title": here.title,
        "refuted": refuted(whole),
        "lines": lines or [no_line(here.lines[0])],
        "links": [asdict(one) for one in links(entries, fixes, place)],
        "today": asdict(story(entries, place, TODAY)),
    }


def line(
    entry: Entry, here: Line | None, whole: Line | None, records: Sequence[Record], mechanism: Mechanism | None
) -> dict[str, Any]:
    """Return what is said of one mechanism, by the page's trials and by all evidence; what to do is of all."""
    best = whole or here
    assert best is not None
    own, remedies = rows.own_records(entry, records), mechanism.remedies if mechanism else ()
    if here is None:
        tried = any(record.verdict in SETTLED for record in own)
        here = Line(entry.name, best.hit, "none in this run" if tried else "not tried in this run", "", {}, "")
    elif own and packages(here) != packages(best):
        here = of_packages(here, packages(best), own)
    return {
        "hit": best.hit,
        "severity": entry.case.severity,
        "ends": bool(best.upgrade),
        "bad": both(here.bad, best.bad),
        "good": both(here.good, best.good),
        "still": state(best.newest).startswith(STILL),
        "newest": both(state(here.newest), state(best.newest)),
        "todo": [text for text in (best.advice, *(one.text for one in remedies)) if text],
        "useless": [one.text for one in mechanism.useless] if mechanism else [],
    }


def packages(one: Line) -> list[str]:
    """Return the packages whose releases a line tells bad from good."""
    return [part.partition(" ")[0] for part in one.bad.split(" and ")]


def of_packages(one: Line, names: Sequence[str], own: Sequence[Record]) -> Line:
    """Return a line by the releases of other packages: those that decide where more was tried."""
    bad = " and ".join(f"{name} {standing.bad_releases(own, name)}" for name in names)
    return replace(one, bad=bad, good=rows.NO_RELEASE, upgrade={}, newest=rows.newest(own, names))


def no_line(one: Line) -> dict[str, Any]:
    """Return the line of a report of which nothing was reproduced anywhere."""
    return {
        "hit": one.hit, "severity": "", "ends": True, "bad": both(one.bad, one.bad),
        "good": both(one.good, one.good), "still": False, "newest": both("", ""), "todo": [], "useless": [],
    }  # fmt: skip


def anchor(report: str) -> str:
    """Return the name that the section of a report has in an address."""
    return "".join(c if c.isalnum() else "-" for c in report)


def state(newest: str) -> str:
    """Return in a reader's words what is known of the newest release, such as ``reproduced in torch 2.15.0``."""
    verdict, joint, releases = newest.partition(" in ")
    return f"{STILL if verdict == Verdict.REPRODUCED.value else 'good'}{joint}{releases}" if newest else ""


def both(here: str, whole: str) -> dict[str, str]:
    """Return what is said here, and beside it what is said over all where that differs."""
    return {"here": here, "all": whole if whole != here else ""}


def refuted(row: Row) -> str:
    """Say how many of a report's own claims are refuted; empty if none is."""
    if not row.refuted:
        return ""
    return "refuted" if row.refuted == row.claims else f"{row.refuted} of {row.claims} claims refuted"


# -- ways to more


def links(entries: Sequence[Entry], fixes: Sequence[str], place: Path | None) -> list[Link]:
    """Return the ways to a report's story, its bisections, upstream's fix and its witness."""
    found = [story(entries, place)]
    sources = {window.source: None for entry in entries for c in entry.case.conditions for window in c.affected or ()}
    found += [link("bisection", ROOT / one / "README.md", place) for one in sources if one.startswith(BISECTIONS)]
    found += [Link(f"fix {fixed(url)}", url, url) for url in fixes]
    return [*found, link("minimal.py", entries[0].path.with_name("minimal.py"), place)]


def fixed(url: str) -> str:
    """Return how a pull request or a commit is called."""
    kind, _, name = url.rpartition("/")
    return f"#{name}" if kind.endswith("/pull") else name[:7]


def story(entries: Sequence[Entry], place: Path | None, heading: str = "") -> Link:
    """Return the way to a report's story, to one of its headings if it is named."""
    return link("story", STORIES / f"{entries[0].case.report.replace('#', '-')}.md", place, heading)


def link(text: str, target: Path, place: Path | None, anchor: str = "") -> Link:
    """Return the way from a page to a file of the project; one that can be followed where both lie in it."""
    inside = place is not None and place.resolve().is_relative_to(ROOT)
    href = Path(os.path.relpath(target, place.resolve())).as_posix() + anchor if place and inside else ""
    return Link(text, target.relative_to(ROOT).as_posix(), href)
