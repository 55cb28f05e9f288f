"""What to do: a row a report that was tried, and at the end of a run the remedy and the command that comes next.

A run knows its own cells alone; from which release on it is good, and what else helps, is said by the advisories, which
are made of all committed evidence.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from repros import ROOT
from repros.advisory import model
from repros.advisory.model import Mechanism
from repros.cases import Entry
from repros.errors import UserError
from repros.report import rows, standing
from repros.report.terminal import layout
from repros.report.terminal.layout import Column
from repros.run.results import REPORTS, Record, shown
from repros.verdict import Verdict

#: Of a run with more cases that are reproduced the rows of its report say what to do.
MOST_CASES = 3
#: Characters of a row's column: five of them are side by side from 120 characters on.
_LEAST = 16


def known_mechanisms() -> dict[str, Mechanism]:
    """Return case -> what all committed evidence says of it; nothing where there are no advisories."""
    try:
        return {one.case: one for advisory in model.load() for one in advisory.about.mechanisms}
    except UserError:
        return {}


def what_to_do(mechanism: Mechanism | None) -> str:
    """Return the remedies of a case in words, releases and switches that were tried; empty where none is known."""
    if mechanism is None:
        return ""
    each = [f"upgrade to {releases}"] if (releases := _upgrade(mechanism)) else []
    each += [one.text for one in mechanism.remedies]
    return "; or ".join(each)


def _upgrade(mechanism: Mechanism) -> str:
    return " and ".join(f"{package} {release}" for package, release in mechanism.upgrade.items())


def story_of(report: str) -> Path | None:
    """Return the committed story of a report, if it is there."""
    path = ROOT / "reports" / "stories" / f"{report.replace('#', '-')}.md"
    return path if path.is_file() else None


def reports(records: Sequence[Record], known: Mapping[str, Entry], console: Console) -> None:
    """Print a row a report: who is hit, which of these releases are bad, from which on it is good, what to do."""
    mechanisms = known_mechanisms()
    found, refuted = [], []
    for entries in standing.by_report(known, records):
        names = {entry.name for entry in entries}
        row = rows.row(entries, [record for record in records if record.case in names])
        if row.refuted:
            refuted.append(f"{row.refuted} of {row.claims} claims of {row.report}")
        for at, line in enumerate(row.lines):
            mechanism = mechanisms.get(line.case)
            everywhere = _upgrade(mechanism) if mechanism else ""
            known_too = f"; over all evidence {everywhere}" if everywhere not in ("", line.good) else ""
            good = f"{line.good if line.upgrade or not known_too else 'none here'}{known_too}"
            todo = (what_to_do(mechanism) or line.advice or "see its story") if line.case else ""
            found.append([row.report if not at else "", line.hit, line.bad, good, todo])
    if not found:
        return
    texts = ("who is hit", "bad", "good from", "what to do")
    layout.table(
        console, [Column("report"), *(Column(name, text=True, least=_LEAST) for name in texts)], found, apart=True
    )
    if refuted:
        layout.paragraph(console, f"refuted: {', '.join(refuted)}", hanging=2, most=console.width)
    stories = [shown(story) for report, *_ in found if report and (story := story_of(report))]
    if stories:
        layout.names(console, "stories: ", stories)


def after(records: Sequence[Record], known: Mapping[str, Entry], run: Path, console: Console) -> None:
    """Print what to do about what a run reproduced, and the commands that come next; nothing where it is absent."""
    bad = [r for r in records if r.verdict is Verdict.REPRODUCED and r.case in known]
    by_case = standing.by_case(bad)
    if len(by_case) > MOST_CASES:
        _next(console, "what to do, a row a report", f"report {shlex.quote(shown(run))}")
        return
    mechanisms = known_mechanisms()
    for case, mine in by_case.items():
        story = story_of(known[case].case.report)
        each = [what_to_do(mechanisms.get(case)), f"see {shown(story)}" if story else ""]
        todo = "; ".join(filter(None, each)) or "no advisory says it yet: `python -m repros advisories` makes one"
        says = f"what to do about {known[case].case.report}: {todo}"
        layout.paragraph(console, says, hanging=2, most=console.width)
        for label, command in _commands(known[case], mine[0], run):
            _next(console, label, command)
        if walk := _walk(known[case], mine[0]):
            layout.names(console, "since which release: ", [walk])


def _walk(entry: Entry, record: Record) -> str:
    """Return the page of the committed bisection that found a condition's windows; empty where there is none."""
    windows = entry.case.condition(record.condition).affected or () if entry.module.startswith("repros.cases.") else ()
    pages = (Path(window.source) / "README.md" for window in windows if window.source.startswith("reports/bisect/"))
    return next((page.as_posix() for page in pages if (ROOT / page).is_file()), "")


def _commands(entry: Entry, record: Record, run: Path) -> Iterator[tuple[str, str]]:
    """Yield what a command is for, and the command: since when it is bad, and what goes into the report's thread."""
    if not entry.module.startswith("repros.cases."):
        return  # a file of the user's: no command but `run` takes it
    name, _, overrides = record.cell.partition(" with ")
    windows = entry.case.condition(record.condition).affected or ()
    package = next((package for window in windows for package in window.versions), entry.case.package)
    if not overrides and not _walk(entry, record):
        yield (
            "since which release",
            (f"bisect {entry.name} --package {package} --condition {record.condition} --base {name}"),
        )
    elsewhere = "" if run.parent == REPORTS / "runs" else f" --run {shlex.quote(shown(run))}"
    yield "for the thread", f"bundle {entry.name} --condition {record.condition}{elsewhere}"


def _next(console: Console, label: str, command: str) -> None:
    console.print(f"next, {label}: python -m repros {command}", markup=False, soft_wrap=True)
