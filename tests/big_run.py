"""A run of ten thousand trials, made of the committed evidence, and the cases that it would be a run of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from repros import cases, results
from repros.cases import Entry
from repros.results import Run

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


def ten_thousand(folder: Path) -> Run:
    """Write the committed trials again and again, each time with other names and figures, and return the run."""
    source = [json.loads(line) for line in (EVIDENCE / results.RESULTS).read_text().splitlines()]
    source = [line for line in source if line["kind"] == "trial"]
    run = Run(folder)
    with open(run.path, "w") as file:
        for number in range(10_000):
            line = source[number % len(source)]
            again = number // len(source)
            assert again < AGAIN
            moved = json.loads(json.dumps(line))
            moved["condition"] += f"-{again}"
            for arm in moved["arms"]:  # else one block would say the same as another, and cost nothing
                for point in arm["evidence"]["timeline"]:
                    point[1] += 64 * again
                for name in arm["figures"]:
                    if name.endswith("_bytes"):
                        arm["figures"][name] += 64 * (number % 977)
            file.write(json.dumps(moved) + "\n")
    return run
