"""Bytecode is lent where the source is the same file, and only there; Python takes it; what is false is told."""

from __future__ import annotations

import os
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest

from repros.cells import bytecode
from repros.cells.bytecode import false_bytecode, lend
from repros.cells.integrity import FINGERPRINT, seal, true_bytecode


def environment(envs: Path, name: str) -> Path:
    site = envs / name / "lib" / "python3.11" / "site-packages"
    site.mkdir(parents=True)
    return site


def test_only_what_is_shared_is_lent(tmp_path: Path) -> None:
    envs = tmp_path / "envs"
    old, new = environment(envs, "cell-0123456789ab"), environment(envs, ".staging/cell-ba9876543210~1")
    for name in ("shared", "changed", "gone", "spoilt", "late"):
        (old / f"{name}.py").write_text(f"WHO = '{name}, old'\n")
        if name == "late":
            seal(envs / "cell-0123456789ab")  # what is compiled after that, nobody has compared with its source
        py_compile.compile(str(old / f"{name}.py"))
    for name in ("spoilt", "late"):
        os.link(old / f"{name}.py", new / f"{name}.py")
    with next((old / "__pycache__").glob("spoilt.*")).open("ab") as file:
        file.write(b"x")
    os.link(old / "shared.py", new / "shared.py")
    (new / "changed.py").write_text("WHO = 'changed, new'\n")
    assert lend(envs, envs / ".staging" / "cell-ba9876543210~1", true_bytecode, FINGERPRINT) == 1
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
    assert lend(tmp_path / "envs", to.parents[2], true_bytecode, FINGERPRINT) == 0
    assert lend(tmp_path / "nowhere", to.parents[2], true_bytecode, FINGERPRINT) == 0


def test_false_bytecode_is_told_from_true_among_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bytecode, "_AT_ONCE", 2)  # several interpreters share the work
    site = environment(tmp_path, "cell")
    paths = []
    for number in range(9):
        source = site / f"module{number}.py"
        source.write_text(f"def f(x: int = {number}) -> frozenset[int]:\n    return frozenset({{1, 2, x}})\n")
        paths.append(str(Path(py_compile.compile(str(source)) or "").relative_to(tmp_path)))
    (site / "module4.py").write_text("raise SystemExit\n")
    (tmp_path / paths[7]).write_bytes(b"")
    assert sorted(false_bytecode(tmp_path, Path(sys.executable), paths)) == [paths[4], paths[7]]
    assert false_bytecode(tmp_path, Path("/bin/false"), paths[:2]) == paths[:2], "who cannot compare lets none pass"
