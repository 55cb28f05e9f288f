"""Verdicts on a GPU beside those of their proxies on a CPU: what a green run without a GPU means. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from repros.cases import Entry
from repros.report.escape import bold, code, head, markdown, row
from repros.report.machine import machines, torch
from repros.run.results import Record, shown
from repros.run.trial import declared
from repros.verdict import SETTLED

#: Cells are the same experiment on two devices where these are of one version; torch may differ, and the page says so.
PAIRED_BY = ("transformers", "bitsandbytes")


def pairs(gpu: Sequence[Record], cpu: Sequence[Record], known: Mapping[str, Entry]) -> list[tuple[Record, Record]]:
    """Return each settled trial on a GPU with the settled trial of its proxy in the same releases."""
    by_key = {(r.case, r.condition, *_releases(r)): r for r in cpu if r.verdict in SETTLED and all(_releases(r))}
    found = []
    for record in gpu:
        condition = declared(record, known)
        if record.verdict not in SETTLED or not condition or not condition.proxy:
            continue
        twin = by_key.get((record.case, condition.proxy, *_releases(record)))
        if twin is not None:
            found.append((record, twin))
    return found


def page(gpu: Sequence[Record], cpu: Sequence[Record], known: Mapping[str, Entry], sources: Sequence[Path]) -> str:
    """Return the page as Markdown."""
    found = pairs(gpu, cpu, known)
    how = Counter((a.verdict, b.verdict) for a, b in found)
    agree = sum(how[verdict, verdict] for verdict in SETTLED)
    conditions = [c for r in gpu if r.verdict in SETTLED and (c := declared(r, known))]
    settled, lone = len(conditions), sum(not condition.proxy for condition in conditions)
    releases = [markdown(torch(mine)) for mine in ([a for a, _ in found], [b for _, b in found])]
    rows = [
        "# What the CPU proxies are worth",
        "",
        f"{agree} of {len(found)} verdicts on a GPU (torch {releases[0]}) are those of their proxies "
        f"on a CPU (torch {releases[1]}) in the same releases of {' and '.join(PAIRED_BY)}. "
        f"Made from {', '.join(code(shown(s)) for s in sources)} by `python -m repros proxies`.",
        "",
        *(f"- {markdown(line)}" for line in machines([record for pair in found for record in pair])),
        "",
        "| | " + " | ".join(f"{verdict.value} on a CPU" for verdict in SETTLED) + " |",
        "|---|---|---|",
        *(f"| {a.value} on a GPU | " + " | ".join(str(how[a, b]) for b in SETTLED) + " |" for a in SETTLED),
        "",
        f"The {len(found)} are held against {len({b.key for _, b in found})} trials on a CPU: one may stand for "
        f"several. {settled - len(found)} of the {settled} verdicts on a GPU are not compared: {lone} have no proxy (a "
        f"card's size has none), {settled - len(found) - lone} have one that was not settled in the same releases.",
        "",
    ]
    for name in dict.fromkeys(a.case for a, _ in found):
        mine = [(a, b) for a, b in found if a.case == name]
        same = sum(a.verdict is b.verdict for a, b in mine)
        rows += [
            f"## {markdown(name)}: {same} of {len(mine)}",
            "",
            *head("on a GPU", "proxy", "cell", "GPU", "CPU", ""),
        ]
        for a, b in mine:
            sign = "agree" if a.verdict is b.verdict else bold("differ")
            rows.append(row(a.condition, b.condition, a.cell, a.verdict.value, b.verdict.value, sign))
        rows.append("")
    return "\n".join(rows) + "\n"


def _releases(record: Record) -> tuple[str, ...]:
    return tuple(record.versions.get(name, "") for name in PAIRED_BY)
