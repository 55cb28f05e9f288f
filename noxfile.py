# /// script
# dependencies = ["nox", "pyyaml"]
# ///
"""Sessions only. Cells and tiers come from matrix.yaml; the work is done by pytest and `python -m repros`."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["tests"]

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from repros.cells.matrix import load_matrix  # noqa: E402
from repros.errors import UserError  # noqa: E402
from repros.machine import host  # noqa: E402 - found by the line above
from repros.run import folders  # noqa: E402 - found by the line above

try:
    CELLS = load_matrix(HERE / "matrix.yaml").cells
except UserError as error:
    print(error, file=sys.stderr)
    raise SystemExit(2) from None


def cells(tier: str) -> list[str]:
    """Return the names of a tier's cells."""
    return [cell.name for cell in CELLS if tier in cell.tiers]


def group(session: nox.Session, *names: str) -> None:
    """Install dependency groups of pyproject.toml."""
    session.install(*nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), *names))


@functools.cache
def new_run(tier: str) -> str:
    """Make the folder that the cells of one invocation share."""
    return str(folders.new_run(tier))


#: Tiers that were tried as a whole -> whether a trial failed.
TRIED: dict[str, bool] = {}


def trials(session: nox.Session, tier: str, cell: str, *more: str) -> None:
    """Try every case in one cell, or, where the whole tier is asked for, in all of them at its first.

    In one process a cell's packages are imported while the last arms of the one before it run. The other sessions tell
    how their cells ended, and `summary` prints the run.
    """
    asked = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    whole = tier in asked and not any(word.startswith(("-k", "--keywords", "-t", "--tags")) for word in asked)
    if whole and tier in TRIED:
        ended(session, tier, cell)
        return
    arguments = [*more, *session.posargs]
    if "--wheelhouse" in arguments:
        at = arguments.index("--wheelhouse")
        folder = Path(arguments[at + 1]).absolute()
        os.environ |= {"UV_NO_INDEX": "1", "UV_FIND_LINKS": str(folder), "UV_OFFLINE": "1"}
        del arguments[at : at + 2]
    group(session, "run")
    if not {"--run", "--resume", "--reports", "--dry-run"} & set(arguments):
        arguments += ["--run", new_run(tier)]
    if "--run" in arguments:
        os.environ["REPROS_RUN"] = arguments[arguments.index("--run") + 1]
    how = ["-p", "repros.pytest_plugin", "-q", "--no-header", "--assert=plain"]  # a trial asserts nothing by `assert`
    where = ["--tier", tier] if whole else ["--cell", cell]
    command = ["pytest", *how, *where, *arguments, "repros/cases"]
    # After Ctrl-C it ends its arms and says what it kept and how to go on; nox would kill it after half a second.
    waits = {"interrupt_timeout": 30, "terminate_timeout": 5}
    if "--dry-run" not in arguments:
        session.notify("summary")
    try:
        session.run(*command, env={"PYTHONPATH": str(HERE)}, success_codes=[0, 5], **waits)
        TRIED[tier] = False
    except nox.command.CommandFailed as error:
        if not whole or error.reason != "Returned code 1":
            raise
        TRIED[tier] = True
        ended(session, tier, cell)


def ended(session: nox.Session, tier: str, cell: str) -> None:
    """Tell how a cell of a tier that was tried as a whole ended; fail if a trial of it did."""
    if not TRIED[tier]:
        session.log(f"{cell} was tried with its tier: none of it failed")
        return
    group(session, "run")
    run = [os.environ["REPROS_RUN"]] if "REPROS_RUN" in os.environ else []
    session.run("python", "-m", "repros", "report", *run, "--cell", cell)


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


def on_card(session: nox.Session, tier: str, cell: str, *more: str) -> None:
    """Try a cell of a tier on a GPU; say in two lines what this host lacks for it."""
    lacking = None if "--dry-run" in session.posargs else host.without_gpu(cells(tier))
    if lacking:
        print(lacking, file=sys.stderr)
        raise SystemExit(2)
    trials(session, tier, cell, *more)


