"""The story of a report: what was claimed and what was measured, with a short hand-written reading between the figures.

A reading is Markdown beside the cases, ``repros/cases/<package>/gh<number>/story.md``, in parts named by headings. It
types no figure: `Results` gives it figures by name, and sentences that hold (``absent(…)``, ``reproduced(…)``) or stop
the command.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import jinja2

from repros import REPORTS
from repros.case import Claim, unit_of
from repros.cases import Entry
from repros.errors import UserError
from repros.report import onefile, reported, standing
from repros.report.escape import Safe, bold, code
from repros.report.machine import machines
from repros.report.rows import Row, reading_path, title
from repros.report.rows import row as report_row
from repros.run.results import Record, shown
from repros.verdict import SETTLED, Verdict, apart, multiple, show

PARTS = ("in short", "today", "claimed", "measured", "conditions", "fix")
STORIES = REPORTS / "stories"


def stories(
    records: Sequence[Record],
    known: Mapping[str, Entry],
    sources: Sequence[str],
    whole: Mapping[str, Row] | None = None,
) -> dict[str, str]:
    """Return file name -> story, of each report that has trials among the records; ``whole`` has rows by report."""
    found = {}
    for entries in standing.by_report(known, records):
        report = entries[0].case.report
        found[report.replace("#", "-") + ".md"] = story(entries, records, sources, (whole or {}).get(report))
    return found


def _of(entry: Entry, records: Iterable[Record]) -> list[Record]:
    return [record for record in records if record.case == entry.name]


def story(entries: Sequence[Entry], records: Sequence[Record], sources: Sequence[str], whole: Row | None = None) -> str:
    """Return the story of one report, told over all of its cases; ``whole`` is its row over all evidence."""
    names = [entry.name for entry in entries]
    mine = [record for record in records if record.case in names]
    first = entries[0].case
    path = reading_path(entries[0])
    claims, fixes = [], []
    for text, told in standing.claims_of(entries).items():
        reports = {name: value for _, claim in told for name, value in claim.reported.items()}
        numbers = "; ".join(f"{name}: {value}" for name, value in reports.items())
        word = bold(standing.of(standing.spoken(told, mine)).word)
        claims.append([Safe(text), Safe(numbers or "no figure"), word])
    for entry in entries:
        if entry.case.proposes:
            does = standing.of_fix(_of(entry, mine)) or "untested here"
            fixes.append({"case": entry.name, "proposes": entry.case.proposes, "does": does})
    text = onefile.template("story.md.j2").render(
        report=f"{first.package}#{first.number}",
        title=title(entries),
        kind=first.kind,
        status=first.status,
        url=first.url,
        command=f"python -m repros stories {' '.join(sources)}",
        reading=shown(path),
        lines=(whole or report_row(entries, mine)).lines,
        remedies={entry.name: standing.of_remedies(entry.case, _of(entry, mine)) for entry in entries},
        parts=parts(path, Results(records, path, entries)),  # one report may lean on another's trials
        claims=claims,
        figures=[figures(rows) for rows in conditions(mine)],
        releases=releases(mine),
        fixes=fixes,
        machines=machines(mine),
        cells=list(dict.fromkeys(record.cell for record in mine)),
        example=next(record.repeat for record in mine if record.arms),
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def today(stories: Path, report: str) -> str:
    """Return what the committed story of a report says to do today, in Markdown; empty where there is none."""
    path = stories / (report.replace("#", "-") + ".md")
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = re.search(r"(?ms)^## What to do today\n(.*?)(?=^## |\Z)", text)
    return found[1].strip() if found else ""


def parts(path: Path, results: Results) -> dict[str, str]:
    """Return the parts of a reading, figures put in; UserError for a part or a figure that is not there."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return dict.fromkeys(PARTS, "")
    except OSError as error:
        raise UserError(f"{shown(path)}: {error.strerror}", "check its permissions") from error
    names = [name.strip() for name in re.findall(r"(?m)^## (.*)$", text)]
    if tuple(names) != PARTS:
        raise UserError(f"{shown(path)}: its parts are {', '.join(names)}", f"write `## ` {', '.join(PARTS)}")
    engine = jinja2.Environment(undefined=jinja2.StrictUndefined)  # noqa: S701 - Markdown
    try:
        filled = engine.from_string(text).render(results.functions())
    except jinja2.TemplateError as error:
        raise UserError(f"{shown(path)}: {error}", "use the functions of `repros.evidence.story.Results`") from error
    return {name: part.strip() for name, part in zip(names, re.split(r"(?m)^## .*\n", filled)[1:], strict=True)}


