"""Trials that only sleep, for as long as real ones took, over 1 to 16 workers: what a cluster costs a trial.

    python -m tests.benchmarks.scaling --tool dask --workers 16 8 4 --to dask.json
    python -m tests.benchmarks.scaling --tool xdist --workers 16 8 4 --to xdist.json
    python -m tests.benchmarks.scaling --table reports/cpu/scaling.json

prints the table of `repros/cluster/README.md`, from both of them in one list.

The durations are those of committed evidence, in an order shuffled once. The same ones are slept by pytest-xdist. Each
row is a measurement; for a number of workers that was not measured, the table says what the durations alone allow.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repros.cluster.crew import Crew
from repros.cluster.worker import Answer
from repros.run import results, shards

ALL = (1, 2, 4, 8, 16)
TEST = """
import json, time, pytest
@pytest.mark.parametrize("seconds", json.load(open({path!r})))
def test_sleeps(seconds):
    time.sleep(seconds)
"""


@dataclass(frozen=True)
class Sleep:
    """A trial that takes so many seconds of a worker and no core."""

    seconds: float
    where: str = "anywhere"


def sleep(order: Sleep) -> Answer:
    """Sleep."""
    time.sleep(order.seconds)
    return Answer(order.seconds)


def durations(trials: int) -> list[float]:
    """Return what so many trials take, from committed evidence: all of it again and again, shuffled."""
    took = list(shards.recorded(results.load(results.REPORTS / "cpu")[0]).values())
    found = (took * (trials // len(took) + 1))[:trials]
    random.Random(0).shuffle(found)
    return found


def on_dask(workers: int, seconds: list[float]) -> float:
    """Return how long a local cluster of so many workers takes to its last answer, its start included."""
    began = time.monotonic()
    crew = Crew(None, workers, lambda text: None)
    try:
        sent = [crew.submit(sleep, Sleep(one), "sleep", {}) for one in seconds]
        assert sum(1 for _ in as_completed(sent)) == len(seconds)
        return time.monotonic() - began
    finally:
        crew.close()


def on_xdist(workers: int, seconds: list[float]) -> float:
    """Return how long pytest takes with so many workers of pytest-xdist, its start and collection included."""
    with tempfile.TemporaryDirectory() as folder:
        data, test = Path(folder) / "seconds.json", Path(folder) / "test_sleeps.py"
        data.write_text(json.dumps(seconds))
        test.write_text(TEST.format(path=str(data)))
        command = [sys.executable, "-m", "pytest", "-q", "-n", str(workers), "-p", "no:cacheprovider", str(test)]
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)
        return time.monotonic() - began


def longest(workers: int, seconds: list[float]) -> float:
    """Return how long they take where nothing costs anything and each free worker takes the next."""
    free = [0.0] * workers
    for one in seconds:
        at = free.index(min(free))
        free[at] += one
    return max(free)


def table(path: Path) -> str:
    """Return measurements as Markdown, a row a number of workers; of a list of what `--to` writes, one a tool."""
    read = json.loads(path.read_text())
    dask, trials = read[0], read[0]["trials"]
    fewest = min(map(int, dask["took"]))
    rows = [
        "| workers | durations alone | dask | overhead a trial | pytest-xdist | overhead a trial | |",
        "|---|---|---|---|---|---|---|",
    ]
    for workers in ALL:
        alone, cells, word = dask["alone"][str(workers)], [], "measured"
        for one in read:
            took = one["took"].get(str(workers))
            if took is None:  # what so few workers pay beyond the durations is taken from the fewest that were measured
                word = f"extrapolated from {fewest}"
                took = alone + (one["took"][str(fewest)] - one["alone"][str(fewest)]) * fewest / workers
            # So many workers share the overhead, each of them has a part of the trials.
            cells += [f"{took:.1f} s", f"{(took - alone) * workers / trials * 1000:.0f} ms"]
        rows.append(f"| {workers} | {alone:.1f} s | {' | '.join(cells)} | {word} |")
    head = (
        f"{trials} trials that sleep, {dask['sum']:.0f} s in all, {dask['median']:.2f} s the median, on "
        f"{dask['cores']} cores; from the start of\nthe tool to its last result. Overhead a trial: what a run took "
        "beyond the durations, times its workers, over its trials."
    )
    return "\n".join([head, "", *rows])


def main() -> None:
    """Measure, or make the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=list(ALL))
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--tool", choices=("dask", "xdist"))
    parser.add_argument("--to", type=Path)
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    if arguments.table:
        print(table(arguments.table))
        return
    seconds, measure = durations(arguments.trials), {"dask": on_dask, "xdist": on_xdist}[arguments.tool]
    found: dict[str, Any] = {
        "tool": arguments.tool, "trials": arguments.trials, "cores": os.cpu_count(), "sum": sum(seconds),
        "median": statistics.median(seconds), "alone": {str(w): longest(w, seconds) for w in ALL}, "took": {},
    }  # fmt: skip
    for workers in arguments.workers:
        found["took"][str(workers)] = took_s = measure(workers, seconds)
        print(f"{arguments.tool} over {workers}: {took_s:.1f} s, {longest(workers, seconds):.1f} s by durations")
        arguments.to.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
