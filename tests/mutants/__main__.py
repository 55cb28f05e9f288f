"""Try every mutant: ``python -m tests.mutants [--results FILE] [--only WORD]``.

Each is put into a copy of the package, and the tests of its file run in a fork of a process that has imported torch
and pytest and nothing of this project. The first failure ends a fork. Exit code 1 if a mutant survives that is not
expected to, or one does not that is.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 180.0
PRELOAD = ("torch", "torch._dynamo", "torch._inductor.compile_fx", "pytest", "bitsandbytes.functional")


def main() -> int:
    """Run the campaign."""
    table = runpy_table()
    arguments = argparse.ArgumentParser(prog="python -m tests.mutants")
    arguments.add_argument("--results", type=Path, help="write what was found to this file")
    arguments.add_argument("--resume", action="store_true", help="go on with the mutants that FILE does not have yet")
    arguments.add_argument("--only", default="", help="only mutants whose file or bug has this in it")
    options = arguments.parse_args()
    chosen = [mutant for mutant in table["MUTANTS"] if options.only in f"{mutant.file}: {mutant.bug}"]
    rows: list[dict[str, Any]] = []
    if options.resume and options.results.exists():
        rows = json.loads(options.results.read_text(encoding="utf-8"))["mutants"]
    done = {(row["file"], row["bug"]) for row in rows}
    chosen = [mutant for mutant in chosen if (mutant.file, mutant.bug) not in done]
    for name in PRELOAD:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for file in dict.fromkeys(mutant.file for mutant in chosen):
        code, said, seconds = attempt(file, (), table["TESTS"][file])
        print(f"{file}: unchanged: {'passes' if code == 0 else 'FAILS'} in {seconds:.0f} s", flush=True)
        if code != 0:
            print(said)
            return 3
    for mutant in chosen:
        code, said, seconds = attempt(mutant.file, mutant.swaps, table["TESTS"][mutant.file])
        caught = code not in (0, 3)
        by = next((line.split(" - ")[0].removeprefix("FAILED ") for line in said.splitlines()
                   if line.startswith(("FAILED", "ERROR"))), "no end" if code == -1 else "")  # fmt: skip
        if code == 3:
            raise SystemExit(f"{mutant.file}: {mutant.bug}: {said}")
        unexpected = caught == bool(mutant.survives)
        word = ("caught" if caught else "survived") + (" (not expected)" if unexpected else "")
        print(f"{mutant.file}: {mutant.bug}: {word} in {seconds:.0f} s {by}", flush=True)
        rows.append({"file": mutant.file, "bug": mutant.bug, "caught": caught, "by": by, "seconds": round(seconds, 1),
                     **({"reason": mutant.survives} if mutant.survives else {})})  # fmt: skip
        if options.results:
            write(options.results, rows)
    caught_count = sum(row["caught"] for row in rows)
    print(f"{caught_count} of {len(rows)} caught")
    return 1 if any(row["caught"] == ("reason" in row) for row in rows) else 0


def runpy_table() -> dict[str, Any]:
    """Read the table without leaving modules of the project behind, which forks would inherit."""
    import runpy

    return runpy.run_path(str(ROOT / "tests" / "mutants" / "table.py"), run_name="mutants_table")


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Keep the results with date and packages."""
    packages = {}
    for name in ("torch", "bitsandbytes", "hypothesis"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"date": time.strftime("%Y-%m-%d"), "packages": packages}
    path.write_text(json.dumps({**about, "mutants": rows}, indent=1) + "\n", encoding="utf-8")


def attempt(file: str, swaps: tuple[tuple[str, str], ...], tests: tuple[str, ...]) -> tuple[int, str, float]:
    """Return pytest's exit code (-1: no end), what it said and the seconds it took."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder)
        shutil.copytree(ROOT / "repros", copy / "repros", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "tests", copy / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "fixtures", "matrix.yaml"):
            (copy / name).symlink_to(ROOT / name)
        path = copy / "repros" / "reference" / f"{file}.py"
        text = path.read_text(encoding="utf-8")
        for search, replace in swaps:
            if text.count(search) != 1:
                return 3, f"`{search}` occurs {text.count(search)} times in {file}.py", 0.0
            text = text.replace(search, replace)
        path.write_text(text, encoding="utf-8")
        said = copy / "said"
        pid = os.fork()
        if pid == 0:
            child(copy, said, tests)
        code = wait(pid)
        return code, said.read_text(encoding="utf-8", errors="replace"), time.monotonic() - began


def child(copy: Path, said: Path, tests: tuple[str, ...]) -> None:
    """Run the tests of a copy; does not return."""
    os.setsid()
    code = 3
    try:
        out = os.open(said, os.O_WRONLY | os.O_CREAT)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.chdir(copy)
        for name in [name for name in sys.modules if name.partition(".")[0] in ("repros", "tests")]:
            del sys.modules[name]
        sys.path[:] = [str(copy), *(p for p in sys.path if p not in ("", str(ROOT)))]
        sys.dont_write_bytecode = True
        import pytest

        paths = [f"tests/{test}" for test in tests]
        plugins = ["-p", "no:cacheprovider", "-p", "no:xdist", "--benchmark-disable"]
        # Graphs take a minute to compile; what a mutant changes shows in eager mode too.
        quick = ["-k", "not compiled and not inductor"]
        code = int(pytest.main(["-x", "-q", "--tb", "line", *quick, *plugins, *paths]))
        import repros

        if not str(repros.__file__).startswith(str(copy)):
            print(f"the tests ran against {repros.__file__}")
            code = 3
        # 2 is an interrupted collection, which a mutant that cannot be imported makes: noticed too.
    except BaseException:  # noqa: BLE001 - a fork must end here, whatever happens
        traceback.print_exc()
        code = 3
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int) -> int:
    """Return a child's exit code, -1 where it had to be ended, 1 where a signal ended it."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -1


if __name__ == "__main__":
    sys.exit(main())