class Results:
    """What a reading may say of the results."""

    def __init__(self, records: Sequence[Record], path: Path, entries: Sequence[Entry]) -> None:
        self._records = records
        self._place = shown(path)
        self._claims = [(entry.name, claim) for entry in entries for claim in entry.case.claims]

    def functions(self) -> dict[str, Callable[..., str]]:
        """Return the functions by the names that a reading calls them by."""
        return {
            "figure": self.figure,
            "budget": self.budget,
            "reported": self.reported,
            "measured": self.measured,
            "edges": self.edges,
            "absent": lambda case, globs, cells="*": self._all(Verdict.ABSENT, case, globs, cells),
            "reproduced": lambda case, globs, cells="*": self._all(Verdict.REPRODUCED, case, globs, cells),
            "effect": self.effect,
            "good": self.good,
        }

    def figure(self, case: str, condition: str, cell: str, arm: str = "subject", name: str = "") -> str:
        """Return an arm's figure in print, the judged one if none is named."""
        record = self._one(case, condition, cell)
        name = name or str(record.budget["figure"])
        value = found.reached(name) if (found := record.arm(arm)) else None
        if value is None:
            raise UserError(
                f"{self._place}: {case} [{condition}] in {cell}: no {name} of {arm}", "name one that it has"
            )
        return show(value, unit_of(name))

    def budget(self, case: str, condition: str, cell: str) -> str:
        """Return a trial's budget in print."""
        record = self._one(case, condition, cell)
        return show(float(record.budget["limit"]), str(record.budget["unit"]))

    def reported(self, case: str, number: str) -> str:
        """Return a number as the report gives it."""
        return self._claim(case, number).reported[number]

    def measured(self, case: str, number: str, arm: str = "subject", condition: str = "*") -> str:
        """Return what an arm measured of a reported number, in the report's unit, over all cells that speak to it."""
        found = [
            one
            for one in reported.spans(reported.rows(self._claim(case, number), self._records, case))
            if (one.name, one.arm) == (number, arm) and fnmatchcase(one.condition, condition)
        ]
        if not found:
            raise UserError(f"{self._place}: {case}: no `{number}` of {arm} was measured", "name one that was")
        return span([found[0].measured, found[-1].measured])

    def _claim(self, case: str, number: str) -> Claim:
        for name, claim in self._claims:
            if name == case and number in claim.reported:
                return claim
        raise UserError(f"{self._place}: {case} reports no `{number}`", "name a number of its claims")

    def edges(self, case: str, condition: str) -> str:
        """Return between which tried releases a condition came and went."""
        rows = self._settled(case, condition, "*")
        return (
            standing.edges(rows).text if any(r.verdict is Verdict.REPRODUCED for r in rows) else "absent in every cell"
        )

    def good(self, case: str, globs: str = "*", package: str = "") -> str:
        """Return the tried releases from which on no such condition has the symptom, of one package if it is named."""
        rows = self._settled(case, globs, "*")
        each = [of for of in standing.by_condition(rows).values() if any(r.verdict is Verdict.REPRODUCED for r in of)]
        ends = [standing.fixed_in(package, of) for of in each] if package else standing.good_from(rows)
        found = [fix for fix in ends if fix]
        if not found or len(found) < len(ends):
            what = f"{self._place}: no release{f' of {package}' * bool(package)} that was tried ends {case} [{globs}]"
            raise UserError(what, "name conditions that have an end, or say that there is none")
        if package:
            found = [max(found, key=lambda fix: fix.by)]
        return " and ".join(f"{fix.package} {fix.by}" for fix in found)

    def effect(self, cases: str, kind: str, condition: str = "*") -> str:
        """Return in how many of the trials in which it was tried the proposed fix does this; both are globs."""
        tried = [
            r
            for r in self._records
            if r.proposed and fnmatchcase(r.case, cases) and fnmatchcase(r.condition, condition)
        ]
        return f"{sum(bool(r.proposed and r.proposed['effect'] == kind) for r in tried)} of {len(tried)} trials"

    def _all(self, verdict: Verdict, case: str, globs: str, cells: str) -> str:
        rows = self._settled(case, globs, cells)
        other = [record for record in rows if record.verdict is not verdict]
        if other:
            one = other[0]
            raise UserError(
                f"{self._place}: says {verdict.value} of {case} [{globs}] in {cells}, "
                f"but {one.condition} in {one.cell} is {one.verdict.value}",
                "the results are right: write the reading anew",
            )
        return f"{verdict.value} in all {len(rows)} trials"

    def _settled(self, case: str, globs: str, cells: str) -> list[Record]:
        rows = [
            record
            for record in self._records
            if record.case == case and record.verdict in SETTLED and fnmatchcase(record.cell, cells)
            and any(fnmatchcase(record.condition, glob) for glob in globs.split())
        ]  # fmt: skip
        if not rows:
            raise UserError(f"{self._place}: no settled trial of {case} [{globs}] in {cells}", "name what was tried")
        return rows

    def _one(self, case: str, condition: str, cell: str) -> Record:
        for record in self._records:
            if record.key == (case, condition, cell):
                return record
        raise UserError(f"{self._place}: no trial of {case} [{condition}] in {cell}", "name one that was tried")


