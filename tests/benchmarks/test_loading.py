"""The streaming loader beside transformers' own, in the oldest and the newest cell: time and peak in one run."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from pathlib import Path
from typing import Any

import pytest

from repros import ROOT
from repros.cells.envs import EnvError, ensure
from repros.cells.matrix import load_matrix
from repros.reference.checkpoint import list_entries
from repros.worker.checkpoints import ensure as checkpoint
from tests.benchmarks.load_once import ALLOWANCE_BYTES

RECIPE = "smollm2-135m-2l"
ROUNDS = 3
CELLS = [load_matrix(ROOT / "matrix.yaml").tier("cpu")[at] for at in (0, -1)]


def once(python: Path, how: str, folder: str) -> dict[str, float]:
    """Load in a new process of a cell."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [str(python), "-m", "tests.benchmarks.load_once", how, folder]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: str(cell.name))
def test_loading_beside_transformers(benchmark: Any, cell: Any) -> None:
    """Both loads in turn, each in a process of its own; medians."""
    try:
        python = ensure(cell, root=ROOT).python
    except EnvError as error:
        pytest.skip(error.what)
    folder = str(checkpoint(RECIPE))
    taken: dict[str, list[dict[str, float]]] = {"transformers": [], "reference": []}
    for _ in range(ROUNDS):
        for how, found in taken.items():
            found.append(once(python, how, folder))
    medians: dict[str, dict[str, float]] = {
        how: {key: statistics.median(one[key] for one in found) for key in found[0]} for how, found in taken.items()
    }
    for how, figures in medians.items():
        benchmark.extra_info[f"{cell.name}: load by {how} (s)"] = figures["seconds"]
        peak, final = (figures[key] / (1 << 20) for key in ("peak_bytes", "final_bytes"))
        benchmark.extra_info[f"{cell.name}: load by {how}, peak and kept"] = f"{peak:.1f} MiB, {final:.1f} MiB"
    largest = max(list_entries(folder), key=lambda entry: entry.nbytes)
    # The bound that the loader states; quantization in plain torch takes some 32 bytes for each element of a part.
    limit = max(ALLOWANCE_BYTES, largest.nbytes) + 32 * min(1 << 20, largest.nbytes // largest.dtype.itemsize)
    assert medians["reference"]["peak_bytes"] <= medians["reference"]["final_bytes"] + limit
    benchmark.pedantic(once, args=(python, "reference", folder), rounds=1)
