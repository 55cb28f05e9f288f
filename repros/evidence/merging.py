"""Runs of one suite as one: nothing is lost, nothing is counted twice, and what they disagree on is not told.

Runs belong together where each case has one source and each cell one set of packages in all of them. Two results of
one trial that came to the same verdict are one result. Two that did not are both kept, in a record that is
`inconclusive` and says whose each is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repros.errors import UserError
from repros.run import results
from repros.run.consistency import rivalry
from repros.run.record import Record
from repros.verdict import SETTLED, Outcome, Verdict, is_failure

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Merged:
    """Runs as one. ``again``: trials with several results that agree; ``rivals``: those with results that do not."""

    records: list[Record]
    again: list[Key]
    rivals: list[Key]
    notices: list[str]

    def missing(self, wanted: Iterable[Key]) -> list[Key]:
        """Return what was to be tried and is in no run."""
        there = {record.key for record in self.records}
        return [key for key in wanted if key not in there]


def merge(runs: Sequence[Path]) -> Merged:
    """Read runs as one; UserError for runs of different suites, or of other packages under a cell's name."""
    names = _names(runs)
    found: dict[Key, list[tuple[str, Record]]] = {}
    notices = []
    seen: dict[tuple[str, str], tuple[str, str]] = {}
    for run, called in zip(runs, names, strict=True):
        records, notice = results.load(run)
        notices += [notice] if notice else []
        each = [(called, record) for record in records if not record.rivals]
        each += [
            (f"{called}: {rival['run']}", Record.from_json(rival["record"]))
            for record in records
            for rival in record.rivals
        ]
        for name, record in each:
            for what, value in _identity(record).items():
                first, whose = seen.setdefault((what, value[0]), (value[1], name))
                if first != value[1]:
                    says = f"{name}: {what} {value[0]} is not that of {whose}: {value[1]}, {first} there"
                    raise UserError(says, "merge runs of one commit of the suite, in environments from its locks")
            found.setdefault(record.key, []).append((name, record))
    if not found:
        raise UserError(f"{', '.join(names)}: no finished trial", "name runs, such as `reports/runs/NAME`")
    merged = {key: _one(told) for key, told in found.items()}
    several = [key for key, told in found.items() if len(told) > 1]
    return Merged(
        list(merged.values()),
        [key for key in several if not merged[key].rivals],
        [key for key in several if merged[key].rivals],
        notices,
    )


def _identity(record: Record) -> dict[str, tuple[str, str]]:
    """Return what must be the same in all runs: kind -> whose, and which."""
    packages = ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items()) if version)
    return {
        kind: (whose, which)
        for kind, whose, which in (
            ("the source of", record.case, record.source),
            ("the set of packages of", record.cell, packages),
        )
        if which
    }


def _one(told: Sequence[tuple[str, Record]]) -> Record:
    """Return the one result of several of a trial: the last that settled it, or a record of all that disagree."""
    settled = {record.verdict for _, record in told if record.verdict in SETTLED}
    if len(settled) < 2:
        return next((record for _, record in reversed(told) if record.verdict in SETTLED), told[-1][1])
    rivals: list[dict[str, Any]] = [
        {"run": name, "record": record.as_json()} for name, record in told if record.verdict in SETTLED
    ]
    last = told[-1][1]
    return replace(
        last,
        verdict=Verdict.INCONCLUSIVE,
        outcome=Outcome.UNSETTLED,
        failed=is_failure(Verdict.INCONCLUSIVE, Outcome.UNSETTLED),
        reason=rivalry(rivals),
        rivals=tuple(rivals),
        margins={},
        proposed=None,
        remedies={},
        readings={},
        witness={},
        arms=(),
    )


def _names(runs: Sequence[Path]) -> list[str]:
    """Return what each run is called: its folder's name, and as much of the path before it as tells them apart."""
    folders = [(run if run.is_dir() else run.parent).absolute() for run in runs]
    for depth in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"{results.shown(runs[0])}: named twice", "name each run once")


def by_cell(keys: Collection[Key]) -> Mapping[str, list[str]]:
    """Return cell -> case and condition of the trials there."""
    found: dict[str, list[str]] = {}
    for case, condition, cell in keys:
        found.setdefault(cell, []).append(f"{case}[{condition}]")
    return found
