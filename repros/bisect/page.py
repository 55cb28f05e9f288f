"""The answer of a bisection: lines for a terminal, and a page to paste with a table for each search."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from repros.bisect.bisection import Walk
from repros.bisect.probe import PROBES, Probe
from repros.bisect.revisions import compare_link, diff_command
from repros.bisect.scripts import ScriptEntry
from repros.bisect.search import GOOD, SKIP, Answer, Edge, Kind, Result, is_bad
from repros.cells.matrix import FOLLOWERS, Cell
from repros.cells.uv import pip_settings
from repros.files import Folder
from repros.redaction.redact import Redactor
from repros.report.escape import Safe, bold, code, head, line, markdown, row
from repros.report.machine import described
from repros.report.tries import ranges
from repros.run.vote import NO_CONTROLS
from repros.verdict import apart, multiple, show, show_pair

#: How JSON is written in a line.
COMPACT = (",", ":")
#: The columns of a search's log before those of the times.
LOG = ("#", "revision", "date", "vote", "figure", "budget", "planted/budget", "budget/reference")


def summary(hunts: Sequence[Walk], package: str, base: Cell) -> str:
    """Return the answer of every search in a few lines."""
    rows = [f"{package}, the rest as in {base.name}"]
    for hunt in hunts:
        answer = hunt.answer()
        rows.append(f"{hunt.name}: {answer.result.value}{f' ({NO_CONTROLS})' if _by_script(hunt) else ''}")
        rows += [f"  {text}" for text in _edge_lines(hunt, answer)]
        rows.append(f"  {_effort(hunt, answer)}")
    return "\n".join(map(line, rows))


def _edge_lines(hunt: Walk, answer: Answer) -> list[str]:
    if not answer.edges:
        return [_uniform(hunt, answer)]
    return [edge_text(hunt, edge) for edge in answer.edges]


def _uniform(hunt: Walk, answer: Answer) -> str:
    tried = sum(label != SKIP for label in answer.labels.values())
    ends = f"{hunt.revisions[0].name} to {hunt.revisions[-1].name}"
    what = {
        Result.NOT_REPRODUCED: f"not reproduced in any of {tried} revisions tried from {ends}",
        Result.ALWAYS_BAD: f"reproduced in all of {tried} revisions tried from {ends}: no edge in this range",
        Result.ALL_SKIPPED: f"no revision from {ends} gave an answer",
    }
    return what[answer.result] + _not_tried(hunt, answer)


def _not_tried(hunt: Walk, answer: Answer) -> str:
    """Name the revisions that nothing is known of, where what was tried agrees: there may be a change among them."""
    order = [revision.name for revision in hunt.revisions]
    said = {
        "not tried": ranges(order, (i for i in range(len(order)) if i not in answer.labels)),
        "no answer": ranges(order, (i for i, label in answer.labels.items() if label == SKIP)),
        "cannot be installed": ", ".join(revision.name for revision, _ in hunt.ruled_out),
    }
    return "".join(f"; {what}: {names}" for what, names in said.items() if names) if _by_script(hunt) else ""


def _by_script(hunt: Walk) -> bool:
    return isinstance(hunt.entry, ScriptEntry)


def edge_text(hunt: Walk, edge: Edge) -> str:
    """Return one edge in words: what changes, between which revisions, how sure, at what cost."""
    low, high = hunt.revisions[edge.low], hunt.revisions[edge.high]
    last = {Kind.FIRST_BAD: "last good", Kind.FIRST_FIXED: "last bad"}.get(edge.kind, "last with the one before")
    if edge.result is Result.RANGE:
        inside = hunt.revisions[edge.low + 1 : edge.high]
        where = f"one of {', '.join(r.name for r in (*inside, high))} ({', '.join(r.name for r in inside)} skipped)"
    else:
        where = f"{high.name} ({high.date})"
    extra = f"; {edge.result.value}" if edge.result is not Result.FOUND else ""
    again = "confirmed in fresh environments" if hunt.confirmed(edge) else "not confirmed"
    cost = f"{edge.probes} probes, at most {edge.bound} allowed" + (f", {edge.skipped} skipped" * bool(edge.skipped))
    sure = f"confidence {percent(edge.confidence)}"
    marks = "; ".join(f"{name}: {label.partition(': ')[2]}" for name, label in
                      ((low.name, edge.before), (high.name, edge.after)) if edge.kind is Kind.SIGNATURE)  # fmt: skip
    extra += f"; {marks}" if marks else ""
    return f"{edge.kind.value}: {where}; {last}: {low.name} ({low.date}){extra}; {again}; {sure}; {cost}"


def percent(share: float) -> str:
    """Print a probability without rounding it up to certainty."""
    return f"{math.floor(share * 10000) / 100:g} %"


def _effort(hunt: Walk, answer: Answer) -> str:
    n = len(hunt.revisions)
    seconds = _seconds(probe for _, probe in hunt.order)
    fresh = sum(probe.fresh for _, probe in hunt.order)
    spent = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    out = f", {len(hunt.ruled_out)} ruled out beforehand" if hunt.ruled_out else ""
    votes = f"{answer.probes} votes ({answer.scanned} of a coarse scan, {fresh} confirming)"
    return f"{n} revisions{out}; {votes}; time: {spent}"


def _seconds(probes: Iterable[Probe]) -> dict[str, float]:
    total = dict.fromkeys(("environment", "import", "trial", "waited"), 0.0)
    for probe in probes:
        for name, value in probe.seconds.items():
            total[name] = total.get(name, 0.0) + value
    return total


# --- the page ------------------------------------------------------------------------------------


def write(
    hunts: Sequence[Walk],
    package: str,
    base: Cell,
    folder: Path,
    command: str,
    *,
    own: bool = False,
    force: bool = False,
) -> None:
    """Write the page and the probes that it was made from; into its ``own`` run, which has them, the page alone.

    What is kept elsewhere is kept without what is private on this machine.
    """
    probes = {id(probe): probe for hunt in hunts for _, probe in (*hunt.order, *hunt.crossed)}
    text = page(hunts, package, base, command)
    with place(folder, own=own, force=force) as out:
        if not own:
            clean = Redactor.here(settings=pip_settings())
            text = clean.text(text)
            lines = (json.loads(probe.to_line()) for probe in probes.values())
            out.write(PROBES, "".join(f"{json.dumps(clean.value(line), separators=COMPACT)}\n" for line in lines))
        out.write("README.md", text)


def place(folder: Path, *, own: bool, force: bool) -> Folder:
    """Return the folder that `write` fills; UserError where it may not."""
    return Folder(folder, "probes" if own else "bisection", force=force, prune=not own)


def page(hunts: Sequence[Walk], package: str, base: Cell, command: str) -> str:
    """Return the page; every figure on it is read from the probes."""
    everything = [probe for hunt in hunts for _, probe in hunt.order]
    names = ", ".join(dict.fromkeys(hunt.entry.name for hunt in hunts))
    rows = [f"# {markdown(f'Where it came and went: {names} over {package}')}", ""]
    pins = ", ".join(f"{name} {pin}" for name, pin in base.pins.items() if name != package)
    ends = f"{hunts[0].revisions[0].name} to {hunts[0].revisions[-1].name}"
    rows += [
        code(command),
        "",
        f"Walked: {package}, {'commits' if _commits(hunts) else 'releases'} {markdown(ends)}. "
        f"The rest as in cell {code(base.name)} ({markdown(pins)}; "
        f"huggingface_hub and tokenizers follow where a release demands it).",
        "",
    ]
    if everything:
        dates = sorted(probe.date for probe in everything)
        builds = ", ".join(dict.fromkeys(probe.build for probe in everything if probe.build))
        rows += [
            f"Machine: {markdown(described(everything[0].machine))}; build of torch: {markdown(builds)}. "
            f"From {markdown(dates[0])} to {markdown(dates[-1])}. Every figure is read from `{PROBES}`.",
            "",
        ]
    for digest in dict.fromkeys(hunt.entry.script.digest for hunt in hunts if isinstance(hunt.entry, ScriptEntry)):
        rows += [f"There are {NO_CONTROLS}. Its source: `{digest}`.", ""]
    rows += _overview(hunts)
    uniform = [hunt for hunt in hunts if not hunt.answer().edges]
    for hunt in hunts:
        if hunt not in uniform:
            rows += _section(hunt, package)
    if uniform:
        rows += ["## Without an edge", "", "Their figures are in `probes.jsonl`.", ""]
        for hunt in uniform:
            said = _uniform(hunt, hunt.answer()), _effort(hunt, hunt.answer())
            rows.append(f"- {markdown(hunt.name)}: {markdown(said[0])}. {markdown(said[1])}.")
    return "\n".join(rows) + "\n"


def _commits(hunts: Sequence[Walk]) -> bool:
    return any(revision.source for hunt in hunts for revision in hunt.revisions)


def _overview(hunts: Sequence[Walk]) -> list[str]:
    rows = head(*(("script", "bad if") if _by_script(hunts[0]) else ("case", "condition")), "result", "edges")
    for hunt in hunts:
        answer = hunt.answer()
        edges = Safe("; ".join(_short(hunt, edge) for edge in answer.edges)) or _uniform(hunt, answer)
        rows.append(row(hunt.entry.name, hunt.condition, answer.result.value, edges))
    return [*rows, ""]


def _short(hunt: Walk, edge: Edge) -> str:
    low, high = markdown(hunt.revisions[edge.low].name), bold(hunt.revisions[edge.high].name)
    between = "" if edge.result is not Result.RANGE else f", after {low}"
    return f"{edge.kind.value} {high}" + (between or f" (after {low})")


def _section(hunt: Walk, package: str) -> list[str]:
    entry, answer = hunt.entry, hunt.answer()
    report = "" if isinstance(entry, ScriptEntry) else f"{entry.case.report} "
    name = f"{report}{code(entry.name)} {markdown(f'[{hunt.condition}]')}"
    rows = [f"## {name}: {answer.result.value}", ""]
    rows += [*walked(_in_order(hunt)), ""]
    for edge in answer.edges:
        rows += _edge_rows(hunt, edge, package)
    gap = hunt.search.widest_gap()
    hidden = f" At most {gap} untried revisions lie between two that answered alike." if gap else ""
    rows += [f"{markdown(_effort(hunt, answer))}.{hidden}", ""]
    rows += [markdown(_gone(hunt)), ""] if hunt.ruled_out else []
    return [*rows, *_log(hunt), ""]


def _in_order(hunt: Walk) -> list[tuple[str, str, list[Probe]]]:
    """Return each revision that was tried, in their own order: name, label, probes."""
    labels = sorted(hunt.answer().labels.items())
    return [(hunt.revisions[i].name, label, [p for at, p in hunt.order if at == i]) for i, label in labels]


def walked(tried: Iterable[tuple[str, str, Sequence[Probe]]]) -> list[str]:
    """Return revisions in their order as a table: neighbours that answered alike are one row."""
    rows = head("revisions", "tried", "vote", "figure", "budget")
    for label, several in groupby(tried, lambda one: one[1]):
        group = list(several)
        probes = [probe for _, _, mine in group for probe in mine]
        names = " to ".join(dict.fromkeys((group[0][0], group[-1][0])))
        vote = _vote(probes[0]) if label == SKIP else label.partition(":")[0]
        rows.append(row(names, str(len(group)), vote, *_span(probes)))
    return rows


def _span(probes: Sequence[Probe]) -> tuple[str, str]:
    """Return the least and the most that was measured, and the budget; of what came to no figure its reason."""
    measured = [probe for probe in probes if probe.values.get("subject") is not None and probe.limit is not None]
    if not measured:
        return _figure(probes[0])
    one, values = measured[0], sorted(float(probe.values["subject"]) for probe in measured)
    limit = float(one.limit)
    more = apart(values, limit, one.unit)
    ends = " to ".join(dict.fromkeys(show(value, one.unit, more) for value in (values[0], values[-1])))
    return f"{one.figure} {ends}", show(limit, one.unit, more)


def _gone(hunt: Walk) -> str:
    by_reason: dict[str, list[str]] = {}
    for revision, why in hunt.ruled_out:
        by_reason.setdefault(why, []).append(revision.name)
    return "Ruled out beforehand: " + "; ".join(f"{', '.join(names)}: {why}" for why, names in by_reason.items()) + "."


def _edge_rows(hunt: Walk, edge: Edge, package: str) -> list[str]:
    low, high = hunt.revisions[edge.low], hunt.revisions[edge.high]
    rows = [f"- {markdown(edge_text(hunt, edge))}"]
    for name, label in ((low.name, edge.before), (high.name, edge.after)):
        if is_bad(label) and ": " in label:
            rows.append(f"  - signature at {markdown(name)}: {code(label.partition(': ')[2])}")
    for revision in (low, high):
        if revision.subject:
            merge = f" (merge of {revision.merge})" if revision.merge else ""
            native = f" [{revision.native}]" * bool(revision.native)
            rows.append(f"  - {markdown(revision.name)}: {markdown(f'{revision.subject}{merge}{native}')}")
    crossed = [(p, hunt.revisions[i].name) for i, p in hunt.crossed if i in (edge.low, edge.high)]
    for probe, name in crossed:
        word = probe.votes[0].partition(":")[0]
        why = f": {probe.reason}" if word == SKIP else ""
        rows.append(f"  - {markdown(name)} with the other one's native library: {word}{markdown(why)}")
    if crossed:
        rows.append(f"  - {_whose(edge, [p for p, _ in crossed])}")
    commits = low.source is not None
    link = compare_link(package, low.name, high.name, commits=commits)
    if link:
        rows.append(f"  - {link}")
        rows.append(f"  - {code(diff_command(package, low.name, high.name, commits=commits))}")
    others = _other_changes(hunt, edge, package)
    rows.append(f"  - other packages that differ between the two: {markdown(others or 'none')}")
    return [*rows, ""]


def _whose(edge: Edge, crossed: Sequence[Probe]) -> str:
    """Say whether an edge goes with the sources or with the native library that was laid beside them."""
    words = [probe.votes[0].partition(":")[0] for probe in crossed]
    before, after = (label.partition(":")[0] for label in (edge.before, edge.after))
    if words == [before, after]:
        return "the edge goes with the sources: each commit answers the same with either library"
    if words == [after, before]:
        return "the edge goes with the native library, not with the sources: each answers as its library's commit does"
    return "whether the edge is the sources' or the native library's cannot be told from this"


def _other_changes(hunt: Walk, edge: Edge, package: str) -> str:
    pairs = []
    for index in (edge.low, edge.high):
        pairs.append(next((p.packages for i, p in hunt.order if i == index and p.packages), {}))
    before, after = pairs
    changed = [name for name in before if before[name] != after.get(name) and name != package]
    return ", ".join(f"{name} {before[name]} to {after.get(name)}" for name in changed)


def _log(hunt: Walk) -> list[str]:
    times = ("environment", "import", "trial", "waited")
    rows = head(*LOG, *times, "followers")
    for number, (index, probe) in enumerate(hunt.order, 1):
        revision = hunt.revisions[index]
        followers = ", ".join(f"{name} {probe.packages[name]}" for name in FOLLOWERS if name in probe.packages)
        rows.append(
            row(
                *(str(number), f"{revision.name}{' (fresh)' * probe.fresh}", revision.date, _vote(probe)),
                *(*_figure(probe), _times(probe, "planted_over_budget"), _times(probe, "budget_over_reference")),
                *(f"{probe.seconds.get(name, 0.0):.1f} s" for name in times),
                followers,
            )
        )
    return rows


def _vote(probe: Probe) -> str:
    words = [vote.partition(":")[0] for vote in probe.votes]
    counted = ", ".join(f"{words.count(w)} × {w}" if len(words) > 1 else w for w in dict.fromkeys(words))
    return f"{counted}: {probe.reason}" if SKIP in words else counted


def _figure(probe: Probe) -> tuple[str, str]:
    """Return figure and budget."""
    value, limit = probe.values.get("subject"), probe.limit
    number = None if value is None else float(value)
    shown, allowed = (show(number, probe.unit), "") if limit is None else show_pair(number, float(limit), probe.unit)
    if number is None:
        return probe.reason if GOOD not in probe.votes and SKIP not in probe.votes else "", allowed
    return f"{probe.figure} {shown}", allowed


def _times(probe: Probe, name: str) -> str:
    value = probe.margins.get(name)
    return "" if value is None else multiple(float(value))
