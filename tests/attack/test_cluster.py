"""Workers of a cluster are killed while they try real trials: no result is lost, and no verdict is another."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from repros import ROOT
from repros.cells.matrix import load_matrix
from repros.run import results
from tests.attack.tally import COUNTS
from tests.waiting import eventually

#: `nox -s attack` asks for 50, over every cell; else the two are tried that CI builds anyway.
KILLS = int(os.environ.get("ATTACK_WORKER_KILLS", "2"))
TIER = "cpu" if "ATTACK_WORKER_KILLS" in os.environ else "smoke"
#: Reports whose trials are short, so that a kill hits one after another.
REPORTS = ("gh1995", "gh1729", "gh1862", "gh1549", "gh1775", "gh2005", "gh1946")
PATIENCE_S = 900.0


def test_killed_workers_lose_no_trial_and_change_no_verdict(tmp_path: Path) -> None:
    """What each trial comes to is compared with the committed evidence."""
    where = tmp_path / "scheduler.json"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    dask = [sys.executable, "-m", "distributed.cli.dask_{}", "--scheduler-file", str(where), "--no-dashboard"]
    options = {"scheduler": ["--port", "0"], "worker": ["--nworkers", "4", "--nthreads", "1"]}
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": env, "cwd": tmp_path}
    up = [subprocess.Popen([*(w.format(which) for w in dask), *options[which]], **quiet) for which in options]
    try:
        eventually(lambda: where.exists() and where.read_text().endswith("}"), PATIENCE_S, "the scheduler's address")
        address = json.loads(where.read_text())["address"]
        command = [sys.executable, "-m", "repros", "run", *REPORTS, "--tier", TIER, "--executor", "dask"]
        command += ["--scheduler", address, "--reports", str(tmp_path / "reports")]
        run = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        killed = kill_workers(up[1].pid, run)
        said = run.communicate(timeout=PATIENCE_S)[0]
    finally:
        for process in up:
            end(process)
    COUNTS["killed workers"] = {"workers": killed}
    assert killed == KILLS, said
    assert run.returncode == 0, said
    found = {one.key: one.verdict for one in results.load(results.latest_run(tmp_path / "reports"))[0]}
    kept = results.load(results.REPORTS / "cpu")[0]
    tried = {cell.label for cell in load_matrix(ROOT / "matrix.yaml").tier(TIER)}
    wanted = [one for one in kept if one.cell in tried and one.case.startswith(tuple(f"{r}_" for r in REPORTS))]
    assert found == {one.key: one.verdict for one in wanted}


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started: a nanny that is to end while its worker starts may never."""
    below = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for one in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait(60)


def kill_workers(nannies: int, run: subprocess.Popen[str]) -> int:
    """Kill a worker at random moments, the first once trials run; return how many were."""
    chance, killed = random.Random(50), 0
    time.sleep(10.0)
    while killed < KILLS and run.poll() is None:
        time.sleep(chance.uniform(0.2, 2.0))
        workers = [one for one in psutil.Process(nannies).children() if "spawn_main" in " ".join(one.cmdline())]
        if workers:
            os.kill(chance.choice(workers).pid, signal.SIGKILL)
            killed += 1
    return killed
