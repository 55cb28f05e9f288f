"""The page of one or more runs: one HTML file that opens from disk and asks no network for anything.

Its tables are written here, so they can be read, printed and searched without a script; the script filters them and
opens trials, whose evidence lies in the page in deflated blocks (`repros.report.page.pack`). What can be seen is in
``page/``: a template, a style sheet and a script.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from repros import __version__
from repros.advisory.model import Advisory
from repros.case import Case, Claim
from repros.cases import Entry
from repros.cells.matrix import AXES
from repros.errors import UserError
from repros.redaction.redact import Redactor
from repros.report import reported, standing
from repros.report.escape import visible
from repros.report.machine import machines, rank
from repros.report.page import answers, changes, pack
from repros.report.page.scripts import Scripts
from repros.report.rows import title
from repros.report.terminal import as_recorded
from repros.run.results import Record
from repros.verdict import SCHEMA, SETTLED, Verdict, multiple, show, show_pair

#: A sign for each verdict: colour is never the only one.
SIGNS: Mapping[Verdict, str] = {
    Verdict.REPRODUCED: "●",
    Verdict.ABSENT: "○",
    Verdict.INCONCLUSIVE: "?",
    Verdict.UNSUPPORTED: "–",
    Verdict.ERROR: "!",
    Verdict.TIMEOUT: "T",
}
MEANS: Mapping[Verdict, str] = {
    Verdict.REPRODUCED: "the subject breaks the budget, and both controls did what they must",
    Verdict.ABSENT: "the subject stays inside the budget, and both controls did what they must",
    Verdict.INCONCLUSIVE: "a control did not do what it must, or the instruments disagree: nothing is proved",
    Verdict.UNSUPPORTED: "it cannot run here, with the reason",
    Verdict.ERROR: "the subject ended in something that is not the reported symptom",
    Verdict.TIMEOUT: "the subject did not end in time",
}


#: Trials from which on a browser lays out only what is in sight.
LARGE = 2000


@dataclass(frozen=True)
class Column:
    """A cell as a column of the heat map."""

    label: str
    device: str
    versions: Mapping[str, str]


def page(
    records: Sequence[Record],
    known: Mapping[str, Entry],
    sources: Sequence[str],
    redactor: Redactor,
    against: tuple[str, Sequence[Record]] | None = None,
    notices: Sequence[str] = (),
    place: Path | None = None,
    advisories: Iterable[Advisory] = (),
) -> str:
    """Return the page. ``against`` names another run and holds its records.

    ``place`` is the folder that the page is for, from which it links to files of the project; ``advisories`` say what
    is known over all evidence.
    """
    records = ordered(records, known)
    changed = changes.between(against[1], records) if against else {}
    numbers = {record.key: number for number, record in enumerate(records)}
    sections = [
        section(name, rows, known, numbers, changed, records)
        for name, rows in grouped(records, lambda record: report_of(record, known))
    ]
    scripts = Scripts(known, redactor)
    evidence = pack.blocks(records, redactor, [scripts.of(record) for record in records])
    said = {
        "title": f"{counted(len(sections), 'report')}, {counted(len(records), 'trial')}: which releases are bad",
        "answers": answers.answers(records, known, {one.about.report: one for one in advisories}, place),
        "sections": sections,
        "counts": [(v.value, SIGNS[v], MEANS[v], sum(record.verdict is v for record in records)) for v in Verdict],
        "failed": sum(record.failed for record in records),
        "as_recorded": as_recorded(records),
        "machines": machines(records, days=False),
        "dates": sorted(redactor.text(record.date)[:16].replace("T", " ") for record in records if record.date),
        "sources": list(sources),
        "against": against[0] if against else "",
        "changes": [change_row(change, numbers) for change in changed.values() if not change.lone],
        "lone": {run: sum(change.lone == run for change in changed.values()) for run in ("before", "after")},
        "unsupported": unsupported(records),
        "notices": list(notices),
        "total": len(records),
        "large": len(records) > LARGE,
    }
    data = summary(records, known, changed, against)
    clean, data = redactor.value(said), redactor.value(data)
    parts = {name: asset(name) for name in ("page.css", "plot.js", "script.js", "trial.js", "page.js", "filters.js")}
    template = environment().from_string(asset("page.html.j2"))
    return template.render(
        **clean,
        data=json_in_html(data),
        evidence=evidence,
        scripts=scripts.block(),
        block=pack.BLOCK,
        version=__version__,
        schema=SCHEMA,
        redacted=redactor.says(),
        css=parts.pop("page.css"),
        js="\n".join(parts.values()),
    )


def counted(number: int, word: str) -> str:
    """Return a number with its word."""
    return f"{number} {word}{'s' * (number != 1)}"


def asset(name: str) -> str:
    """Return a part of the page; UserError where the installation lacks it."""
    try:
        return (resources.files("repros.report") / "page" / name).read_text(encoding="utf-8")
    except (OSError, ModuleNotFoundError) as error:
        raise UserError(
            f"repros/report/page/{name}: {getattr(error, 'strerror', None) or error}",
            "the installation lacks a part of the page; install the suite again: `python3 -m pip install -e .`",
        ) from error


def environment() -> jinja2.Environment:
    """Return the template engine: values are escaped, a name that is missing is an error."""
    made = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=seen,
        loader=jinja2.FunctionLoader(asset),
    )  # fmt: skip
    made.filters["show"] = show
    made.filters["code"] = code
    return made


def code(text: str) -> Markup:
    """Return a text in which what stands in backticks is code; a long name of it may break behind a dot or the like."""

    def one(found: re.Match[str]) -> str:
        return "<code>" + re.sub(r"(?<=[._(=])(?=\w)", "<wbr>", found[1]) + "</code>"

    return Markup(re.sub(r"`([^`]+)`", one, str(escape(visible(text)))))  # noqa: S704 - it is escaped


def seen(value: Any) -> Any:
    """Make visible what a text would hide; of the page's own parts (`safe`) nothing."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def json_in_html(value: Any) -> str:
    """Return JSON that cannot end the script element that it lies in."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


# -- order


def ordered(records: Sequence[Record], known: Mapping[str, Entry]) -> list[Record]:
    """Sort by report, then as the cases and conditions come in the run."""
    first = {name: number for number, name in enumerate(dict.fromkeys(record.case for record in records))}
    conditions = {name: number for number, name in enumerate(dict.fromkeys((r.case, r.condition) for r in records))}
    reports = {name: number for number, name in enumerate(dict.fromkeys(report_of(r, known) for r in records))}
    columns = {column.label: number for number, column in enumerate(columns_of(records))}
    return sorted(
        records,
        key=lambda r: (
            reports[report_of(r, known)], first[r.case], conditions[r.case, r.condition], columns[r.cell]
        ),
    )  # fmt: skip


def report_of(record: Record, known: Mapping[str, Entry]) -> str:
    """Return the report that a trial speaks to; a case that is no longer there stands for itself."""
    found = known.get(record.case)
    return found.case.report if found else record.case


def grouped(records: Iterable[Record], key: Any) -> list[tuple[str, list[Record]]]:
    """Group what is sorted."""
    return [(name, list(rows)) for name, rows in groupby(records, key)]


def columns_of(records: Sequence[Record]) -> list[Column]:
    """Return the cells from the newest versions to the oldest: on a phone the first are in sight.

    A cell that could not be built has none; it comes last and goes by its name.
    """
    found: dict[str, Column] = {}
    for record in records:
        packages = record.versions
        if record.cell not in found or (packages and not found[record.cell].versions):
            versions = {name: packages[name] for name in AXES if packages.get(name)}
            found[record.cell] = Column(record.cell, record.device, versions)

    def newest(column: Column) -> tuple[Any, ...]:
        return bool(column.versions), *(rank(column.versions.get(name, "")) for name in AXES), column.label

    return sorted(sorted(found.values(), key=newest, reverse=True), key=lambda column: column.device)


# -- sections


def section(
    name: str,
    records: Sequence[Record],
    known: Mapping[str, Entry],
    numbers: Mapping[changes.Key, int],
    changed: Mapping[changes.Key, changes.Change],
    everything: Sequence[Record],
) -> dict[str, Any]:
    """Return all that the page says of one report; a number of it may be measured among ``everything`` else."""
    columns = columns_of(records)
    cases, claims, fixes = [], [], []
    beside: list[reported.Span] = []
    for case_name, rows in grouped(records, lambda record: record.case):
        entry = known.get(case_name)
        case = entry.case if entry else None
        for claim in case.claims if case else ():
            assert case is not None
            claims.append(claim_row(case, claim, rows, numbers))
            beside += reported.spans(reported.rows(claim, everything, case_name))
        if case and case.proposes:
            fixes.append(fix_row(case_name, case.proposes, rows))
        notes = {c.name: c.note for c in case.conditions} if case else {}
        conditions = [
            {
                "name": condition,
                "note": notes.get(condition, ""),
                "cells": [
                    cell(found.get(column.label), numbers, changed)
                    for found in [{record.cell: record for record in several}]
                    for column in columns
                ],
            }
            for condition, several in grouped(rows, lambda record: record.condition)
        ]
        cases.append({"name": case_name, "title": case.title if case else "", "conditions": conditions})
    entry = known.get(Counter(record.case for record in records).most_common(1)[0][0])  # it names the report
    return {
        "name": name,
        "anchor": answers.anchor(name),
        "title": title([entry]) if entry else "a case that this version of the suite does not have",
        "url": entry.case.url if entry else "",
        "kind": f"{entry.case.kind}, {entry.case.status}" if entry else "",
        "standings": Counter(claim["standing"].partition(" in ")[0] for claim in claims).most_common(),
        "claims": claims,
        "beside": beside,
        "beside_notes": reported.notes(beside),
        "fixes": fixes,
        "columns": [column.label for column in columns],
        "heads": heads(columns),
        "cases": cases,
        "trials": len(records),
        "reproduced": sum(record.verdict is Verdict.REPRODUCED for record in records),
    }


def heads(columns: Sequence[Column]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Return the rows of a heat map's head: a package and its versions, each with the columns that it spans."""
    rows = []
    names = (["device"] if len({column.device for column in columns}) > 1 else []) + list(AXES)
    for name in names:
        values = [column.device if name == "device" else column.versions.get(name, "?") for column in columns]
        rows.append((name, [(value, len(list(several))) for value, several in groupby(values)]))
    return rows


