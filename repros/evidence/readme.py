"""The figures of the two pages that lead to all else, made from committed evidence, so that no number was typed."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from repros.case import Case
from repros.cases import Entry
from repros.errors import UserError
from repros.report import escape, rows, standing, terminal
from repros.report.escape import Safe, bold
from repros.report.machine import moment, when
from repros.run.controls import tried_as, tried_elsewhere
from repros.run.results import REPORTS, RESULTS, Record, lines, load, load_all, shown
from repros.run.schema import Benchmarks, document
from repros.verdict import SETTLED


class BenchmarkRun(TypedDict):
    """One benchmark, as pytest-benchmark writes it."""

    name: str
    extra_info: dict[str, int | float | str]


class Interpreter(TypedDict):
    """Where it ran."""

    python_version: str
    cpu: NotRequired[dict[str, Any]]


class Measured(TypedDict):
    """A file of pytest-benchmark."""

    datetime: str
    machine_info: Interpreter
    benchmarks: list[BenchmarkRun]


BENCHMARKS = "benchmarks.json"
#: The trial that the README explains line by line: case, condition, cell.
EXAMPLE = ("gh1935_compiled", "nf4-compile-mincut", "tf5.2.0-bnb0.49.2")
#: A page, from the project's root -> the blocks in it.
PAGES: Mapping[str, tuple[str, ...]] = {
    "README.md": ("reports", "trial"),
    "reports/README.md": ("standings", "card", "oracle", "costs"),
}


def trimmed(path: Path) -> dict[str, Any]:
    """Return of pytest-benchmark's file what may be committed: figures, date, packages; not whose machine it was."""
    benchmarks = document(path, Measured, "give the file that `nox -s bench` wrote")
    machine = benchmarks["machine_info"]
    return {
        "date": benchmarks["datetime"][:10],
        "cpu": machine.get("cpu", {}).get("brand_raw", ""),
        "cores": machine.get("cpu", {}).get("count", 0),
        "python": machine["python_version"],
        "figures": {found["name"]: found["extra_info"] for found in benchmarks["benchmarks"]},
    }


@dataclass(frozen=True)
class Evidence:
    """The folders of committed evidence, each list led by the one whose cost is told."""

    without: Sequence[Path]
    """Of tiers that need no GPU."""
    cards: Sequence[Path]
    """Of runs on cards."""

    def smallest_first(self) -> list[Path]:
        """Return all of them, so that of a trial in several the run with the most trials counts."""
        return [*reversed(self.without), *reversed(self.cards)]


def committed(reports: Path = REPORTS) -> Evidence:
    """Return what is committed below ``reports/``; the cost that is told is that of the folder with the most trials."""
    found = {path.parent: load(path.parent)[0] for path in sorted(reports.glob(f"*/{RESULTS}"))}
    most = sorted((folder for folder in found if found[folder]), key=lambda folder: -len(found[folder]))
    sides = [
        [folder for folder in most if bool(found[folder][0].machine.get("gpus")) is card] for card in (False, True)
    ]
    for side, how in zip(sides, ("cpu", "gpu"), strict=True):
        if not side:
            what = f"{shown(reports)}: no evidence of `nox -s {how}` is committed"
            raise UserError(what, f"run it, then `python -m repros report --commit-to reports/{how}`")
    return Evidence(*sides)


def blocks(evidence: Evidence, known: Mapping[str, Entry], reports: Iterable[rows.Row]) -> dict[str, str]:
    """Return the blocks of both pages by name, but for that of the oracle; ``reports`` are over all evidence."""
    without, on_cards = load_all(evidence.without)[0], load_all(evidence.cards)[0]
    bench = document(evidence.without[0] / BENCHMARKS, Benchmarks, "run `nox -s bench`, then give `--benchmarks`")
    return {
        "reports": reports_table(reports),
        "trial": printed(without),
        "standings": standings(without, on_cards, known),
        "card": spent(evidence.cards[0]),
        "costs": costs(bench, spent(evidence.without[0])),
    }


# --- the README's table: a row a report ----------------------------------------------------------


def reports_table(reports: Iterable[rows.Row]) -> str:
    """Return one row a report: who is hit, which releases are bad, from which on it is good, what to do."""
    return escape.table(
        ["report", "who is hit", "bad", "good from", "what to do"],
        [report_row(found) for found in reports],
    )


def report_row(found: rows.Row) -> list[str]:
    """Return the row of one report, of what it claims itself; a line in each cell for each of its cases that is so."""
    told = Safe(f"[{found.report}]({found.url}): {escape.markdown(found.title)}")
    if found.refuted:
        few = "" if found.refuted == found.claims else f"{found.refuted} of {found.claims} claims "
        told = Safe(f"{told} ({few}**refuted**)")
    each = zip(*((one.hit, one.bad, one.good, one.advice) for one in found.lines), strict=True)
    hit, bad, good, upgrade = map(_lines, each)
    today = f"[what to do today](reports/stories/{found.report.replace('#', '-')}.md#what-to-do-today)"
    return [told, hit, bad, good, Safe("<br>".join(filter(None, [upgrade, today])))]


