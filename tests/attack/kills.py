"""Kill runs at random moments, go on with them, and count what was lost, doubled or left behind.

Three of five runs are of the harness's own case, which costs half; the others are of a real cell, by each runner.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from repros import ROOT
from repros.run import results
from repros.verdict import SETTLED
from tests.attack import harness_run
from tests.test_pytest_plugin import takes_signals

RUNNERS = ("harness", "cli", "harness", "pytest", "harness")
CELL = "tf5.23.0-bnb0.50.2"
CASES, FILES = ("gh1935_saved_weight", "gh1935_int8"), ("gh1935/saved_weight", "gh1935/int8")
CONDITIONS = ("nf4-eager", "nf4-checkpoint-reentrant", "nf4-checkpoint-nonreentrant", "int8-eval-eager")
#: How long a killed run's processes may take to end.
ORPHAN_S = 10.0
#: A run is made whole after so many kills.
KILLS_A_RUN = 6


@dataclass
class Victim:
    """One run that is killed and gone on with until it is whole, with a temp folder of its own."""

    folder: Path
    temp: Path
    runner: str
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Return what is tried."""
        return harness_run.CONDITIONS if self.runner == "harness" else CONDITIONS

    def command(self) -> list[str]:
        """Return the command that begins the run or goes on with it."""
        if self.runner == "harness":
            return [sys.executable, "-m", "tests.attack.harness_run", str(self.run)]
        if self.runner == "cli":
            resume = ["--resume"] if any(self.reports.glob("runs/*/results.jsonl")) else []
            chosen = [*CASES, "--condition", " ".join(CONDITIONS), "--reports", str(self.reports)]
            return [sys.executable, "-m", "repros", "run", *chosen, "--cell", CELL, *resume]
        # By `-k` and not by id: those that are settled already are no error then.
        chosen = ["--run", str(self.run), "--resume", "--cell", CELL, "-k", " or ".join(f"{c}[" for c in CONDITIONS)]
        plain = ["-p", "repros.pytest_plugin", "-p", "no:cacheprovider", "-q", *chosen]
        return [sys.executable, "-m", "pytest", *plain, *(f"repros/cases/bitsandbytes/{file}.py" for file in FILES)]

    @property
    def reports(self) -> Path:
        """Return the folder in place of reports/."""
        return self.folder / "reports"

    @property
    def run(self) -> Path:
        """Return the run's folder; one of a fixed name until there is one."""
        found = sorted(path.parent for path in self.reports.glob(f"runs/*/{results.RESULTS}"))
        return found[0] if found else self.reports / "runs" / "r"

    def begin(self) -> subprocess.Popen[str]:
        """Start a process of the run, in a process group of its own."""
        if self.runner == "pytest":
            self.run.mkdir(parents=True, exist_ok=True)
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("PYTEST_", "NOX_", "REPROS_"))}
        paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
        environment = {**kept, "TMPDIR": str(self.temp), "LEFTOVERS_MARK": self.mark, "PYTHONPATH": paths}
        return subprocess.Popen(
            self.command(), cwd=ROOT, env=environment, start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=takes_signals,
        )  # fmt: skip

    def processes(self) -> list[str]:
        """Return the processes of this run, the fork server's forks too, by a variable of their environment."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (process / "environ").read_bytes():
                    command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found.append(f"{process.name} {command[:200]}")
            except OSError:
                continue
        return found

    def left(self) -> list[str]:
        """Return the processes that outlive their time to end; the kernel ends them one after the other."""
        until = time.monotonic() + ORPHAN_S
        while (found := self.processes()) and time.monotonic() < until:
            time.sleep(0.1)
        return found

    def lines(self) -> list[bytes]:
        """Return the whole lines of trials that are on disk."""
        path = self.run / results.RESULTS
        data = path.read_bytes() if path.exists() else b""
        return [line for line in data.split(b"\n")[:-1] if b'"kind":"trial"' in line]


def kill_once(victim: Victim, after_s: float, counts: Counter[str]) -> list[str]:
    """Start or go on with a run, kill its group after a while, and return what was wrong; it may end before that."""
    before = victim.lines()
    process = victim.begin()
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        counts["kills"] += 1
        counts[f"kills of {victim.runner}"] += 1
    else:
        counts["ended before"] += 1
    process.communicate()
    wrong = []
    if left := victim.left():
        counts["orphans"] += len(left)
        wrong.append(f"orphans: {left}")
    if lost := [line for line in before if line not in victim.lines()]:
        counts["lost"] += len(lost)
        wrong.append(f"{len(lost)} lines lost")
    return wrong


def tried_again(lines: list[bytes]) -> list[str]:
    """Return the conditions that have a line after one that settled them."""
    settled: set[str] = set()
    again = []
    for line in map(json.loads, lines):
        again += [line["condition"]] if line["condition"] in settled else []
        settled |= {line["condition"]} if line["verdict"] in SETTLED else set()
    return again


def make_whole(victim: Victim, counts: Counter[str]) -> list[str]:
    """Go on with a run to its end, and return what was wrong of lines, trials and the temp folder."""
    before = victim.lines()
    process = victim.begin()
    said = process.communicate()[0]
    wrong = [] if process.returncode in (0, 5) else [f"exit {process.returncode}: {said[-2000:]}"]
    after = victim.lines()
    if lost := [line for line in before if line not in after]:
        counts["lost"] += len(lost)
        wrong.append(f"{len(lost)} lines lost")
    if doubled := tried_again(after):
        counts["doubled"] += len(doubled)
        wrong.append(f"tried again though settled: {doubled}")
    if missing := set(victim.conditions) - {record.condition for record in results.load(victim.run)[0]}:
        counts["lost"] += len(missing)
        wrong.append(f"no record of {missing}")
    if left := sorted(path.name for path in victim.temp.iterdir()):
        counts["folders"] += len(left)
        wrong.append(f"left in the temp folder: {left}")
    counts["runs"] += 1
    return wrong


def kills(number: int, folder: Path, seed: int) -> tuple[Counter[str], list[str]]:
    """Kill so many times; each run is made whole after some kills. Return counts and what was wrong."""
    chance = random.Random(seed)
    counts: Counter[str] = Counter(dict.fromkeys(("kills", "runs", "lost", "doubled", "orphans", "folders"), 0))
    wrong: list[str] = []
    whole_s: dict[str, float] = {}
    while counts["kills"] < number:
        runner = RUNNERS[counts["runs"] % len(RUNNERS)]
        victim = Victim(folder / f"r{counts['runs']}", folder / f"t{counts['runs']}", runner)
        victim.temp.mkdir(parents=True)
        if runner not in whole_s:  # how long it takes when nobody kills it
            began = time.monotonic()
            wrong += make_whole(victim, counts)
            whole_s[runner] = time.monotonic() - began
            continue
        for _ in range(min(KILLS_A_RUN, number - counts["kills"])):
            after_s, killed = chance.uniform(0.0, whole_s[runner]), counts["kills"]
            wrong += [f"{runner} killed after {after_s:.2f} s: {x}" for x in kill_once(victim, after_s, counts)]
            if counts["kills"] == killed:  # it was whole by then
                break
        wrong += [f"{runner} gone on with: {x}" for x in make_whole(victim, counts)]
        print(dict(counts), *wrong, sep="\n", flush=True)
    return counts, wrong
