"""bitsandbytes' own tests, over its kernels and over the reference in their place: the oracle tried by its peer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from repros import ROOT
from repros.cells import overlay
from repros.cells.envs import Environment
from repros.errors import UserError
from repros.machine.git import git
from repros.machine.workdir import WorkFolder

#: What is tried of upstream's tests: the files that reach the operators. Compiled ones open the operators, and are left
#: out by name.
FILES = ("autograd", "functional", "linear4bit", "linear8bitlt", "ops", "parametrize")
LEFT_OUT = "not compile"
NEEDS = ("pytest", "einops")
#: Of each process of tests; as many go side by side as there are cores for.
THREADS = 2
#: Whose kernels, in the order in which they are tried.
KERNELS = ("installed", "reference", "spoiled")
TIMEOUT_S = 3600.0
#: What a file of upstream's tests is, to pytest.
_PARTS = ("tests", "pyproject.toml")


@dataclass(frozen=True)
class Peer:
    """A clone that stands at a released tag."""

    path: Path
    release: str
    commit: str


def peer(path: Path) -> Peer:
    """Return the clone in a folder; UserError unless it stands at a tag, with nothing changed."""
    commit = git(path, "rev-parse", "HEAD").strip()
    tags = git(path, "tag", "--points-at", "HEAD").split()
    if not tags:
        raise UserError(f"{path}: {commit[:10]} has no tag", "check out a release, such as `git checkout 0.50.1`")
    if changed := git(path, "status", "--porcelain", "--", *_PARTS).splitlines():
        raise UserError(f"{path}: {changed[0].strip()}: its tests are not those of {tags[0]}", "stash what was changed")
    return Peer(path, tags[0].removeprefix("v"), commit)


def tried(clone: Peer, environment: Environment, device: str, files: Sequence[str] = FILES) -> dict[str, Any]:
    """Run its tests in a cell over each of `KERNELS`, and return what came of it, as it is kept in a file."""
    began = time.monotonic()
    extra = overlay.lay(environment, NEEDS, "what its tests need")
    jobs = [(kernels, file) for file in files for kernels in KERNELS]
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // THREADS)) as pool:
        found = list(pool.map(lambda job: _run(clone, environment, extra, device, *job), jobs))
    of = {
        kernels: [one for (whose, _), one in zip(jobs, found, strict=True) if whose == kernels] for kernels in KERNELS
    }
    installed, reference, spoiled = ({k: v for one in of[name] for k, v in one["outcomes"].items()} for name in KERNELS)
    names = sorted(installed.keys() | reference.keys())
    both = {name: (installed.get(name, "missing"), reference.get(name, "missing")) for name in names}
    passed = [name for name in reference if reference[name] == "passed"]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "release": clone.release,
        "commit": clone.commit,
        "cell": environment.cell.label,
        "device": device,
        "packages": found[0]["packages"],
        "files": list(files),
        "left_out": LEFT_OUT,
        "seconds": round(time.monotonic() - began, 1),
        "outcomes": dict(sorted(Counter(f"{one}, {other}" for one, other in both.values()).items())),
        "differ": [
            {"test": name, "installed": one, "reference": other}
            for name, (one, other) in both.items()
            if one != other
        ],
        "calls": dict(sum((Counter(one["calls"]) for one in of["reference"]), Counter())),
        "spoiled": {"tests": len(passed), "failed": sum(spoiled.get(name) == "failed" for name in passed)},
    }  # fmt: skip


def _run(
    clone: Peer, environment: Environment, extra: Path | None, device: str, kernels: str, file: str
) -> dict[str, Any]:
    """Run the tests once, in a copy: beside the clone's package they would import it, which has no library."""
    folder = WorkFolder("peer")
    try:
        for part in _PARTS:
            source = clone.path / part
            if source.is_dir():
                shutil.copytree(source, folder.path / part)
            elif source.exists():
                shutil.copy(source, folder.path / part)
        found, log = folder.path / "found.json", folder.path / "log"
        request = {"kernels": kernels, "device": device, "found": str(found)}
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST_"))},
            "PYTHONPATH": os.pathsep.join(map(str, filter(None, [extra, ROOT]))),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": str(THREADS),
            "BNB_TEST_DEVICE": device,
            "REPROS_PEER": json.dumps(request),
        }
        command = [
            *(str(environment.python), "-m", "pytest", "-p", "repros.worker.peer", "-p", "no:cacheprovider", "-q"),
            *("-k", LEFT_OUT, f"tests/test_{file}.py"),
        ]
        with log.open("wb") as out:
            try:
                subprocess.run(command, cwd=folder.path, env=environ, stdout=out, stderr=out, timeout=TIMEOUT_S)
            except subprocess.TimeoutExpired:
                raise UserError(
                    f"peer: no end after {TIMEOUT_S:g} s of test_{file}.py over {kernels} kernels", "try fewer files"
                ) from None
        read: dict[str, Any] = json.loads(found.read_text(encoding="utf-8")) if found.exists() else {}
        if not read.get("outcomes"):
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            what, hint = (
                ("no test ran", "name files that the release has")
                if read
                else ("the tests came to no end", "run them by hand")
            )
            raise UserError(f"peer: {clone.path}: {what}: {' '.join(last)}", hint)
        return read
    finally:
        folder.close()


def told(found: dict[str, Any]) -> list[str]:
    """Return what was found, a line each."""
    spoiled = found["spoiled"]
    lines = [f"{count:,} tests: {pair.replace(', ', ' over its own kernels, ')} over the reference"
             for pair, count in found["outcomes"].items()]  # fmt: skip
    calls = ", ".join(f"{name} {count:,}" for name, count in sorted(found["calls"].items()))
    lines.append(f"{sum(found['calls'].values()):,} calls reached the reference ({calls})")
    lines.append(f"with every scale spoiled {spoiled['failed']:,} of {spoiled['tests']:,} fail")
    return lines + [f"differs: {one['test']}: {one['installed']}, {one['reference']}" for one in found["differ"]]


def holds(found: dict[str, Any]) -> bool:
    """Return whether the reference was reached, no test tells it from the kernels, and a spoiled one is noticed."""
    return not found["differ"] and bool(found["calls"]) and found["spoiled"]["failed"] > 0
