"""What a page over ten thousand trials costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from repros import cases
from repros.commands import cli
from tests.big_run import known, ten_thousand


def test_a_page_over_ten_thousand_trials(benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole command in one process, the reading of 180 MB of results included."""
    run, entries = ten_thousand(tmp_path / "r"), known()
    monkeypatch.setattr(cases, "find", lambda: entries)
    target = tmp_path / "page.html"
    made = benchmark.pedantic(cli.main, args=(["report", str(run.folder), "--html", str(target)],), rounds=3)
    assert made == 0
    median = benchmark.stats.stats.median
    benchmark.extra_info["a page over 10,000 trials (s)"] = median
    benchmark.extra_info["a page over 10,000 trials, its size"] = f"{target.stat().st_size / 1e6:.1f} MB"
    assert median < 10
