"""How a run ended: the one place that says so, over all of its records, for every command that ends one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from repros.cases import Entry
from repros.run import results
from repros.run.consistency import decided
from repros.run.record import Record
from repros.run.trial import declared, judged_again

AS_EXPECTED, FAILED = 0, 1


def judged(folders: Sequence[Path], known: Mapping[str, Entry]) -> tuple[list[Record], list[str]]:
    """Return the trials of runs as they stand by what the cases record and declare today, and what to know of them.

    UserError where there is no finished trial.
    """
    found, notices = results.load_all(folders)
    records = []
    for record in found:
        record, notice = by_symptoms(record, known)
        records.append(judged_again(record, known))
        notices += [notice] if notice else []
    return records, notices


def code(records: Sequence[Record]) -> int:
    """Return the exit code of a run that has these records: those of earlier calls count as those of this one."""
    return FAILED if any(record.failed for record in records) else AS_EXPECTED


def by_symptoms(record: Record, known: Mapping[str, Entry]) -> tuple[Record, str]:
    """Return a record with the verdict that the case's symptoms of today give it, and a notice if that is another."""
    if not record.arms or declared(record, known) is None:
        return record, ""
    verdict, reason = decided(record, known[record.case].case.symptoms)
    if verdict is record.verdict:
        return record, ""
    name = f"{record.case}[{record.condition}] in {record.cell}"
    notice = f"{name}: recorded `{record.verdict.value}`; by the symptoms that the case declares: `{verdict.value}`"
    return replace(record, verdict=verdict, reason=reason), notice
