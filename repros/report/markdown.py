"""The page of a run as Markdown: standings first, then every verdict, then every figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from repros.case import ARMS
from repros.cases import Entry
from repros.report import standing
from repros.report.terminal import margins
from repros.results import Record, shown
from repros.verdict import Verdict, show


def page(records: Sequence[Record], known: Mapping[str, Entry], source: Path) -> str:
    """Return the page; every figure on it is read from the records."""
    return (
        "\n".join([*_head(records, source), *_standings(records, known), *_matrix(records), *_figures(records)]) + "\n"
    )


def _head(records: Sequence[Record], source: Path) -> list[str]:
    machine = records[0].machine
    dates = sorted(record.date for record in records)
    counts = {v: sum(record.verdict is v for record in records) for v in Verdict}
    listed = ", ".join(f"{count} {v.value}" for v, count in counts.items() if count)
    memory = show(float(machine.get("memory_bytes", 0)), "bytes")
    return [
        "# Verdicts",
        "",
        f"{len(records)} trials: {listed}. Made from `{shown(source)}` by `python -m repros report`.",
        "",
        f"Machine: {machine.get('cpu_model')}, {machine.get('cores')} cores, {memory}, {machine.get('system')}, "
        f"{machine.get('libc')}, Python {machine.get('python')}, "
        f"{', '.join(machine.get('gpus') or []) or 'no GPU'}. From {dates[0]} to {dates[-1]}.",
        "",
    ]


def _standings(records: Sequence[Record], known: Mapping[str, Entry]) -> list[str]:
    rows = ["## Standings", ""]
    for name in dict.fromkeys(record.case for record in records):
        if name not in known:
            continue
        mine = [record for record in records if record.case == name]
        case = known[name].case
        rows += [f"### {case.package}#{case.number}: {case.title} (`{name}`)", ""]
        for claim in case.claims:
            found = standing.of_claim(claim, mine)
            reported = "; ".join(f"{key}: {value}" for key, value in claim.reported.items())
            rows.append(f"- **{found.word}**: {claim.text}" + (f" (reported: {reported})" if reported else ""))
            rows.append(f"  {found.because}.")
        fix = standing.of_fix(mine)
        if case.proposes:
            rows.append(f"- Proposed fix ({case.proposes}): {fix or 'untested here'}.")
        rows.append("")
    return rows


def _matrix(records: Sequence[Record]) -> list[str]:
    cells = list(dict.fromkeys(record.cell for record in records))
    by_key = {record.key: record for record in records}
    rows = ["## Verdicts", "", "| case | condition | " + " | ".join(cells) + " |", "|---|---|" + "---|" * len(cells)]
    for case, condition in dict.fromkeys((record.case, record.condition) for record in records):
        words = []
        for cell in cells:
            record = by_key.get((case, condition, cell))
            word = record.verdict.value if record else ""
            words.append(f"**{word}**" if record and record.verdict is Verdict.REPRODUCED else word)
        rows.append(f"| {case} | {condition} | " + " | ".join(words) + " |")
    rows.append("")
    unsupported = dict.fromkeys(
        f"`{r.cell}`, {r.case}: {r.reason}" for r in records if r.verdict is Verdict.UNSUPPORTED
    )
    return [
        *rows,
        *(["Unsupported, with the reason:", "", *(f"- {why}" for why in unsupported), ""] if unsupported else []),
    ]


def _figures(records: Sequence[Record]) -> list[str]:
    rows = [
        "## Figures",
        "",
        "Each arm's figure against the budget; the last column is what the proposed fix does.",
        "",
    ]
    for name in dict.fromkeys(record.case for record in records):
        rows += [
            f"### {name}", "",
            "| condition | cell | verdict | figure | budget | " + " | ".join(ARMS) + " | margins | fix |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for record in records:
            if record.case == name and record.arms:
                unit = record.budget["unit"]
                arms = [_arm(record, arm, unit) for arm in ARMS]
                limit = show(float(record.budget["limit"]), unit)
                fix = record.proposed["effect"] if record.proposed else ""
                row = [record.condition, record.cell, record.verdict.value, record.budget["figure"], limit]
                rows.append("| " + " | ".join([*row, *arms, margins(record), fix]) + " |")
        rows.append("")
    return rows


def _arm(record: Record, arm: str, unit: str) -> str:
    found = record.arm(arm)
    if found is None:
        return ""
    value = record.figure(arm)
    if found.state == "raised" and found.exception:
        return f"raised {found.exception['types'][0]}"
    return show(value, unit) if value is not None else found.state
