"""Gather on a connected machine every wheel that a machine without a network needs for its cells.

``nox -s gpu -- --wheelhouse DIR`` builds the cells from such a folder and asks no index.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import subprocess
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename

from repros import ROOT
from repros.cells.locks import choose_build, committed_lock, resolve_here
from repros.cells.matrix import Cell
from repros.cells.uv import Uv, pip_commands, tail
from repros.errors import EnvError, UserError
from repros.files import Folder

#: What starts a run on the other machine; the rest of it is the dependency group `run` of pyproject.toml.
RUNNER = ("nox>=2025.2.9", "uv>=0.5")
#: pip takes a platform to the letter, so every glibc that a wheel may name is named.
PLATFORMS = (*(f"manylinux_2_{minor}" for minor in range(5, 40)), "manylinux2014", "manylinux2010", "manylinux1")

_NATIVE = re.compile(r"libbitsandbytes_(?P<kind>[a-z]+\d*)[^/]*\.(so|dll|dylib)$")


def gather(
    cells: Iterable[Cell],
    out: Path,
    *,
    python: str,
    machine: str = "x86_64",
    slim: str = "",
    force: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Download the wheels of the cells and of the runner for Linux on ``machine`` and a Python such as ``3.12``.

    ``slim`` names the one CUDA whose library is kept of each bitsandbytes wheel, such as ``cuda130``. Returns the
    wheels. Raises UserError for a ``slim`` that no wheel has, EnvError where a wheel cannot be had.
    """
    with Folder(out, "wheelhouse", force=force, prune=True) as house:
        for name in house.made():  # pip does not fetch again what lies there
            with contextlib.suppress(OSError):  # not every file system has hard links
                (house.staging / name).hardlink_to(house.path / name)
        wheels = _gather(cells, house.staging, python, machine, slim, say)
    return [house.path / wheel.name for wheel in wheels]


def _gather(
    cells: Iterable[Cell], out: Path, python: str, machine: str, slim: str, say: Callable[[str], None]
) -> list[Path]:
    uv = Uv.find()
    for cell in cells:
        build = choose_build(uv, cell, "default")
        lock = committed_lock(cell, ROOT, build.flavour) or resolve_here(uv, cell, ROOT, build)
        say(f"{cell.name}: {lock.origin}")
        with tempfile.TemporaryDirectory() as scratch:
            requirements = Path(scratch, "lock.txt")
            requirements.write_text("\n".join(_for_target(lock.text, python, machine)) + "\n", encoding="utf-8")
            _download(["--no-deps", "--requirement", str(requirements)], out, python, machine, cell.name)
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    say("the runner")
    _download([*RUNNER, *groups["run"]], out, python, machine, "the runner")
    for wheel in sorted(out.glob("bitsandbytes-*.whl")) if slim else []:
        made = slimmed(wheel, slim)
        say(f"{made.name}: {made.stat().st_size / 2**20:.1f} MiB")
    return sorted(out.glob("*.whl"))


def _for_target(lock: str, python: str, machine: str) -> Iterator[str]:
    """Yield the requirements of a lock that hold on the other machine; pip would ask this one's markers."""
    there = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": machine,
    }
    for line in lock.splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate(there):
                requirement.marker = None
                yield str(requirement)


def _download(what: Sequence[str], out: Path, python: str, machine: str, label: str) -> None:
    tags = [word for platform in PLATFORMS for word in ("--platform", f"{platform}_{machine}")]
    shape = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, *tags]
    pip = next((command for command in pip_commands() if _starts(command)), None)
    if pip is None:
        raise EnvError("error", "pip: not found", "install pip beside this interpreter: it downloads the wheels")
    command = [*pip, "download", "--quiet", "--disable-pip-version-check", "--dest", str(out), *shape, *what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = words[-1].removeprefix("ERROR: ") if words else tail(done.stderr)
        raise EnvError("error", f"{label}: pip: {reason}", "check the network, the index and `--python`")


def _starts(command: Sequence[str]) -> bool:
    try:
        return subprocess.run([*command, "--version"], capture_output=True, timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def slimmed(wheel: Path, kind: str) -> Path:
    """Replace a bitsandbytes wheel by one with the CPU library and that of one CUDA; return the new file.

    The new file says so in its build tag, so that nobody takes it for the released one.
    """
    _, version, build, _ = parse_wheel_filename(wheel.name)
    if build:
        return wheel  # slimmed before
    with zipfile.ZipFile(wheel) as source:
        kinds = {m["kind"] for m in map(_NATIVE.search, source.namelist()) if m}
        if kind not in kinds:
            has = ", ".join(sorted(kinds - {"cpu"}))
            raise UserError(f"--slim {kind}: {wheel.name} has no library of that name", f"it has {has}")
        made = wheel.with_name(
            wheel.name.replace(f"{version}-", f"{version}-0slim.{kind}-", 1).replace(".cuda", "cuda")
        )
        info = next(n for n in source.namelist() if n.endswith(".dist-info/RECORD"))
        rows = []
        made.unlink(missing_ok=True)  # it may be a link to one that is in use
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as target:
            for entry in source.infolist():
                native = _NATIVE.search(entry.filename)
                if entry.filename == info or (native and native["kind"] not in (kind, "cpu")):
                    continue
                content = source.read(entry)
                target.writestr(entry, content, zipfile.ZIP_DEFLATED)
                digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                rows.append(f"{entry.filename},sha256={digest},{len(content)}")
            target.writestr(info, "\n".join([*rows, f"{info},,"]) + "\n")
    wheel.unlink()
    return made
