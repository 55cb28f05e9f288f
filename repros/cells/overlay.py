"""What a script declares that it needs (PEP 723), laid over a cell's environment in a folder of its own.

The cell's own versions stay: a dependency that they satisfy adds nothing, one that they contradict is an EnvError.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import tomllib
import uuid
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from repros.cells.envs import Environment
from repros.cells.uv import Uv
from repros.errors import EnvError, UserError, shortened
from repros.machine.cache import cache_root

CONTRADICTS = "what the script declares contradicts the cell"
#: The block as PEP 723 defines it.
_BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")


def declared(name: str, text: str, python: str) -> tuple[str, ...]:
    """Return the dependencies in a script's metadata; UserError where they cannot be read or rule this Python out."""
    blocks = [found for found in _BLOCK.finditer(text) if found["type"] == "script"]
    if not blocks:
        return ()
    if len(blocks) > 1:
        raise UserError(f"{name}: {len(blocks)} blocks of script metadata", "keep one (PEP 723)")
    lines = blocks[0]["content"].splitlines()
    try:
        table = tomllib.loads("\n".join(line[2:] if line.startswith("# ") else line[1:] for line in lines))
        needs, pythons = table.get("dependencies", []), SpecifierSet(table.get("requires-python", ""))
        found = tuple(str(Requirement(one)) for one in needs)
    except (tomllib.TOMLDecodeError, InvalidRequirement, InvalidSpecifier, TypeError, AttributeError) as error:
        raise UserError(f"{name}: its script metadata: {shortened(str(error), 200)}", "see PEP 723") from None
    if not pythons.contains(python, prereleases=True):
        raise UserError(
            f"{name}: it requires Python {pythons}, the cells have {python}", "start repros with such a one"
        )
    return found


def lay(environment: Environment, dependencies: Sequence[str], name: str) -> Path | None:
    """Return a folder with what the dependencies need beside the environment; None where it has everything."""
    lacking = [one for one in dependencies if not _has(environment, Requirement(one))]
    if not lacking:
        return None
    uv, label = Uv.find(), f"{name} in {environment.cell.label}"
    backend = ("--torch-backend", "cpu") if "pytorch.org" in environment.build else ()
    with tempfile.TemporaryDirectory() as scratch:
        pins = Path(scratch, "pins.txt")
        pins.write_text("".join(f"{one}=={v}\n" for one, v in environment.resolved.items()), encoding="utf-8")
        try:
            text = uv.run(
                *("pip", "compile", "--quiet", "--no-header", "--no-annotate", "--constraints", str(pins), *backend),
                *("--python", str(environment.python), "-"), text="\n".join(lacking) + "\n", label=label,
            )  # fmt: skip
        except EnvError as error:
            if error.kind != "unsupported":
                raise
            what = f"{label}: {CONTRADICTS}: {error.what.partition(': ')[2]}"
            hint = "change its `dependencies`, or take other cells"
            raise EnvError("unsupported", what, hint, error.words) from None
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    new = [line for line in lines if canonicalize_name(re.split(r"[=@ ;\[]", line)[0]) not in environment.resolved]
    return _installed(uv, environment, new, label) if new else None


def _has(environment: Environment, need: Requirement) -> bool:
    """Return whether an environment satisfies a requirement as it is; what an index has of it does not matter then."""
    version = environment.resolved.get(canonicalize_name(need.name))
    if version is None or need.extras or need.url:
        return False
    return need.specifier.contains(version, prereleases=True)


def _installed(uv: Uv, environment: Environment, new: Sequence[str], label: str) -> Path:
    """Install these, without what they require, into a folder that is found again."""
    key = hashlib.sha256("\n".join([environment.path.name, *new]).encode()).hexdigest()[:16]
    folder = cache_root() / "overlays" / key
    if folder.is_dir():
        return folder
    staging = folder.with_name(f"{key}~{uuid.uuid4().hex[:8]}")
    try:
        into = ("--target", str(staging), "--python", str(environment.python))
        uv.run("pip", "install", "--quiet", "--no-deps", *into, *new, label=label)
        if not folder.is_dir():  # another process may have been faster
            staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder
