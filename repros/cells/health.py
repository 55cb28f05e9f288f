"""Ask an interpreter whether it imports the pins, in the versions that were pinned."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from repros.cells.matrix import HOST, PACKAGES
from repros.cells.overrides import is_version, looks_like_path
from repros.cells.uv import tail

_HEALTH_SECONDS = 600


@dataclass(frozen=True)
class Inspection:
    """What an interpreter says of itself: installed versions, or why it could not say."""

    resolved: Mapping[str, str]
    problem: str = ""
    words: str = ""


_INSPECT = """
import importlib, importlib.metadata as metadata, importlib.util, json, sys
def tell(**facts):
    with open(sys.argv[1], "a") as out:
        print(json.dumps(facts), file=out)
for name in sys.argv[2:]:
    if name.endswith("?"):  # what it is imported as is not known
        name = name[:-1]
        if importlib.util.find_spec(name) is None:
            continue
    tell(importing=name)
    try:
        importlib.import_module(name)
    except BaseException as error:
        tell(failed=name, error=f"{type(error).__name__}: {error}")
        raise
found = {}
for d in metadata.distributions():  # in the order of the path: what comes first is what is imported
    if d.metadata["Name"]:
        found.setdefault(d.metadata["Name"].lower().replace("_", "-"), d.version)
tell(resolved=found)
"""


def inspect(python: Path, pins: Mapping[str, str]) -> Inspection:
    """Import every pinned package in `python` and compare versions; return what is wrong, and all that is installed.

    A local version counts as its release: ``2.13.0+cpu`` satisfies ``2.13.0``.
    """
    modules = [package.replace("-", "_") + "?" * (package not in PACKAGES) for package in pins]
    with tempfile.TemporaryDirectory() as scratch:
        told = Path(scratch, "told")
        command = [str(python), "-I", "-c", _INSPECT, str(told), *modules]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                cwd=scratch,
                env={**os.environ, "HF_HUB_OFFLINE": "1"},
                timeout=_HEALTH_SECONDS,
                check=False,
            )
        except OSError as error:
            return Inspection({}, f"its interpreter does not start: {error.strerror}")
        except subprocess.TimeoutExpired:
            return Inspection({}, f"imports did not end within {_HEALTH_SECONDS} s")
        lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    facts: dict[str, Any] = {}
    for line in lines:
        facts |= json.loads(line)
    resolved = {str(canonicalize_name(k)): str(v) for k, v in facts.get("resolved", {}).items()}
    problem = _import_problem(facts, done.returncode) or version_problem(resolved, pins)
    return Inspection(resolved, problem, tail(done.stderr) if problem else "")


def _import_problem(facts: Mapping[str, Any], code: int) -> str:
    if "failed" in facts:
        return f"`import {facts['failed']}` raises {facts['error']}"
    if "resolved" not in facts:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
        return f"its interpreter {how} at `import {facts.get('importing', 'json')}`"
    return ""


def version_problem(resolved: Mapping[str, str], pins: Mapping[str, str]) -> str:
    """Say which pin these versions do not satisfy; "" where all are."""
    for package, pin in pins.items():
        found = resolved.get(canonicalize_name(package))
        if found is None:
            return f"{package} is not installed"
        if not _satisfies(found, pin):
            return f"{package} {found} is installed where {pin} is pinned"
    return ""


def _satisfies(found: str, pin: str) -> bool:
    if looks_like_path(pin) or pin == HOST:
        return True
    if not is_version(pin):
        return SpecifierSet(pin).contains(found, prereleases=True)
    wanted, has = Version(pin), Version(found)
    return has == wanted if wanted.local else has.public == wanted.public
