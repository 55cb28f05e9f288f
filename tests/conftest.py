"""Fixtures shared by the tests."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from repros.cases import Entry, entry
from repros.machine import cards
from repros.run.results import Record
from repros.run.server import CellServer, Clock, pool
from repros.run.trial import Running, Trial
from repros.verdict import Observation

#: `--hypothesis-profile deep` is what `nox -s prove` asks for, `attack` what `nox -s attack` does.
SMALL = settings(max_examples=60, deadline=None, derandomize=True, database=None, print_blob=True,
                 suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])  # fmt: skip
settings.register_profile("small", SMALL)
settings.register_profile("deep", SMALL, max_examples=10_000, derandomize=False)
settings.register_profile("attack", SMALL, max_examples=3_000, derandomize=False)
settings.load_profile("small")

METERS = tuple(f"repros.meters.{name}" for name in ("ledger", "saved", "heap", "numerics"))


class Bench:
    """A cell made of this interpreter: arms run in forks of a server that has imported torch alone."""

    cell, device = "here", "cpu"
    versions: Mapping[str, str] = {"torch": "2.13.0"}
    facts: Mapping[str, Any] = {"packages": {"torch": "2.13.0"}}

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.folder = folder
        ahead = ("torch", "torch._dynamo", "repros.worker.arm", *METERS)
        self.server = CellServer(Path(sys.executable), self.clock, "here", "cpu", ahead, cases=())

    def observe(self, request: Mapping[str, Any], log: Path, fresh: bool = False, cards: int = 1) -> Observation:
        """Run one arm."""
        return self.server.observe(request, log, fresh, cards)

    def checkpoint(self, recipe: str) -> str:
        """No case here needs one."""
        raise AssertionError(recipe)

    def run(self, found: Entry, condition: str) -> Record:
        """Try one condition of a case."""
        trial = Trial(found, found.condition(condition), self.cell)
        with pool(2) as arms:
            return Running(trial, self, arms, self.folder, {}).record()


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Return a cell made of this interpreter."""
    made = Bench(tmp_path_factory.mktemp("logs"))
    yield made
    made.server.close()


@pytest.fixture(scope="session")
def harness() -> Entry:
    """Return the case that tries the harness."""
    return entry(importlib.import_module("tests.selftest.st_harness"))


@pytest.fixture(autouse=True)
def _no_user_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's own settings of the suite out of the tests."""
    for name in [name for name in os.environ if name.startswith("REPROS_") and name != "REPROS_CACHE"]:
        monkeypatch.delenv(name)


CARDS = (
    "0, NVIDIA H200, 143771, 143000, 580.95, GPU-aaaa, Default",
    "1, NVIDIA H200, 143771, 20000, 580.95, GPU-bbbb, Default",
)


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Put a driver's tool on the path that lists two cards, and has no more the one that a file `lostGPU-…` names."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(
        f"#!/bin/sh\ncase $1 in --id=*) [ -e {tmp_path}/lost${{1#--id=}} ] && echo 'GPU is lost.' && exit 15\n"
        f"echo 1000; exit;; esac\ncat {tmp_path}/cards\n"
    )
    tool.chmod(0o755)
    (tmp_path / "cards").write_text("\n".join(CARDS) + "\n")
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    monkeypatch.setenv("REPROS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(cards, "_gone", set())
    monkeypatch.setattr(cards, "AGAIN_S", 0.0)
    cards.known.cache_clear()
    yield
    cards.known.cache_clear()


# -- the page. What it takes is imported by the tests that ask for it: the reference is tried in a copy without cases.


@pytest.fixture(scope="session")
def records() -> list[Record]:
    """Return the committed trials of a machine without a GPU."""
    from repros.run import results

    return results.load(results.REPORTS / "cpu")[0]


@pytest.fixture(scope="session")
def page(records: list[Record]) -> str:
    """Return their page."""
    from repros.redaction.redact import Redactor
    from repros.report.page import html
    from tests.pages import KNOWN

    return html.page(records, KNOWN, ["reports/cpu"], Redactor())


@pytest.fixture(scope="session")
def written(page: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page as a file."""
    path = tmp_path_factory.mktemp("page") / "p.html"
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture
def tab(written: Path) -> Iterator[Any]:
    """Return the page, opened from disk; whatever it asks for but itself, or complains of, fails the test."""
    from tests.chromium import Chromium

    with Chromium(viewport={"width": 1280, "height": 900}) as (_, context):
        one, asked, said = context.new_page(), [], []
        one.on("request", lambda request: asked.append(request.url))
        one.on("pageerror", lambda error: said.append(str(error)))
        one.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        one.goto(written.as_uri())
        yield one
        assert {url for url in asked if not url.startswith(("data:", "blob:"))} <= {written.as_uri()}
        assert said == []
