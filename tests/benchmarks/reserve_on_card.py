"""What torch reserves on a GPU for a model of 7B that the reference loads.

    python -m tests.benchmarks.reserve_on_card

The reference's arm of transformers#44387's ``nf4-7b-cuda`` (or of ``int8-7b-cuda``: give the name) runs in three
processes, one after another, on what the meters of a trial have warmed up. Of each are printed as JSON: bytes allocated
and reserved at the end, peaks of both, reserved over allocated, and seconds of the load; then the medians. With
``--planted`` the planted bug runs in its place.

It needs torch and this repository, and 15 GB of disk for the checkpoint, which is made once (REPROS_CACHE says where).
It uses nothing that is newer than the loader it measures, so it can be laid into an older checkout.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import Any

from repros import ROOT
from repros.cases.transformers.gh44387 import int8, reserved_memory
from repros.worker.checkpoints import ensure

RUNS = 3
CASES = {"nf4-7b-cuda": reserved_memory, "int8-7b-cuda": int8}


def main() -> None:
    """Measure in new processes, or be one of them."""
    options = {word for word in sys.argv[1:] if word.startswith("--")}
    (name,) = [word for word in sys.argv[1:] if not word.startswith("--")] or ["nf4-7b-cuda"]
    condition = CASES[name].CASE.condition(name)
    arm = "planted" if "--planted" in options else "reference"
    if "--once" in options:
        print(json.dumps(measured(getattr(CASES[name], arm), condition)))
        return
    ensure(condition.checkpoint)
    command = [sys.executable, "-m", "tests.benchmarks.reserve_on_card", name, "--once", *options]
    runs = []
    for _ in range(RUNS):
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(runs[-1]), flush=True)
    medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    print(json.dumps({"condition": name, "arm": arm, "median of": RUNS, **medians}))


def measured(arm: Any, condition: Any) -> dict[str, float]:
    """Drive an arm to its end; return figures as the meters of a trial take them, and seconds of its phase ``load``."""
    import torch

    folder = ensure(condition.checkpoint)
    x = torch.ones(64, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    (x @ x).sum().backward()
    steps = arm(condition, folder)
    assert next(steps) == "load"
    del x
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    began = time.perf_counter()
    assert next(steps) == "compare"
    torch.cuda.synchronize()
    seconds, model = time.perf_counter() - began, None
    try:
        next(steps)
    except StopIteration as stop:
        model = stop.value  # alive, as it is when the meters read the end
    found = {
        "allocated_bytes": torch.cuda.memory_allocated() - allocated,
        "reserved_bytes": torch.cuda.memory_reserved() - reserved,
        "peak_allocated_bytes": torch.cuda.max_memory_allocated() - allocated,
        "peak_reserved_bytes": torch.cuda.max_memory_reserved() - reserved,
    }
    del model
    over = found["reserved_bytes"] / found["allocated_bytes"]
    return {**found, "reserved_over_allocated": round(over, 4), "seconds": round(seconds, 3)}


if __name__ == "__main__":
    main()
