"""The torch that a host brings: its interpreter, version, CUDA and where it lies, found without importing it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Names the interpreter whose torch is meant, where it is not the one that started this.
CHOSEN = "REPROS_HOST_PYTHON"

_ASK = """
import importlib.metadata, importlib.util, json, pathlib, platform, runpy, site, sysconfig, sys
spec = importlib.util.find_spec("torch")
known = runpy.run_path(str(pathlib.Path(spec.origin).parent / "version.py")) if spec and spec.origin else {}
print(json.dumps({
    "version": known.get("__version__") and str(known["__version__"]), "cuda": known.get("cuda") or "",
    "python_version": f"{sys.implementation.name} {platform.python_version()}",
    "folder": str(pathlib.Path(spec.origin).parent.parent) if spec and spec.origin else "",
}))
"""


@dataclass(frozen=True)
class HostTorch:
    """An interpreter that has torch: ``version`` with its local part, ``cuda`` such as ``13.0`` or empty."""

    python: Path
    version: str
    cuda: str
    python_version: str
    folder: Path
    """The site-packages that torch lies in."""

    @property
    def kernels(self) -> str:
        """Return how bitsandbytes names its library for this CUDA, such as ``cuda130``."""
        return "cuda" + self.cuda.replace(".", "")


def find() -> HostTorch | None:
    """Return the first interpreter with torch: ``$REPROS_HOST_PYTHON``, this one, the one below it, ``python3``."""
    for python in dict.fromkeys(_candidates()):
        found = ask(python)
        if found is not None:
            return found
    return None


def ask(python: str) -> HostTorch | None:
    """Return what an interpreter says of its torch; None where it has none or does not start."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, timeout=60, check=True, env=kept)
        facts = json.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    if not facts["version"]:
        return None
    return HostTorch(
        Path(python).absolute(), facts["version"], facts["cuda"], facts["python_version"], Path(facts["folder"])
    )


def _candidates() -> Iterator[str]:
    if chosen := os.environ.get(CHOSEN):
        yield chosen
        return
    yield sys.executable
    if base := getattr(sys, "_base_executable", None):
        yield str(base)
    for name in ("python3", "python"):
        # A virtual environment that this runs in comes first on the path: look behind it too.
        for folder in os.environ.get("PATH", "").split(os.pathsep):
            if found := shutil.which(name, path=folder):
                yield found
