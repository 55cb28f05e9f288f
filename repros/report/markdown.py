"""The page of a run as Markdown: standings first, then every verdict, then every figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from repros.case import ARMS, Claim
from repros.cases import Entry
from repros.report import escape, reported, standing
from repros.report.escape import Safe, bold, code, head, row
from repros.report.machine import machines
from repros.report.page import changes
from repros.report.terminal import as_recorded, margins
from repros.run.results import Record
from repros.run.trial import two_lines
from repros.verdict import Verdict, apart, show

#: How many of the peak's owners a row names.
OWNERS = 3
#: Peaks below this are nobody's worry.
WORTH_BYTES = 100 << 20

Against = tuple[str, Sequence[Record]]
#: Lines of a job's summary that a long list may have.
MOST = 40


def page(
    records: Sequence[Record], known: Mapping[str, Entry], sources: Sequence[str], against: Against | None = None
) -> str:
    """Return the page; every figure on it is read from the records."""
    parts = [
        *_head(records, sources), *_changes(records, against), *_standings(records, known), *_matrix(records),
        *_owners(records), *_figures(records),
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def summary(
    records: Sequence[Record], known: Mapping[str, Entry], sources: Sequence[str], against: Against | None = None
) -> str:
    """Return what a CI job shows of itself: what is not as recorded first, then changes and standings."""
    failed = [record for record in records if record.failed]
    rows = [*_head(records, sources)]
    if failed:
        rows += [f"## {len(failed)} trials are not as recorded, or not settled", ""]
        for record in failed[:MOST]:
            first, _, hint = two_lines(record).partition("\n")
            rows += [f"- {escape.markdown(first)}", f"  {escape.markdown(hint)}"]
        rows += [f"- and {len(failed) - MOST} more" if len(failed) > MOST else "", ""]
    else:
        says = as_recorded(records)
        rows += [f"{says[0].upper()}{says[1:]}.", ""]
    return "\n".join([*rows, *_changes(records, against, MOST), *_standings(records, known, because=False)]) + "\n"


def _changes(records: Sequence[Record], against: Against | None, most: int | None = None) -> list[str]:
    if against is None:
        return []
    everything = changes.between(against[1], records).values()
    found = sorted((one for one in everything if not one.lone), key=lambda change: not change.settles)
    new, gone = (sum(change.lone == run for change in everything) for run in ("after", "before"))
    says = f"{len(found)} trials differ; {new} are in this run only, {gone} in the other only."
    rows = [f"## Changed against {code(against[0])}", "", says, ""]
    if found:
        rows += head("case", "condition", "cell", "what", "was", "is")
        for change in found[:most]:
            rows += [row(*change.key, *what) for what in change.what]
        rows.append("")
    return rows


def _head(records: Sequence[Record], sources: Sequence[str]) -> list[str]:
    dates = sorted(record.date for record in records)
    counts = {v: sum(record.verdict is v for record in records) for v in Verdict}
    listed = ", ".join(f"{count} {v.value}" for v, count in counts.items() if count)
    made = ", ".join(map(code, sources))
    where = "; ".join(map(escape.markdown, machines(records, days=False)))
    return [
        "# Verdicts",
        "",
        f"{len(records)} trials: {listed}. Made from {made} by `python -m repros report`.",
        "",
        f"Machine: {where}. From {escape.markdown(dates[0])} to {escape.markdown(dates[-1])}.",
        "",
    ]


def _standings(records: Sequence[Record], known: Mapping[str, Entry], because: bool = True) -> list[str]:
    rows = ["## Standings", ""]
    for name, mine in standing.by_case(records).items():
        if name not in known:
            continue
        case = known[name].case
        rows += [f"### {case.report}: {case.title} ({code(name)})", ""]
        for claim in case.claims:
            found = standing.of_claim(case, claim, mine)
            reported = "; ".join(f"{key}: {value}" for key, value in claim.reported.items())
            rows.append(f"- {bold(found.word)}: {claim.text}" + (f" (reported: {reported})" if reported else ""))
            rows += [f"  {escape.markdown(found.because)}.", *_measured(claim, records, name)] if because else []
        fix = standing.of_fix(mine, conditions=because)
        if case.proposes:
            rows.append(f"- Proposed fix ({case.proposes}): {escape.markdown(fix or 'untested here')}.")
        for one in standing.of_remedies(case, mine):
            rows.append(f"- Remedy, {escape.markdown(one.said)}: {bold(one.word)}; {escape.markdown(one.because)}.")
        rows.append("")
    return rows


def _measured(claim: Claim, records: Sequence[Record], case: str) -> list[str]:
    """Return the numbers of a claim as reported beside those measured; nothing where none was measured."""
    found = reported.spans(reported.rows(claim, records, case))
    if not found:
        return []
    table = head("number", "reported", "measured", "measured/reported", "condition", "arm", "cells")
    for span in found:
        declared = map(Safe, (span.name, span.reported, span.measured))
        table.append(row(*declared, span.ratio, span.condition, span.arm, span.where))
    return [
        "",
        *(f"  {line}" for line in table),
        "",
        *(line for note in reported.notes(found) for line in (f"  {note}", "")),
    ]


def _matrix(records: Sequence[Record]) -> list[str]:
    cells = list(dict.fromkeys(record.cell for record in records))
    by_key = {record.key: record for record in records}
    rows = ["## Verdicts", "", *head("case", "condition", *cells)]
    for case, condition in dict.fromkeys((record.case, record.condition) for record in records):
        words = []
        for cell in cells:
            record = by_key.get((case, condition, cell))
            word = record.verdict.value if record else ""
            words.append(bold(word) if record and record.verdict is Verdict.REPRODUCED else word)
        rows.append(row(case, condition, *words))
    rows.append("")
    unsupported = dict.fromkeys(
        f"{code(r.cell)}, {escape.markdown(r.case)}: {escape.markdown(r.reason)}"
        for r in records
        if r.verdict is Verdict.UNSUPPORTED
    )
    return [
        *rows,
        *(["Unsupported, with the reason:", "", *(f"- {why}" for why in unsupported), ""] if unsupported else []),
    ]


def _owners(records: Sequence[Record]) -> list[str]:
    """Return what the peak on a card was made of, by who asked for it, in the installed packages."""
    rows = []
    for record in records:
        arm = record.arm("subject")
        owners = arm.evidence.get("alive_at_peak", []) if arm and record.device == "cuda" else []
        taken = arm.figures.get("cuda_peak_allocated_bytes", 0) if arm else 0
        if taken >= WORTH_BYTES:
            peak = show(taken, "bytes")
            parts = [f"{show(o['bytes'], 'bytes')} in {o['count']} by {code(o['made_by'])}" for o in owners[:OWNERS]]
            rows.append(row(record.condition, record.cell, peak, reported.ended(arm), Safe("; ".join(parts))))
    if not rows:
        return []
    return [
        "## Peaks on the card", "",
        "What the allocator had given out at the peak as installed, how an arm ended that did not get to its end, and "
        "who had asked for the memory.", "",
        *head("condition", "cell", "peak allocated", "ended", "the largest parts"), *rows, "",
    ]  # fmt: skip


def _figures(records: Sequence[Record]) -> list[str]:
    rows = [
        "## Figures",
        "",
        "Each arm's figure against the budget; the last column is what the proposed fix does.",
        "",
    ]
    for name, mine in standing.by_case(records).items():
        rows += [f"### {escape.markdown(name)}", ""]
        remedies = dict.fromkeys(arm for record in mine for arm in record.remedies)
        names = [*ARMS, *sorted(remedies)]
        rows += head("condition", "cell", "verdict", "figure", "budget", *names, "margins", "fix")
        for record in mine:
            if record.arms:
                unit, limit = record.budget["unit"], float(record.budget["limit"])
                more = apart(map(record.figure, names), limit, unit)
                arms = [_arm(record, arm, unit, more) for arm in names]
                fix = record.proposed["effect"] if record.proposed else ""
                of = [record.condition, record.cell, record.verdict.value, record.budget["figure"]]
                rows.append(row(*of, show(limit, unit, more), *arms, margins(record), fix))
        rows.append("")
    return rows


def _arm(record: Record, arm: str, unit: str, more: int) -> str:
    found = record.arm(arm)
    if found is None:
        return ""
    value = record.figure(arm)
    if found.state == "raised" and found.exception:
        return f"raised {found.exception['types'][0]}"
    return show(value, unit, more) if value is not None else found.state