def cell(
    record: Record | None,
    numbers: Mapping[changes.Key, int],
    changed: Mapping[changes.Key, changes.Change],
) -> dict[str, Any] | None:
    """Return one field of the heat map; None where nothing was tried."""
    if record is None:
        return None
    times = ratio_of(record)
    return {
        "number": numbers[record.key],
        "verdict": record.verdict.value,
        "sign": SIGNS[record.verdict],
        "times": times,
        "failed": record.failed,
        "outcome": record.outcome.value,
        "changed": record.key in changed,
        "spoken": spoken(times),
    }


def spoken(times: str) -> str:
    """Return a ratio as it is read aloud."""
    words = {"∞": "beyond any budget", ">1×": "just over the budget", "<1×": "just inside the budget"}
    return words.get(times, times.replace("×", " times the budget"))


def ratio_of(record: Record) -> str:
    """Return the subject's figure over the budget in a few characters; ``raised`` for an exception."""
    subject = record.arm("subject")
    value = record.figure("subject")
    if subject is None or record.verdict not in (Verdict.REPRODUCED, Verdict.ABSENT, Verdict.INCONCLUSIVE):
        return ""
    if subject.state != "done":
        return subject.state
    times = over(value, float(record.budget["limit"]))
    return "" if times is None else short(times)


