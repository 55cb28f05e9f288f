"""Keep what a deep run of the properties found: `PROVE_RESULTS=FILE` names the file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from hypothesis import settings

from repros.machine.host import probe_host
from repros.meters.ledger import Ledger
from tests.properties.evidence import TALLY

PACKAGES = ("torch", "transformers", "bitsandbytes", "hypothesis")


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    """Return a ledger that is open and counting: a property reads differences, for a start costs a walk of the heap."""
    made = Ledger()
    with made.open():
        made.start()
        made.enter("property")
        yield made


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how each property ended."""
    if "tests/properties" in report.nodeid and (report.when == "call" or report.outcome != "passed"):
        name = report.nodeid.rpartition("::")[2].partition("[")[0]
        found = TALLY[name]
        found["outcome"] = report.outcome if found.get("outcome") in (None, "passed") else found["outcome"]
        found["seconds"] = round(found.get("seconds", 0.0) + report.duration, 1)


def pytest_sessionfinish() -> None:
    """Write the tally, with what it was made of."""
    target = os.environ.get("PROVE_RESULTS")
    if target is None:
        return
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    machine = probe_host().as_json()
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "packages": found,
        "machine": {name: machine[name] for name in ("cpu_model", "cores", "python") if name in machine},
        "examples_a_property": settings().max_examples,
    }
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        kept = {}
    # A part of the properties, tried again with the same packages, replaces its own figures alone.
    earlier = kept["properties"] if kept.get("packages") == found else {}
    text = json.dumps({**about, "properties": dict(sorted({**earlier, **TALLY}.items()))}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
