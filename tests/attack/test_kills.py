"""A run may be killed at any moment: nothing is lost, nothing doubled, nothing stays behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from repros.run import results
from tests.attack.kills import Victim, kills
from tests.attack.tally import COUNTS

#: `nox -s attack` asks for 200.
KILLS = int(os.environ.get("ATTACK_KILLS", "5"))


def test_nothing_is_lost_doubled_or_left_whenever_a_run_is_killed(tmp_path: Path) -> None:
    counts, wrong = kills(KILLS, tmp_path, seed=15)
    COUNTS["kills"] = dict(counts)
    assert counts["kills"] == KILLS
    assert wrong == []


@pytest.mark.parametrize(
    ("runner", "sent", "code"),
    [
        ("harness", [signal.SIGINT, signal.SIGINT], 130),
        ("harness", [signal.SIGTERM, signal.SIGTERM], 143),
        ("cli", [signal.SIGINT, signal.SIGINT], 130),
        ("pytest", [signal.SIGINT, signal.SIGINT], 130),
        ("cli", [signal.SIGTERM, signal.SIGTERM, signal.SIGTERM], 143),
        ("pytest", [signal.SIGTERM, signal.SIGTERM], 143),
    ],
)
def test_signals_end_a_run_by_its_exit_code_whenever_and_however_often(
    tmp_path: Path, runner: str, sent: list[int], code: int
) -> None:
    chance = random.Random(f"{runner} {sent}")
    for number in range(max(2, KILLS // 10)):
        victim = Victim(tmp_path / f"r{number}", tmp_path / f"t{number}", runner)
        victim.temp.mkdir()
        process = victim.begin()
        wait_until_it_takes_signals(process)
        time.sleep(chance.uniform(0.0, 6.0))
        before = process.poll()
        for one in sent:
            process.send_signal(one)
            time.sleep(chance.choice([0.0, 0.01, 0.3, 1.2]))
        said = process.communicate(timeout=60)[0]
        if before is None and process.returncode != 0:
            assert process.returncode == code, said
            assert "hint: the same command goes on with" in said or victim.lines() == [], said
        assert "Traceback" not in said
        assert victim.left() == []
        assert list(victim.temp.iterdir()) == []
        if (victim.run / results.RESULTS).exists():
            results.load(victim.run)
        COUNTS.setdefault("signals", {}).setdefault(f"{runner} {code}", 0)
        COUNTS["signals"][f"{runner} {code}"] += 1


def wait_until_it_takes_signals(process: subprocess.Popen[str]) -> None:
    """Wait until a run has a handler for SIGTERM: before its first line of ours nothing of ours can answer."""
    deadline = time.monotonic() + 30
    bit = 1 << (signal.SIGTERM - 1)
    while time.monotonic() < deadline and process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        if any(line.startswith("SigCgt:") and int(line.split()[1], 16) & bit for line in status.splitlines()):
            return
        time.sleep(0.01)