def over(value: float | None, limit: float) -> float | None:
    """Return a figure over its limit; None where there is none."""
    if value is None:
        return None
    if not limit:
        return 0.0 if not value else math.inf
    return value / limit


def short(times: float) -> str:
    """Print a ratio in at most five characters and a sign."""
    if not math.isfinite(times):
        return "∞"
    if times >= 1000:
        return f"{times:.0e}×".replace("e+0", "e").replace("e+", "e")
    text = f"{times:.0f}×" if times >= 10 else (f"{times:.1f}×" if times >= 1 else f"{times:.2f}×")
    return text if times == 1 or text not in ("1.0×", "1.00×") else (">1×" if times > 1 else "<1×")


def claim_row(
    case: Case, claim: Claim, records: Sequence[Record], numbers: Mapping[changes.Key, int]
) -> dict[str, Any]:
    """Return a claim as reported, and beside it what was measured."""
    found = standing.of_claim(case, claim, records)
    speaking = case.speaking_to(claim)
    spoken_of = [r for r in records if r.condition in speaking and r.verdict in SETTLED]
    bad = [r for r in spoken_of if r.verdict is Verdict.REPRODUCED]
    return {
        "text": claim.text,
        "reported": list(claim.reported.items()),
        "standing": found.word,
        "because": found.because,
        "counts": f"reproduced in {len(bad)} of {len(spoken_of)} trials" if spoken_of else "no trial speaks to it",
        "worst": worst(spoken_of, numbers),
    }


def worst(records: Sequence[Record], numbers: Mapping[changes.Key, int]) -> dict[str, Any] | None:
    """Return the trial whose subject comes nearest to its budget, or breaks it the most."""
    best: tuple[float, Record] | None = None
    raised: list[Record] = []
    for record in records:
        subject = record.arm("subject")
        if subject is None or subject.state != "done":  # what it had come to by then is no measure of it
            raised += [record] if subject and subject.state == "raised" else []
            continue
        times = over(record.figure("subject"), float(record.budget["limit"]))
        if times is not None and not math.isnan(times) and (best is None or times > best[0]):
            best = (times, record)
    shown = next((r for r in raised if r.verdict is Verdict.REPRODUCED), raised[0] if raised else None)
    if shown and (best is None or (best[0] <= 1 and shown.verdict is Verdict.REPRODUCED)):
        return {"number": numbers[shown.key], "text": textwrap.shorten(shown.reason, 160), "where": where(shown)}
    if best is None:
        return None
    record, unit = best[1], str(best[1].budget["unit"])
    printed, allowed = show_pair(record.figure("subject"), float(record.budget["limit"]), unit)
    figure = f"{record.budget['figure']} {printed}"
    reach = "at most" if best[0] <= 1 else "up to"
    ratio = multiple(best[0]) if short(best[0])[0] in "<>" else short(best[0])
    said = f"{reach} {ratio} the budget: {figure} against {allowed}"
    return {"number": numbers[record.key], "text": said, "where": where(record)}


