"""The folders of runs: how a new one is called, which is the newest. Standard library alone: nox reads it too."""

from __future__ import annotations

import itertools
import re
import time
from contextlib import suppress
from pathlib import Path

from repros import INSTALLED, REPORTS, ROOT
from repros.errors import UserError
from repros.files import check_root

RESULTS = "results.jsonl"
#: How a run's folder is called that was not named by hand: its second, and a number where several began in it.
STAMPED = re.compile(r"(\d{8}-\d{6})-.*?(?:-(\d+))?")


def written_to(root: Path | None = None) -> Path:
    """Return the folder of reports that a command writes into; UserError where it is somebody else's."""
    if root or INSTALLED:
        check_root(root or REPORTS)
    return root or REPORTS


def new_run(name: str, root: Path | None = None) -> Path:
    """Make the folder of a new run and return it: no two runs share one, though they begin in one second."""
    runs = written_to(root) / "runs"
    stamped = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
    try:
        runs.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = runs / (stamped if number == 1 else f"{stamped}-{number}")
            with suppress(FileExistsError):
                folder.mkdir()
                return folder
    except OSError as error:
        raise UserError(
            f"{shown(runs)}: cannot make a run there: {error.strerror}", "name another folder with `--reports DIR`"
        ) from error
    raise AssertionError


def latest_run(root: Path | None = None) -> Path:
    """Return the newest run by its name, for `--resume` and for reports that name none.

    One that was named by hand counts where there is no other: what it was called says nothing of when.
    """
    runs = (root or REPORTS) / "runs"
    found = max((path.parent for path in runs.glob(f"*/{RESULTS}")), key=_age, default=None)
    if found is None:
        raise UserError(f"{shown(runs)}: no run there", "make one: `nox -s cpu`")
    return found


def _age(folder: Path) -> tuple[str, int, str]:
    stamp = STAMPED.fullmatch(folder.name)
    return (stamp[1], int(stamp[2] or 1), folder.name) if stamp else ("", 0, folder.name)


def runs_and_committed(root: Path | None = None) -> list[list[Path]]:
    """Return where to look for a trial: in each run, the newest first, then in what is committed."""
    runs = sorted((path.parent for path in ((root or REPORTS) / "runs").glob(f"*/{RESULTS}")), key=_age, reverse=True)
    found = [*([run] for run in runs), *([kept] if (kept := committed(root)) else [])]
    return found or [[latest_run(root)]]  # which says that there is none


def committed(root: Path | None = None) -> list[Path]:
    """Return the folders of committed evidence."""
    return sorted(path.parent for path in (root or REPORTS).glob(f"*/{RESULTS}"))


def shown(path: Path) -> str:
    """Print a path as the user knows it: from the project's root, or from the folder of its reports, inside either."""
    whole = path.resolve()
    home = next((one for one in (ROOT, REPORTS.parent) if whole.is_relative_to(one)), None)
    return str(whole.relative_to(home) if home else path)
