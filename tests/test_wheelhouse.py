"""A wheelhouse holds what the other machine needs, and a slim wheel still installs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from repros.cells import wheelhouse
from repros.errors import UserError

NAME = "bitsandbytes-1.2.3-py3-none-any.whl"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """Return a wheel with libraries for two CUDAs and the CPU."""
    path = tmp_path / NAME
    libraries = ["libbitsandbytes_cpu.so", "libbitsandbytes_cuda118.so", "libbitsandbytes_cuda130.so"]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bitsandbytes/__init__.py", "there = 1\n")
        for name in libraries:
            archive.writestr(f"bitsandbytes/{name}", name)
        info = "bitsandbytes-1.2.3.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: bitsandbytes\nVersion: 1.2.3\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def test_a_slim_wheel_keeps_one_cuda_and_the_cpu(wheel: Path, tmp_path: Path) -> None:
    made = wheelhouse.slimmed(wheel, "cuda130")
    assert made.name == "bitsandbytes-1.2.3-0slimcuda130-py3-none-any.whl"
    assert not wheel.exists()
    assert wheelhouse.slimmed(made, "cuda130") == made
    target = tmp_path / "site"
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "--no-index",
        "--no-deps",
        "--quiet",
        "--target",
        str(target),
    ]
    try:
        subprocess.run([*command, str(made)], check=True, capture_output=True)
    except subprocess.CalledProcessError:
        command = ["uv", *command[3:]]
        subprocess.run([*command, str(made)], check=True, capture_output=True)
    names = {path.name for path in (target / "bitsandbytes").iterdir()}
    assert names == {"__init__.py", "libbitsandbytes_cpu.so", "libbitsandbytes_cuda130.so"}


def test_a_cuda_that_no_wheel_has_is_an_error(wheel: Path) -> None:
    with pytest.raises(UserError) as caught:
        wheelhouse.slimmed(wheel, "cuda999")
    assert str(caught.value) == (f"--slim cuda999: {NAME} has no library of that name\nhint: it has cuda118, cuda130")
    assert wheel.exists()


def test_markers_are_the_other_machines() -> None:
    lock = (
        "# a comment\n"
        "numpy==1 ; python_full_version < '3.12'\n"
        "numpy==2 ; python_full_version >= '3.12'\n"
        "only==1 ; sys_platform == 'win32'\n"
        "arm==1 ; platform_machine == 'aarch64'\n"
        "always==3\n"
    )
    assert list(wheelhouse._for_target(lock, "3.12", "x86_64")) == ["numpy==2", "always==3"]
    assert list(wheelhouse._for_target(lock, "3.11", "aarch64")) == ["numpy==1", "arm==1", "always==3"]
