"""The page over ten thousand trials: made and filtered in no more time than a reader gives it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from repros import cases
from repros.commands import cli
from repros.run import results
from tests.big_run import AGAIN, EVIDENCE, known, ten_thousand
from tests.chromium import Chromium


@pytest.mark.slow
def test_ten_thousand_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is counted in readings of the same file by the standard library, for machines differ and are busy.

    For the same reason a filter's is the time for which the page's own thread worked. The seconds themselves are
    measured by `nox -s bench`.
    """
    run, entries = ten_thousand(tmp_path / "r"), known()
    monkeypatch.setattr(cases, "find", lambda: entries)
    text = run.path.read_text()
    before = os.times()
    for line in text.splitlines():
        json.loads(line)
    between = os.times()
    target = tmp_path / "p.html"
    assert cli.main(["report", str(run.folder), "--html", str(target)]) == 0
    after = os.times()
    assert used(between, after) < 10 * used(before, between)
    assert target.stat().st_size < 20 << 20
    with Chromium() as (chromium, context):
        tab = context.new_page()
        tab.goto(target.as_uri())
        assert tab.locator("#count").inner_text() == "10000 trials"
        session = context.new_cdp_session(tab)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        words = ("dora 0.50.2", "", "eager", "") * 2
        took = [filtered(tab, session, word) for word in words]
        assert max(map(min, zip(took[:4], took[4:], strict=True))) < 0.5
        assert tab.locator("#count").inner_text() == "10000 trials"
        assert chromium.is_connected()


def filtered(tab: Any, session: Any, word: str) -> float:
    """Filter the tables by a word and return the seconds that the page's thread works until they are laid out again."""

    def worked() -> float:
        found = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
        return float(found["TaskDuration"])

    before = worked()
    tab.evaluate(FILTER, word)
    count = str(tab.locator("#count").inner_text())
    assert ("of 10000" in count) == bool(word)
    return worked() - before


FILTER = """word => { const field = document.getElementById("find");
    field.value = word; field.dispatchEvent(new Event("input", { bubbles: true })); document.body.offsetHeight; }"""


def used(before: os.times_result, after: os.times_result) -> float:
    """Return the processor's seconds of this process and of the children that it waited for."""
    return sum(after[:4]) - sum(before[:4])


def test_the_names_of_the_ten_thousand_are_known() -> None:
    """Else the page over them would hold no script, and its size would say nothing."""
    entries = known()
    assert len(entries[0].case.conditions) == AGAIN * len(cases.find()[0].case.conditions)
    names = {(entry.name, condition.name) for entry in entries for condition in entry.case.conditions}
    written = {(record.case, f"{record.condition}-0") for record in results.load(EVIDENCE)[0]}
    assert written and written <= names
