"""The full list of requirements of a cell: committed where it can be, resolved here otherwise."""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.utils import canonicalize_name
from packaging.version import Version

from repros import files
from repros.cells.matrix import HOST, Cell
from repros.cells.overrides import given_path, is_version, looks_like_path
from repros.cells.uv import Uv
from repros.errors import EnvError, UserError

Flavour = Literal["cpu", "default", "host"]
FLAVOURS: tuple[Flavour, ...] = ("default", "cpu", "host")

LOCKS = Path("fixtures/locks")
OLDEST_PYTHON = "3.11"
MADE_BY = "made by `python -m repros lock`"


@dataclass(frozen=True)
class Build:
    """Which build of torch, and who offers it."""

    flavour: Flavour
    source: str = ""

    def __str__(self) -> str:
        return f"{self.flavour} ({self.source})" if self.source else self.flavour


@dataclass(frozen=True)
class Lock:
    """The text of a requirements file, and whether the repository keeps it."""

    text: str
    committed: bool

    @property
    def digest(self) -> str:
        """Digest of what is installed; comments do not count."""
        return hashlib.sha256("\n".join(_requirement_lines(self.text)).encode()).hexdigest()

    @property
    def origin(self) -> str:
        """Say for people where the lock came from."""
        return "committed lock" if self.committed else "lock not committed, resolved here"


def lock_path(root: Path, cell_name: str, flavour: Flavour) -> Path:
    """Return where the committed lock of a cell lies."""
    return root / LOCKS / f"{cell_name}.{flavour}.txt"


_PYTORCH_ORG = "pytorch.org"


def choose_build(uv: Uv, cell: Cell, flavour: Flavour) -> Build:
    """Take a CPU build of torch where one is wanted and on offer, the default build otherwise."""
    pin = cell.pins.get("torch", "")
    if pin == HOST:
        return Build("host")
    if not is_version(pin):
        return Build("default")
    if local := Version(pin).local:
        return Build("cpu" if local.startswith("cpu") else "default", "as pinned")
    if flavour != "cpu" or sys.platform == "darwin":  # the default build there is a CPU build
        return Build("default")
    return _offered_cpu_build(uv, f"torch=={pin}+cpu") or Build("default")


def _offered_cpu_build(uv: Uv, requirement: str) -> Build | None:
    """Ask the configured indexes and folders, then torch's own index, without long waits."""
    compile_ = ("pip", "compile", "--quiet", "--no-deps", "--only-binary", ":all:")
    shape = ("--no-header", "--emit-index-annotation", "--python", sys.executable, "-")
    found = uv.ask(*compile_, *shape, text=requirement)
    if found is not None:
        origin = re.search(r"#\s+from\s+(\S+)", found)
        return Build("cpu", uv.source_of(origin.group(1) if origin else ""))
    backend = ("--torch-backend", "cpu")
    found = uv.ask(*compile_, *backend, *shape, text=requirement)
    return Build("cpu", _PYTORCH_ORG) if found is not None else None


def write_locks(cells: Sequence[Cell], *, root: Path) -> dict[Path, bool]:
    """Make the committed locks of these cells again; return each path and whether its requirements changed.

    Every CPU cell gets a lock of the default build, and one of the CPU build where that is on
    offer here; a cell around the host's torch gets one without torch and what that requires. All
    are universal over platforms and Pythons. Versions that the matrix does not pin stay as they
    are in the locks that exist, and are the same in all of them where they can be.
    """
    uv = Uv.find()
    (root / LOCKS).mkdir(parents=True, exist_ok=True)
    changed: dict[Path, bool] = {}
    for cell in cells:
        offered = choose_build(uv, cell, "cpu")
        builds = {offered} if offered.flavour == "host" else {Build("default"), offered}
        for build in sorted(builds, key=lambda build: FLAVOURS.index(build.flavour)):
            text = _compile(uv, cell, build, universal=True, prefer=_nearest_lock(root, cell))
            path = lock_path(root, cell.name, build.flavour)
            changed[path] = _write_lock(path, _header(uv, cell, build) + text)
    return changed


def _write_lock(path: Path, text: str) -> bool:
    if (path.exists() or path.is_symlink()) and not _is_ours(path):
        raise UserError(f"{path}: not a lock that `python -m repros lock` made", "move it elsewhere")
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if _requirement_lines(before) == _requirement_lines(text):
        return False
    files.write(path, text)
    return True


def _is_ours(path: Path) -> bool:
    """Return whether a file is a lock of ours (its header says so), or has nothing in it."""
    try:
        with files.open_plain(path) as file:
            head = file.read(4096)
    except OSError:
        return False
    return not head or MADE_BY.encode() in head


def _header(uv: Uv, cell: Cell, build: Build) -> str:
    pins = " ".join(f"{package}=={version}" for package, version in cell.pins.items())
    return (
        f"# cell: {cell.name}\n"
        f"# build of torch: {build.flavour}\n"
        f"# pins: {pins}\n"
        f"# for every platform that has wheels, and Python {OLDEST_PYTHON} or newer\n"
        f"# {MADE_BY} with uv {uv.version}; not to be edited\n"
    )


