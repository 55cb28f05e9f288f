"""The README's figures: made from committed evidence, so that no number in it was typed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from repros.case import Case
from repros.cases import Entry
from repros.errors import UserError
from repros.report import escape, standing
from repros.report.escape import Safe, bold
from repros.report.machine import when
from repros.run.results import RESULTS, Record, lines, load, load_all
from repros.run.schema import Benchmarks, document
from repros.verdict import SETTLED


class Run(TypedDict):
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
    benchmarks: list[Run]


BENCHMARKS = "benchmarks.json"


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


def blocks(evidence: Sequence[Path], known: Mapping[str, Entry], card: Sequence[Path]) -> dict[str, str]:
    """Return the README's blocks by name.

    ``evidence`` is that of the tier that needs no GPU, whose cost is told, and what else is known without one; ``card``
    is that of runs on cards, of which the first one's cost is told.
    """
    records, on_cards = load_all(evidence)[0], load_all(card)[0]
    kept = evidence[0] / BENCHMARKS
    bench = document(kept, Benchmarks, "run `nox -s bench`, then give `--benchmarks`")
    told = {"costs": costs(bench, spent(evidence[0])), "card": spent(card[0])}
    return {"standings": standings(records, on_cards, known), **told}


def standings(without: Sequence[Record], on_cards: Sequence[Record], known: Mapping[str, Entry]) -> str:
    """Return one row a claim: what is known of it without a GPU, and what on a card, where it was tried there."""
    rows = ["| report | claim | without a GPU | on a card |", "|---|---|---|---|"]
    names = dict.fromkeys(record.case for record in (*without, *on_cards) if record.case in known)
    for _, of_report in groupby(sorted((known[name] for name in names), key=_report), key=_report):
        entries = list(of_report)
        for text, told in standing.claims_of(entries).items():
            devices = {c.device for e, claim in told for c in e.case.conditions if claim in c.claims} or {"cpu"}
            words = (
                bold(standing.of(standing.spoken(told, records)).word) if device in devices else "-"
                for device, records in (("cpu", without), ("cuda", on_cards))
            )
            rows.append(row(entries[0].case, Safe(text), *words))
        fixes: dict[str, list[Entry]] = {}
        for entry in entries:
            if entry.case.proposes:
                fixes.setdefault(entry.case.proposes, []).append(entry)
        for proposes, several in fixes.items():
            does = (standing.of_fix(_of(several, found), conditions=False) or "-" for found in (without, on_cards))
            rows.append(row(several[0].case, Safe(f"proposed fix: {proposes}"), *does))
    return "\n".join(rows)


def _report(entry: Entry) -> tuple[str, int]:
    return entry.case.package, entry.case.number


def _of(entries: Sequence[Entry], records: Sequence[Record]) -> list[Record]:
    names = {entry.name for entry in entries}
    return [record for record in records if record.case in names]


def row(case: Case, *cells: str) -> str:
    """Return one row of the table; a bar inside a cell would end it."""
    return escape.row(Safe(f"[{case.package}#{case.number}]({case.url})"), *cells)


def costs(bench: Mapping[str, Any], run: str) -> str:
    """Return the measured costs."""
    rows = ["| measured | median |", "|---|---|"]
    for figures in bench["figures"].values():
        for name, value in figures.items():
            unit = " s" if name.endswith("(s)") else "×"
            text = f"{value:.3g}{unit}" if isinstance(value, float) else str(value)
            rows.append(escape.row(name.removesuffix(" (s)"), text))
    machine = f"{bench['cpu']}, {bench['cores']} cores, Python {bench['python']}, {bench['date']}"
    return "\n".join([*rows, "", f"({escape.markdown(machine)}.)", "", run])


def spent(evidence: Path) -> str:
    """Return where the time of committed runs went, all their cells together, what was tried again counted in."""
    records, _ = load(evidence)
    times = [line["seconds"] for line in lines(evidence / RESULTS)[0] if line["kind"] == "time"]
    kinds = dict.fromkeys(kind for time in times for kind in time)
    total = {kind: sum(time.get(kind, 0.0) for time in times) for kind in kinds}
    split = ", ".join(
        f"{kind} {value:.0f} s ({value / (total['total'] or 1.0):.0%})"
        for kind, value in total.items()
        if kind != "total"
    )
    machine = ", ".join(records[0].machine.get("gpus") or ["no GPU"])
    arms = sum(len(record.arms) for record in records)
    settled = sum(record.verdict in SETTLED for record in records)
    done = f"{settled} of {len(records)} trials came to a verdict, {arms} arms in {total.get('total', 0):.0f} s"
    return f"The committed evidence ({escape.markdown(machine)}, {when(records)}): {done}: {split}."


def refreshed(text: str, made: Mapping[str, str]) -> str:
    """Return the README with its blocks replaced."""
    for name in made:
        pattern = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- /({name}) -->)", re.DOTALL)
        if not pattern.search(text):
            raise UserError(f"README.md: no block `{name}`", f"put `<!-- {name}: … -->` and `<!-- /{name} -->` back")
        text = pattern.sub(lambda match: f"{match[1]}{made[match[3]]}\n{match[2]}", text)
    return text
