"""Keep what an attack tried: `ATTACK_RESULTS=FILE` names the file."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from repros.machine.host import probe_host
from tests.attack.tally import COUNTS, TALLY

ENDED: dict[str, int] = {"passed": 0, "failed": 0}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count how the tests of this folder ended."""
    if "tests/attack" in report.nodeid and (report.when == "call" or report.outcome == "failed"):
        ENDED[report.outcome] = ENDED.get(report.outcome, 0) + 1


def pytest_sessionfinish() -> None:
    """Write the tally, with the machine and the date."""
    target = os.environ.get("ATTACK_RESULTS")
    if target is None:
        return
    machine = probe_host().as_json()
    doors = sorted({door for door, _ in TALLY})
    kept = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {name: machine[name] for name in ("cpu_model", "cores", "python") if name in machine},
        "tests": ENDED,
        "inputs": sum(TALLY.values()),
        "doors": {door: {how: TALLY[door, how] for how in ("refused", "taken")} for door in doors},
        "counts": COUNTS,
    }
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
