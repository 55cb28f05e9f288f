"""A run of ten thousand trials, made of the committed evidence, and the cases that it would be a run of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from repros import cases
from repros.case import Symptom
from repros.cases import Entry
from repros.run import results
from repros.run.consistency import budget_of, decided
from repros.run.results import Record, Run
from repros.verdict import margins, to_number

EVIDENCE = Path(__file__).parents[1] / "reports/cpu"


#: How many times each committed trial is written, at most.
AGAIN = 40


def known() -> tuple[Entry, ...]:
    """Return the cases with each condition under the names that it has in the run: else no trial had a script."""
    return tuple(
        replace(entry, case=replace(entry.case, conditions=tuple(
            replace(one, name=f"{one.name}-{again}") for again in range(AGAIN) for one in entry.case.conditions
        )))
        for entry in cases.find()
    )  # fmt: skip


def agreeing(line: dict[str, Any]) -> bytes:
    """Return a line of a file with the reason and the margins that its figures give."""
    record = Record.from_json(line)
    if record.arms:
        reason = decided(record, [Symptom(arm.exception["types"][0]) for arm in record.arms if arm.exception])[1]
        planted, reference = record.arm("planted"), record.arm("reference")
        assert reference
        between = margins(planted, reference, budget_of(record))
        line = {**line, "reason": reason, "margins": {name: to_number(value) for name, value in between.items()}}
    return orjson.dumps(line) + b"\n"


def ten_thousand(folder: Path) -> Run:
    """Write the committed trials again and again, each time with other names and figures, and return the run."""
    kept = results.lines(EVIDENCE / results.RESULTS)[0]
    source = [orjson.dumps(line) for line in kept if line["kind"] == "trial"]
    run = Run(folder)
    with open(run.path, "wb") as file:
        for number in range(10_000):
            line = source[number % len(source)]
            again = number // len(source)
            assert again < AGAIN
            moved = orjson.loads(line)
            moved["condition"] += f"-{again}"
            for arm in moved["arms"]:  # else one block would say the same as another, and cost nothing
                for point in arm["evidence"]["timeline"]:
                    point[1] += 64 * again
                for name in arm["figures"]:
                    if name.endswith("_bytes"):
                        arm["figures"][name] += 64 * (number % 977)
            if moved["budget"]["unit"] == "bytes":  # and each figure is as far from its limit as it was
                moved["budget"]["limit"] += 64 * (number % 977)
            file.write(agreeing(moved))
    return run