def where(record: Record) -> str:
    """Return a trial's condition and cell."""
    return f"{record.condition}, {record.cell}"


def fix_row(name: str, proposes: str, records: Sequence[Record]) -> dict[str, Any]:
    """Return what a proposed fix does, counted over the trials in which it was tried."""
    tried = [record for record in records if record.proposed]
    counts = Counter(record.proposed["effect"] for record in tried if record.proposed)
    where_ = {
        kind: ", ".join(dict.fromkeys(r.condition for r in tried if r.proposed and r.proposed["effect"] == kind))
        for kind in counts
    }
    broken = [r for r in tried if r.verdict is Verdict.REPRODUCED]
    cured = sum(r.proposed["effect"] == "cures" for r in broken if r.proposed)
    return {
        "case": name, "proposes": proposes, "tried": len(tried), "broken": len(broken), "cured": cured,
        "effects": [(kind, count, where_[kind]) for kind, count in counts.most_common()],
    }  # fmt: skip


def change_row(change: changes.Change, numbers: Mapping[changes.Key, int]) -> dict[str, Any]:
    """Return one line of what changed."""
    case, condition, cell_ = change.key
    return {
        "case": case, "condition": condition, "cell": cell_, "number": numbers.get(change.key),
        "what": change.what, "settles": change.settles,
    }  # fmt: skip


def unsupported(records: Sequence[Record]) -> list[tuple[str, int, str]]:
    """Return each reason why trials are unsupported, their count, and where."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if record.verdict is Verdict.UNSUPPORTED:
            found.setdefault(record.reason, []).append(record)
    return [
        (reason, len(several), ", ".join(dict.fromkeys(record.cell for record in several)))
        for reason, several in found.items()
    ]


def summary(
    records: Sequence[Record],
    known: Mapping[str, Entry],
    changed: Mapping[changes.Key, changes.Change],
    against: tuple[str, Sequence[Record]] | None,
) -> dict[str, Any]:
    """Return what the script knows without opening a block: the names of each trial, and the cases."""
    cases = list(dict.fromkeys(record.case for record in records))
    conditions = list(dict.fromkeys(record.condition for record in records))
    cells = list(dict.fromkeys(record.cell for record in records))
    place = [{name: number for number, name in enumerate(names)} for names in (cases, conditions, cells)]
    verdicts, effects = [v.value for v in Verdict], sorted({r.proposed["effect"] for r in records if r.proposed})
    return {
        "cases": [case_facts(name, known.get(name), records) for name in cases],
        "conditions": conditions,
        "cells": cells,
        "verdicts": verdicts,
        "effects": effects,
        "trials": [
            [
                place[0][r.case], place[1][r.condition], place[2][r.cell], verdicts.index(r.verdict.value),
                effects.index(r.proposed["effect"]) if r.proposed else -1, int(r.failed), int(r.key in changed),
            ]
            for r in records
        ],
        "outcomes": [r.outcome.value for r in records] if any(r.failed for r in records) else [],
        "changes": {str(number): change.what for number, change in _numbered(records, changed)},
        "against": against[0] if against else "",
    }  # fmt: skip


def _numbered(
    records: Sequence[Record], changed: Mapping[changes.Key, changes.Change]
) -> list[tuple[int, changes.Change]]:
    return [(number, changed[record.key]) for number, record in enumerate(records) if record.key in changed]


def case_facts(name: str, entry: Entry | None, records: Sequence[Record]) -> dict[str, Any]:
    """Return what a trial's panel says of its case."""
    if entry is None:
        return {"name": name, "report": name, "title": "", "url": "", "claims": [], "proposes": "", "notes": {}}
    case = entry.case
    mine = [record for record in records if record.case == name]
    tried = list(dict.fromkeys(record.condition for record in mine))
    return {
        "name": name,
        "report": case.report,
        "title": case.title,
        "url": case.url,
        "doc": entry.doc,
        "claims": [
            {
                "text": claim.text,
                "reported": list(claim.reported.items()),
                "standing": standing.of_claim(case, claim, mine).word,
                "conditions": [condition for condition in tried if condition in case.speaking_to(claim)],
            }
            for claim in case.claims
        ],
        "proposes": case.proposes or "",
        "notes": {c.name: c.note for c in case.conditions if c.note},
    }