def committed_lock(cell: Cell, root: Path, flavour: Flavour) -> Lock | None:
    """Return the committed lock, unless an override makes it another experiment.

    Raises EnvError where the lock does not hold the cell's pins.
    """
    path = lock_path(root, cell.name, flavour)
    if cell.overrides or not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    locked = _locked_versions(text)
    for package, pin in cell.pins.items():
        if pin == HOST:
            continue
        found = {Version(v).public for v in locked.get(canonicalize_name(package), ())}
        if found != {pin}:
            has = ", ".join(sorted(found)) or "none"
            what = f"{LOCKS / path.name}: {package} is {has} where the cell pins {pin}"
            hint = "make it again with `python -m repros lock`"
            raise EnvError("error", what, hint)
    return Lock(text, committed=True)


def install_options(cell: Cell, build: Build, scratch: Path) -> list[str]:
    """Return the options that make ``torch==2.13.0`` of a lock mean the build it was made for.

    A local version satisfies a pin on its release and sorts above it, so that without them the
    lock of the default build would install ``2.13.0+cpu`` wherever that is on offer. `scratch`
    is a folder to put a constraint in.
    """
    options = _build_options(cell, build)
    pin = cell.pins.get("torch", "")
    if build.flavour == "default" and is_version(pin) and not Version(pin).local:
        constraint = scratch / "not-cpu.txt"
        constraint.write_text(f"torch!={pin}+cpu\n", encoding="utf-8")
        options += ["--constraints", str(constraint)]
    return options


def _build_options(cell: Cell, build: Build) -> list[str]:
    """Return the options that resolving and installing share.

    A path that was given is built anew: uv by itself keeps what it built from a checkout for as
    long as the project file is the same, whatever happened to the sources.
    """
    options = ["--torch-backend", "cpu"] if build.source == _PYTORCH_ORG else []
    for package, spec in cell.overrides.items():
        if looks_like_path(spec):
            options += ["--refresh-package", package]
    return options


def resolve_here(uv: Uv, cell: Cell, root: Path, build: Build) -> Lock:
    """Resolve for this interpreter, as near to the committed lock of the cell as the pins allow."""
    text = _compile(uv, cell, build, universal=False, prefer=_nearest_lock(root, cell))
    return Lock(text, committed=False)


def _nearest_lock(root: Path, cell: Cell) -> str:
    """Return a committed lock to stay near to: of this cell, else of any."""
    own = [lock_path(root, cell.name, flavour) for flavour in FLAVOURS]
    found = [path for path in (*own, *sorted((root / LOCKS).glob("*.txt"))) if path.is_file()]
    return found[0].read_text(encoding="utf-8") if found else ""


#: A marker that holds nowhere: how a requirement is taken out of a resolution.
_NEVER = "sys_platform == 'never'"


def _compile(uv: Uv, cell: Cell, build: Build, *, universal: bool, prefer: str) -> str:
    """Return the full list of requirements, with the versions of `prefer` wherever they fit."""
    here = ("--python", sys.executable)
    scope = ("--universal", "--python-version", OLDEST_PYTHON) if universal else here
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch, "lock.txt")  # uv prefers the versions that it finds there
        output.write_text(prefer, encoding="utf-8")
        options = list(_build_options(cell, build))
        if build.flavour == "host":  # what requires torch is content with the host's
            never = Path(scratch, "never.txt")
            never.write_text(f"torch; {_NEVER}\n", encoding="utf-8")
            options += ["--overrides", str(never)]
        uv.run(
            *("pip", "compile", "--quiet", "--no-header", "--no-annotate"),
            *("--output-file", str(output), *scope, *options, "-"),
            text="\n".join(_requirements(cell, build)) + "\n",
            label=cell.label,
        )
        lines = output.read_text(encoding="utf-8").splitlines(keepends=True)
        return "".join(line for line in lines if _NEVER not in line)


def _requirements(cell: Cell, build: Build) -> list[str]:
    return [_requirement(package, spec, build) for package, spec in cell.pins.items() if spec != HOST]


def _requirement(package: str, spec: str, build: Build) -> str:
    if looks_like_path(spec):
        return f"{package} @ {given_path(package, spec).as_uri()}"
    if not is_version(spec):
        return f"{package}{spec}"
    if package != "torch" or Version(spec).local:
        return f"{package}=={spec}"
    if build.flavour == "cpu":
        return f"torch=={spec}+cpu"
    return f"torch=={spec},!={spec}+cpu"


def _requirement_lines(lock: str) -> list[str]:
    lines = (line.strip() for line in lock.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _locked_versions(lock: str) -> dict[str, set[str]]:
    versions: dict[str, set[str]] = {}
    for line in _requirement_lines(lock):
        if match := re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", line):
            versions.setdefault(canonicalize_name(match.group(1)), set()).add(match.group(2))
    return versions
