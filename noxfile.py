# /// script
# dependencies = ["nox", "pyyaml"]
# ///
"""Sessions only. Cells and tiers come from matrix.yaml; the work is done by pytest and `python -m repros`."""

from __future__ import annotations

import os
import time
from pathlib import Path

import nox
import yaml

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["tests"]

HERE = Path(__file__).parent
CELLS = yaml.safe_load((HERE / "matrix.yaml").read_text(encoding="utf-8"))["cells"]
STAMP = time.strftime("%Y%m%d-%H%M%S")


def cells(tier: str) -> list[str]:
    """Return the names of a tier's cells."""
    return [cell["name"] for cell in CELLS if tier in cell["tiers"]]


def group(session: nox.Session, *names: str) -> None:
    """Install dependency groups of pyproject.toml."""
    session.install(*nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), *names))


def trials(session: nox.Session, tier: str, cell: str) -> None:
    """Try every case in one cell; all cells of one invocation share a run, which `summary` prints at the end."""
    group(session, "run")
    arguments = list(session.posargs)
    if not {"--run", "--resume", "--reports"} & set(arguments):
        arguments += ["--run", str(HERE / "reports" / "runs" / f"{STAMP}-{tier}")]
    if "--run" in arguments:
        os.environ["REPROS_RUN"] = arguments[arguments.index("--run") + 1]
    command = ["pytest", "-p", "repros.pytest_plugin", "-q", "--no-header", "--cell", cell, *arguments, "repros/cases"]
    session.run(*command, env={"PYTHONPATH": str(HERE)}, success_codes=[0, 5])
    session.notify("summary")


@nox.session
@nox.parametrize("cell", cells("cpu"))
def cpu(session: nox.Session, cell: str) -> None:
    """Try every case in the cells that need no GPU: the main job."""
    trials(session, "cpu", cell)


@nox.session
@nox.parametrize("cell", cells("smoke"))
def smoke(session: nox.Session, cell: str) -> None:
    """Try every case in two cells: what CI does."""
    trials(session, "smoke", cell)


@nox.session
@nox.parametrize("cell", cells("full"))
def full(session: nox.Session, cell: str) -> None:
    """Try every case in the CPU cells and under further torch releases (5 GB each)."""
    trials(session, "full", cell)


@nox.session
def summary(session: nox.Session) -> None:
    """Print the verdicts and standings of the run that was just made (or the newest)."""
    group(session, "run")
    run = [os.environ["REPROS_RUN"]] if "REPROS_RUN" in os.environ else []
    session.run("python", "-m", "repros", "report", *run, success_codes=[0, 1])


def borrow_cell(session: nox.Session) -> None:
    """Lay the newest smoke cell's packages beside the session's tools, for the tests to import."""
    find = ["python", "-m", "repros", "env", "--quiet", "--cell", cells("smoke")[-1]]
    python = str(session.run(*find, silent=True, stderr=None)).strip().splitlines()[-1]
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    theirs = str(session.run(python, "-c", where, silent=True, external=True)).strip()
    ours = str(session.run("python", "-c", where, silent=True)).strip()
    (Path(ours) / "cell.pth").write_text(theirs + "\n", encoding="utf-8")


@nox.session
def tests(session: nox.Session) -> None:
    """Try the project itself: lint, types, tests."""
    group(session, "test", "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    borrow_cell(session)
    session.run("mypy")
    session.run("pytest", "--benchmark-skip", *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session
def bench(session: nox.Session) -> None:
    """Measure what the suite itself costs."""
    group(session, "test")
    kept = HERE / "reports" / "runs" / "benchmarks.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    borrow_cell(session)
    command = ["pytest", "tests/benchmarks", "--benchmark-only", f"--benchmark-json={kept}"]
    session.run(*command, *session.posargs, env={"OMP_NUM_THREADS": "1"})
