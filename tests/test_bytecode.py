"""Bytecode is lent where the source is the same file, and only there; Python takes it for its own."""

from __future__ import annotations

import os
import py_compile
import subprocess
import sys
from pathlib import Path

from repros.bytecode import lend


def environment(envs: Path, name: str) -> Path:
    site = envs / name / "lib" / "python3.11" / "site-packages"
    site.mkdir(parents=True)
    return site


def test_only_what_is_shared_is_lent(tmp_path: Path) -> None:
    envs = tmp_path / "envs"
    old, new = environment(envs, "cell-0123456789ab"), environment(envs, ".staging/cell-ba9876543210~1")
    (envs / "cell-0123456789ab" / "env.json").write_text("{}")
    for name in ("shared", "changed", "gone"):
        (old / f"{name}.py").write_text(f"WHO = '{name}, old'\n")
        py_compile.compile(str(old / f"{name}.py"))
    os.link(old / "shared.py", new / "shared.py")
    (new / "changed.py").write_text("WHO = 'changed, new'\n")
    assert lend(envs, envs / ".staging" / "cell-ba9876543210~1") == 1
    (lent,) = (new / "__pycache__").iterdir()
    assert lent.samefile(next((old / "__pycache__").glob("shared.*")))
    code = "import shared, changed; print(shared.WHO, changed.WHO, shared.__file__)"
    said = subprocess.run(
        [sys.executable, "-v", "-c", code], cwd=new, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(new)},
    )  # fmt: skip
    assert said.stdout.split("\n")[0] == f"shared, old changed, new {new / 'shared.py'}"
    assert f"matches {new / 'shared.py'}" in said.stderr


def test_nothing_is_lent_where_there_is_nobody(tmp_path: Path) -> None:
    to = environment(tmp_path / "envs", ".staging/cell-0~1")
    assert lend(tmp_path / "envs", to.parents[2]) == 0
    assert lend(tmp_path / "nowhere", to.parents[2]) == 0
