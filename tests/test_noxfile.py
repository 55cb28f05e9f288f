"""What a session of nox runs: a tier as a whole, or one cell of it."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from repros import ROOT
from repros.cells.matrix import load_matrix

CELLS = [cell.name for cell in load_matrix(ROOT / "matrix.yaml").tier("smoke")]


class CommandFailedError(Exception):
    """As nox tells of a command that ended in another way than it may."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NoxSession:
    """A session that notes its commands; ``ends`` gives the exit code of one."""

    def __init__(
        self, ends: Callable[[tuple[str, ...]], int] = lambda command: 0, posargs: tuple[str, ...] = ()
    ) -> None:
        self.posargs, self.ends = list(posargs), ends
        self.commands: list[tuple[str, ...]] = []
        self.said: list[str] = []

    def install(self, *packages: str) -> None:
        """Install nothing."""

    def notify(self, name: str) -> None:
        self.said.append(f"then {name}")

    def log(self, text: str) -> None:
        self.said.append(text)

    def run(self, *command: str, success_codes: tuple[int, ...] = (0,), **how: Any) -> None:
        self.commands.append(command)
        if (code := self.ends(command)) not in success_codes:
            raise CommandFailedError(f"Returned code {code}")


def itself(function: Any) -> Any:
    """Return what is decorated."""
    return function


@pytest.fixture
def noxfile(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Return what loads the file of sessions as `nox ARGUMENTS` does."""

    def load(*arguments: str) -> dict[str, Any]:
        nox = ModuleType("nox")
        vars(nox).update(
            options=SimpleNamespace(), session=itself, parametrize=lambda *what: itself,
            command=SimpleNamespace(CommandFailed=CommandFailedError),
            project=SimpleNamespace(load_toml=lambda path: {}, dependency_groups=lambda toml, *names: []),
        )  # fmt: skip
        monkeypatch.setitem(sys.modules, "nox", nox)
        monkeypatch.setattr(sys, "argv", ["nox", *arguments])
        monkeypatch.setenv("REPROS_RUN", "")
        monkeypatch.syspath_prepend(str(ROOT))
        return runpy.run_path(str(ROOT / "noxfile.py"))

    return load


def test_a_whole_tier_is_tried_at_its_first_cell(noxfile: Callable[..., dict[str, Any]]) -> None:
    smoke = noxfile("-s", "smoke", "--", "-k", "gh1995")["smoke"]
    first, second = NoxSession(posargs=("--run", "r", "-x")), NoxSession(posargs=("--run", "r", "-x"))
    smoke(first, CELLS[0])
    smoke(second, CELLS[1])
    (command,) = first.commands
    assert command[0] == "pytest"
    assert command[-6:] == ("--tier", "smoke", "--run", "r", "-x", "repros/cases")
    assert first.said == ["then summary"]
    assert (second.commands, second.said) == ([], [f"{CELLS[1]} was tried with its tier: none of it failed"])


def test_of_a_tier_that_failed_each_cell_is_judged_by_its_own_trials(noxfile: Callable[..., dict[str, Any]]) -> None:
    smoke = noxfile("-s", "smoke")["smoke"]

    def ends(command: tuple[str, ...]) -> int:
        return int(command[0] == "pytest" or command[-1] == CELLS[1])

    first, second = (NoxSession(ends, posargs=("--run", "r")) for _ in CELLS)
    smoke(first, CELLS[0])
    with pytest.raises(CommandFailedError, match="code 1"):
        smoke(second, CELLS[1])
    judged = [("python", "-m", "repros", "report", "r", "--cell", cell) for cell in CELLS]
    assert [first.commands[1:], second.commands] == [[judged[0]], [judged[1]]]


def test_what_did_not_come_to_its_trials_fails_at_once(noxfile: Callable[..., dict[str, Any]]) -> None:
    smoke = noxfile("-s", "smoke")["smoke"]
    for cell in CELLS:
        session = NoxSession(lambda command: 2, posargs=("--run", "r"))
        with pytest.raises(CommandFailedError, match="code 2"):
            smoke(session, cell)
        assert [command[0] for command in session.commands] == ["pytest"]


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize("asked", [f"-s smoke(cell='{CELLS[1]}')", "-s smoke -k 5.23", "-k 5.23", ""])
def test_one_cell_is_tried_alone(noxfile: Callable[..., dict[str, Any]], code: int, asked: str) -> None:
    """Or some of them, each by itself: of which else are chosen nox tells nothing."""
    smoke = noxfile(*asked.split())["smoke"]
    session = NoxSession(lambda command: code, posargs=("--run", "r"))
    if code:
        with pytest.raises(CommandFailedError):
            smoke(session, CELLS[1])
    else:
        smoke(session, CELLS[1])
    (command,) = session.commands
    assert command[-5:] == ("--cell", CELLS[1], "--run", "r", "repros/cases")


def test_a_dry_run_lists_and_sums_up_nothing(noxfile: Callable[..., dict[str, Any]]) -> None:
    session = NoxSession(posargs=("--dry-run",))
    noxfile("-s", "smoke")["smoke"](session, CELLS[0])
    assert session.said == []
