"""A pytest plugin for bitsandbytes' own tests, in a cell's interpreter: whose kernels they try, and how each ended.

``REPROS_PEER`` is a request as JSON: ``kernels`` (``installed``, ``reference`` or ``spoiled``), ``device`` and
``found``, the file that is written at the end.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

REQUEST: dict[str, str] = json.loads(os.environ["REPROS_PEER"])
CALLS: Counter[str] = Counter()
OUTCOMES: dict[str, str] = {}


def pytest_configure() -> None:
    """Put the reference in, before a test is collected."""
    global CALLS
    import bitsandbytes  # noqa: F401 - it defines the operators

    if REQUEST["kernels"] != "installed":
        from repros.worker import kernels

        CALLS = kernels.install(REQUEST["device"], spoiled=REQUEST["kernels"] == "spoiled")


def pytest_runtest_logreport(report: Any) -> None:
    """Note how a test ended: the first of its phases that did not pass says it."""
    if OUTCOMES.get(report.nodeid, "passed") == "passed":
        OUTCOMES[report.nodeid] = report.outcome


def pytest_sessionfinish() -> None:
    """Write down what was found."""
    import bitsandbytes
    import torch

    versions = {"torch": torch.__version__, "bitsandbytes": bitsandbytes.__version__}
    found = {"outcomes": OUTCOMES, "calls": dict(CALLS), "packages": versions}
    Path(REQUEST["found"]).write_text(json.dumps(found), encoding="utf-8")