def _lines(texts: Sequence[str]) -> Safe:
    """Return what stands in one cell: each text on a line of its own, numbered where there are several."""
    numbers = [f"({at}) " if len(texts) > 1 else "" for at in range(1, len(texts) + 1)]
    return Safe("<br>".join(f"{at}{escape.cell(text)}" for at, text in zip(numbers, texts, strict=True) if text))


def printed(records: Sequence[Record]) -> str:
    """Return what `run` prints of the trial that the README explains."""
    found = [record for record in records if record.key == EXAMPLE]
    if not found:
        what = f"no trial of {EXAMPLE[0]} [{EXAMPLE[1]}] in {EXAMPLE[2]} is committed"
        raise UserError(what, "name one that is in `repros.evidence.readme.EXAMPLE`, and explain it in README.md")
    out = io.StringIO()
    console = terminal.console(file=out)
    terminal.detail(found[0], console)
    terminal.summary(found[:1], console)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    return "\n".join(["```", *filter(None, lines), "```"])


# --- blocks of reports/README.md -----------------------------------------------------------------


def standings(without: Sequence[Record], on_cards: Sequence[Record], known: Mapping[str, Entry]) -> str:
    """Return one row a claim: what is known of it without a GPU, and what on a card, where it was tried there."""
    table = ["| report | claim | without a GPU | on a card |", "|---|---|---|---|"]
    for entries in standing.by_report(known, (*without, *on_cards)):
        for text, told in standing.claims_of(entries).items():
            each = (standing.spoken(told, records) for records in (without, on_cards))
            table.append(row(entries[0].case, Safe(text), *(bold(standing.of(of).word) if of else "-" for of in each)))
        for proposes in dict.fromkeys(entry.case.proposes for entry in entries if entry.case.proposes):
            fixed = [entry for entry in entries if entry.case.proposes == proposes]
            does = (standing.of_fix(_of(fixed, found), conditions=False) or "-" for found in (without, on_cards))
            table.append(row(entries[0].case, Safe(f"proposed fix: {proposes}"), *does))
    return "\n".join(table)


def _of(entries: Sequence[Entry], records: Sequence[Record]) -> list[Record]:
    names = {entry.name for entry in entries}
    return [record for record in records if record.case in names]


def row(case: Case, *cells: str) -> str:
    """Return one row of the table; a bar inside a cell would end it."""
    return escape.row(Safe(f"[{case.report}]({case.url})"), *cells)


def costs(bench: Mapping[str, Any], run: str) -> str:
    """Return the measured costs."""
    table = ["| measured | median |", "|---|---|"]
    for figures in bench["figures"].values():
        for name, value in figures.items():
            unit = " s" if name.endswith("(s)") else "×"
            text = f"{value:.3g}{unit}" if isinstance(value, float) else str(value)
            table.append(escape.row(name.removesuffix(" (s)"), text))
    machine = f"{bench['cpu']}, {bench['cores']} cores, Python {bench['python']}, {bench['date']}"
    return "\n".join([*table, "", f"({escape.markdown(machine)}.)", "", run])


def spent(evidence: Path) -> str:
    """Return what was committed, and what the last run that went into it took: a run's notes stay in their order."""
    records, _ = load(evidence)
    times = [line["seconds"] for line in lines(evidence / RESULTS)[0] if line["kind"] == "time"]
    last = times[-1] if times else {"total": 0.0}
    split = ", ".join(
        f"{kind} {value:.0f} s ({value / (last['total'] or 1.0):.0%})"
        for kind, value in last.items()
        if kind != "total"
    )
    facts = records[0].machine
    machine = ", ".join(facts.get("gpus") or [f"{facts.get('cpu_model')}, {facts.get('cores')} cores, no GPU"])
    arms = sum(len(record.arms) - len(tried_elsewhere(record) | tried_as(record)) for record in records)
    settled = sum(record.verdict in SETTLED for record in records)
    done = f"{settled} of {len(records)} trials came to a verdict, by {arms:,} arms"
    took = f"{_within(records, last['total'])} of these, took {last['total']:,.0f} s: {split}"
    where = f"{escape.markdown(machine)}, {when(records)}"
    return f"The committed evidence ({where}): {done}. The last run that went into it, {took}."


def _within(records: Sequence[Record], seconds: float) -> int:
    """Return how many records were made in so many seconds before the newest of them was; a date has whole seconds."""
    made = []
    for record in records:
        with suppress(ValueError):
            made.append(moment(record.date))
    newest = max(made, default=0)
    return sum(newest - one <= seconds + 1 for one in made)


def refreshed(page: str, text: str, made: Mapping[str, str]) -> str:
    """Return a page with its blocks replaced."""
    for name in PAGES[page]:
        pattern = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- /{name} -->)", re.DOTALL)
        found = pattern.search(text)
        if not found:
            raise UserError(f"{page}: no block `{name}`", f"put `<!-- {name}: … -->` and `<!-- /{name} -->` back")
        text = f"{text[: found.start()]}{found[1]}{made[name]}\n{found[2]}{text[found.end() :]}"
    return text
