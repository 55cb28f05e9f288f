"""The README's figures: made from committed evidence, so that no number in it was typed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repros.case import Case
from repros.cases import Entry
from repros.errors import UserError
from repros.report import standing
from repros.results import RESULTS, Record, lines, load, load_all, shown

BENCHMARKS = "benchmarks.json"


def trimmed(benchmarks: Mapping[str, Any]) -> dict[str, Any]:
    """Return of pytest-benchmark's file what may be committed: figures, date, packages; not whose machine it was."""
    machine = benchmarks["machine_info"]
    return {
        "date": benchmarks["datetime"][:10],
        "cpu": machine.get("cpu", {}).get("brand_raw", ""),
        "cores": machine.get("cpu", {}).get("count", 0),
        "python": machine["python_version"],
        "figures": {found["name"]: found["extra_info"] for found in benchmarks["benchmarks"]},
    }


def blocks(evidence: Sequence[Path], known: Mapping[str, Entry], card: Path) -> dict[str, str]:
    """Return the README's blocks by name.

    ``evidence`` is that of the tier that needs no GPU, whose cost is told, and what else is known without one; ``card``
    is that of a run on a card.
    """
    records, _ = load_all(evidence)
    kept = evidence[0] / BENCHMARKS
    try:
        bench = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{shown(kept)}: {error}", "run `nox -s bench`, then give `--benchmarks`") from error
    return {"standings": standings(records, known), "costs": costs(bench, spent(evidence[0])), "card": spent(card)}


def standings(records: Sequence[Record], known: Mapping[str, Entry]) -> str:
    """Return one row a claim."""
    rows = ["| report | claim | standing |", "|---|---|---|"]
    for name in dict.fromkeys(record.case for record in records):
        case = known[name].case
        mine = [record for record in records if record.case == name]
        for claim in case.claims:
            word = standing.of_claim(claim, mine).word
            rows.append(row(case, claim.text, f"**{word}**"))
        if case.proposes:
            tried = standing.of_fix(mine, conditions=False)
            rows.append(row(case, f"proposed fix: {case.proposes}", tried))
    return "\n".join(rows)


def row(case: Case, claim: str, says: str) -> str:
    """Return one row of the table; a bar inside a cell would end it."""
    claim, says = (text.replace("|", "\\|") for text in (claim, says))
    return f"| [{case.package}#{case.number}]({case.url}) | {claim} | {says} |"


def costs(bench: Mapping[str, Any], run: str) -> str:
    """Return the measured costs."""
    rows = ["| measured | median |", "|---|---|"]
    for figures in bench["figures"].values():
        for name, value in figures.items():
            unit = " s" if name.endswith("(s)") else "×"
            text = f"{value:.3g}{unit}" if isinstance(value, float) else str(value)
            rows.append(f"| {name.removesuffix(' (s)')} | {text} |")
    machine = f"{bench['cpu']}, {bench['cores']} cores, Python {bench['python']}, {bench['date']}"
    return "\n".join([*rows, "", f"({machine}.)", "", run])


def spent(evidence: Path) -> str:
    """Return where the time of a committed run went, all its cells together."""
    records, _ = load(evidence)
    times = [line["seconds"] for line in lines(evidence / RESULTS)[0] if line["kind"] == "time"]
    total = {kind: sum(time[kind] for time in times) for kind in times[0]} if times else {}
    split = ", ".join(
        f"{kind} {value:.0f} s ({value / total['total']:.0%})" for kind, value in total.items() if kind != "total"
    )
    machine = ", ".join(records[0].machine.get("gpus") or ["no GPU"])
    done = f"{len(records)} trials, {sum(len(record.arms) for record in records)} arms in {total.get('total', 0):.0f} s"
    return f"The committed run ({machine}): {done}: {split}."


def refreshed(text: str, made: Mapping[str, str]) -> str:
    """Return the README with its blocks replaced."""
    for name in made:
        pattern = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- /({name}) -->)", re.DOTALL)
        if not pattern.search(text):
            raise UserError(f"README.md: no block `{name}`", f"put `<!-- {name}: … -->` and `<!-- /{name} -->` back")
        text = pattern.sub(lambda match: f"{match[1]}{made[match[3]]}\n{match[2]}", text)
    return text