def conditions(records: Sequence[Record]) -> list[list[Record]]:
    """Group records by case and condition, those that came to a verdict."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.verdict in SETTLED:
            found.setdefault((record.case, record.condition), []).append(record)
    return list(found.values())


def figures(rows: Sequence[Record]) -> list[str]:
    """Return one condition's row: judged figure, budget, and ranges over its cells."""
    one = rows[0]
    unit = str(one.budget["unit"])
    limits = sorted({float(row.budget["limit"]) for row in rows})
    measured = [row.figure(arm) for row in rows for arm in ("subject", "proposed")]
    more = max(apart(measured, limit, unit) for limit in limits)
    planted = [value for row in rows if (value := row.margins.get("planted_over_budget")) is not None]
    reference = [value for row in rows if (value := row.margins.get("budget_over_reference")) is not None]
    margins = [f"≥ {multiple(min(values))}" if values else "raised" for values in (planted, reference)]
    margins[0] = "no planted arm" if all(row.control for row in rows) else margins[0]
    return [
        code(one.case), code(one.condition), one.budget["figure"], span([show(limit, unit, more) for limit in limits]),
        *(arm_range(rows, arm, unit, more) for arm in ("subject", "proposed")), ", ".join(margins),
    ]  # fmt: skip


def arm_range(rows: Sequence[Record], arm: str, unit: str, more: int = 0) -> str:
    """Return the range of an arm's judged figure, and how often it ended otherwise before it had one."""
    values = sorted(value for row in rows if (value := row.figure(arm)) is not None)
    otherwise = Counter(
        reported.ended(found) or "no figure" for row in rows if (found := row.arm(arm)) and row.figure(arm) is None
    )
    parts = [span([show(value, unit, more) for value in (values[0], values[-1])])] if values else []
    parts += [f"{how} in {count}" for how, count in sorted(otherwise.items())]
    return ", ".join(parts) or "not tried"


def span(texts: Sequence[str]) -> str:
    """Return first and last, or the one that both are."""
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def releases(records: Sequence[Record]) -> list[list[str]]:
    """Return case, conditions and what is said of the releases that they were tried in."""
    found: dict[tuple[str, str], list[str]] = {}
    for rows in conditions(records):
        bad = any(row.verdict is Verdict.REPRODUCED for row in rows)
        cells = len({row.cell for row in rows})
        said = standing.edges(rows).text if bad else "absent in every cell"
        if said.endswith("every cell"):
            said += f" ({cells})"
        found.setdefault((rows[0].case, said), []).append(code(rows[0].condition))
    return [[code(case), Safe(", ".join(names)), said] for (case, said), names in found.items()]