@nox.session
@nox.parametrize("cell", cells("gpu"))
def gpu(session: nox.Session, cell: str) -> None:
    """Try every case on a GPU, with the torch that the host has; `-- --wheelhouse DIR` needs no network."""
    on_card(session, "gpu", cell)


@nox.session
@nox.parametrize("cell", cells("gpu_smoke"))
def gpu_smoke(session: nox.Session, cell: str) -> None:
    """Try one trial a report on a GPU, each within 12 GB, in two cells: for a maintainer's CI."""
    on_card(session, "gpu_smoke", cell, "--one-a-report=12")


@nox.session
def summary(session: nox.Session) -> None:
    """Print the verdicts and standings of the run that was just made (or the newest)."""
    group(session, "run")
    run = [os.environ["REPROS_RUN"]] if "REPROS_RUN" in os.environ else []
    session.run("python", "-m", "repros", "report", *run, success_codes=[0, 1])


def borrow_cell(session: nox.Session, cell: str = "") -> None:
    """Lay a cell's packages (the newest smoke cell's) beside the session's tools, for the tests to import."""
    find = ["python", "-m", "repros", "env", "--quiet", "--cell", cell or cells("smoke")[-1]]
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
    session.run("lint-imports", "--no-logo", "--no-cache", env={"PYTHONPATH": str(HERE)})
    borrow_cell(session)
    session.run("mypy")
    # Three at a time on two cores: much of a test's time it waits for processes that wait.
    # In the order of their names: by their number of tests, files of few and long ones would be left for the end.
    beside = ["-n", "3", "--dist", "loadfile", "--no-loadscope-reorder"] if not session.posargs else []
    session.run("pytest", "--benchmark-skip", *beside, *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session
@nox.parametrize("cell", [cells("cpu")[0], cells("cpu")[-1]])
def prove(session: nox.Session, cell: str) -> None:
    """Prove the reference in depth: 10,000 examples a property, in the oldest and the newest cell without a GPU."""
    group(session, "test")
    borrow_cell(session, cell)
    kept = HERE / "reports" / "runs" / "prove" / f"{cell}.json"
    command = ["pytest", "tests/properties", "--hypothesis-profile", "deep", "-q", "--durations", "0"]
    session.run(*command, *session.posargs, env={"OMP_NUM_THREADS": "1", "PROVE_RESULTS": str(kept)})


@nox.session
def hunt(session: nox.Session) -> None:
    """Hunt for departures from the reference; `-- --cell NAME --minutes N --hide-known` go through."""
    group(session, "test")
    arguments = list(session.posargs)
    if "--cell" not in arguments:
        arguments += ["--cell", cells("smoke")[-1]]
    session.run("python", "-m", "repros", "hunt", *arguments)


@nox.session
def peer(session: nox.Session) -> None:
    """Try the reference by bitsandbytes' own tests, in the place of its kernels: `-- --repo PATH`, at a release."""
    group(session, "run")
    session.run("python", "-m", "repros", "peer", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Put each known kind of bug into the reference and see that the tests notice."""
    group(session, "test")
    borrow_cell(session)
    kept = HERE / "reports" / "runs" / "mutants.json"
    session.run("python", "-m", "tests.mutants", "--results", str(kept), *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session
def attack(session: nox.Session) -> None:
    """Give every input damaged data, 3,000 examples a test; kill 200 runs, and 50 workers of a cluster."""
    group(session, "test")
    borrow_cell(session)
    kept = HERE / "reports" / "runs" / "attack.json"
    command = ["pytest", "tests/attack", "--hypothesis-profile", "attack", "-q", "--durations", "5"]
    kills = {"ATTACK_KILLS": "200", "ATTACK_WORKER_KILLS": "50"}
    session.run(*command, *session.posargs, env={"OMP_NUM_THREADS": "1", "ATTACK_RESULTS": str(kept), **kills})


@nox.session
def bench(session: nox.Session) -> None:
    """Measure what the suite itself costs."""
    group(session, "test")
    kept = HERE / "reports" / "runs" / "benchmarks.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    borrow_cell(session)
    command = ["pytest", "tests/benchmarks", "--benchmark-only", f"--benchmark-json={kept}"]
    session.run(*command, *session.posargs, env={"OMP_NUM_THREADS": "1"})
