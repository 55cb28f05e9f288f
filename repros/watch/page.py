"""What is written of a watch: the page, and for each change a text ready to file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from repros import cases
from repros.cases import Entry
from repros.report.escape import Safe, code, fence, markdown, python, table
from repros.run.record import Record
from repros.verdict import show
from repros.watch.changes import Change, Kind
from repros.watch.newer import Newer

#: A change of these kinds is worth a number upstream; what could not be told is worth one here.
TITLES = {
    Kind.BAD: "{report} is back with {release}",
    Kind.GOOD: "{report} does not show with {release} any more",
    Kind.UNTOLD: "{report} could not be told with {release}",
}


def page(found: Sequence[tuple[Newer, Sequence[Record], Sequence[Change]]], bisected: Mapping[str, str]) -> str:
    """Return the page: a section a package; ``bisected``: package -> what its bisection answered, as text."""
    rows = ["# What changes with newer releases", ""]
    rows += [
        table(
            ("package", "newest known", "tried", "trials", *(kind.value for kind in Kind)),
            [
                [new.package, str(new.known), new.newest if new.releases else "none", str(len(records)),
                 *(str(sum(change.kind is kind for change in changes)) for kind in Kind)]
                for new, records, changes in found
            ],
        ),
        "",
    ]  # fmt: skip
    for new, _, changes in found:
        rows += [f"## {markdown(new.package)}", ""]
        between = [str(release) for release in new.releases[:-1]]
        if between:
            rows += [
                f"Between {markdown(str(new.known))} and {markdown(new.newest)}: {markdown(', '.join(between))}.",
                "",
            ]
        rows += [f"- {markdown(str(release))} was left out: {markdown(why)}" for release, why in new.left_out]
        rows += [""] if new.left_out else []
        if new.releases and not changes:
            rows += ["Every trial came out as before.", ""]
        for kind in Kind:
            mine = [change for change in changes if change.kind is kind]
            if mine:
                rows += [f"### {kind.value.capitalize()}", "", _table(mine), ""]
        if new.package in bisected:
            rows += [fence(bisected[new.package]), ""]
    return "\n".join(rows).rstrip("\n") + "\n"


def _table(changes: Sequence[Change]) -> Safe:
    return table(
        ("case", "condition", "before", "now", "figure", "limit", "reason"),
        [
            [change.now.case, change.now.condition, change.before.verdict.value if change.before else "not tried",
             change.now.verdict.value, _figure(change.now), _limit(change.now), change.now.reason]
            for change in changes
        ],
    )  # fmt: skip


def _figure(record: Record) -> str:
    return show(record.figure("subject"), record.budget["unit"])


def _limit(record: Record) -> str:
    return show(float(record.budget["limit"]), record.budget["unit"])


def texts(changes: Sequence[Change], known: Mapping[str, Entry]) -> dict[str, str]:
    """Return file name -> a text ready to file, one a case and kind of change."""
    groups: dict[tuple[str, Kind, str], list[Change]] = {}
    for change in changes:
        groups.setdefault((change.now.case, change.kind, change.package), []).append(change)
    return {
        f"{re.sub(r'[^a-z]+', '-', kind.value)}-{case}-{package}.md": _text(mine, known[case])
        for (case, kind, package), mine in groups.items()
    }


def _text(changes: Sequence[Change], entry: Entry) -> str:
    """Return the text of one case, in the sections that upstream's templates ask for."""
    first = changes[0]
    now, package, case = first.now, first.package, entry.case
    release = f"{package} {now.versions.get(package) or now.cell.rpartition('=')[2]}"
    title = TITLES[first.kind].format(report=case.report, release=release)
    versions = ", ".join(f"{name} {version}" for name, version in now.versions.items() if version)
    witness = cases.witness_of(entry.path, entry.condition(now.condition))
    script = python(witness.read_text(encoding="utf-8")) if witness and now.witness else ""
    says = str(now.witness["says"]) if now.witness else ""
    rows = [
        f"# {title}",
        "",
        f"{case.url} hits {markdown(case.trigger)}.",
        "",
        "## System Info",
        "",
        f"{markdown(versions or now.cell)}; {markdown(str(now.machine.get('system', '')))}, "
        f"Python {markdown(str(now.machine.get('python', '')))}",
        "",
        "## Reproduction",
        "",
        *([script, "", f"It says: {code(says)}", ""] if script else []),
        f"{code(now.repeat)}:",
        "",
        _table(changes),
        "",
        "## Expected behavior",
        "",
        _expected(first),
    ]
    return "\n".join(rows) + "\n"


def _expected(change: Change) -> str:
    old, now = change.before, change.now
    if old is None:
        return "The case that the suite has of this report does not expect it."
    then, release = old.versions.get(change.package, ""), now.versions.get(change.package, "")
    return f"As with {change.package} {then}: {markdown(old.reason)}. With {release or 'it'}: {markdown(now.reason)}."


def write(folder: Path, pages: Mapping[str, str]) -> None:
    """Write pages into the folder of the run that they tell of."""
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
