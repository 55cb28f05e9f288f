"""A run in progress: what is made ready while trials run."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from repros import ROOT
from repros.cases import Entry
from repros.cells.envs import EnvError
from repros.cells.matrix import load_matrix
from repros.errors import UserError
from repros.run import session
from repros.run.controls import SHARED
from repros.run.results import Record, Run, load, settled
from repros.run.server import Clock
from repros.run.session import ReadyCell, Session
from repros.run.trial import Running, Trial
from repros.verdict import Verdict
from repros.worker import checkpoints
from tests.conftest import Bench
from tests.factories import record
from tests.waiting import eventually

CELLS = load_matrix(ROOT / "matrix.yaml").tier("smoke")


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Yield a cell that borrows this interpreter, with an empty cache."""
    monkeypatch.setenv("REPROS_CACHE", str(tmp_path))
    environment: Any = SimpleNamespace(cell=CELLS[0], python=Path(sys.executable), resolved={})
    place = ReadyCell(environment, Clock())
    yield place
    place.close()


def test_a_checkpoint_begun_ahead_is_the_one_that_a_trial_gets(ready: ReadyCell) -> None:
    ahead = ready.begin_checkpoint("smollm2-135m-1l")
    assert ready.begin_checkpoint("smollm2-135m-1l") is ahead
    folder = Path(ready.checkpoint("smollm2-135m-1l"))
    assert ahead.done()
    assert checkpoints.is_whole(folder, checkpoints.recipe_of("smollm2-135m-1l"))


@pytest.mark.parametrize(("told", "known"), [("process", True), ("card", None)])
def test_what_a_driver_told_in_an_earlier_cell_is_known(told: str, known: bool | None, tmp_path: Path) -> None:
    run, found = Run(tmp_path / "run"), record()
    assert Session(run, controls=SHARED)._apart.known is None
    run.append(replace(found, arms=tuple(replace(arm, evidence={"driver_tells_of": told}) for arm in found.arms)))
    assert Session(run, controls=SHARED)._apart.known is known
    assert Session(run)._apart.known is None  # it reads nothing of what was before


def test_a_pip_that_an_arm_asks_is_that_of_its_cell(ready: ReadyCell) -> None:
    """The host's would tell of other packages."""
    asked = subprocess.run("pip --version", shell=True, env=ready.server.environment(), capture_output=True, text=True)
    own = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, text=True)
    assert (asked.returncode, asked.stdout, asked.stderr) == (own.returncode, own.stdout, own.stderr)


def test_what_went_wrong_ahead_is_told_to_the_trial_that_needs_it(ready: ReadyCell) -> None:
    ready.begin_checkpoint("no-such-recipe")
    other = ready.begin_checkpoint("smollm2-135m-1l")
    for _ in range(2):
        with pytest.raises(UserError, match="no-such-recipe"):
            ready.checkpoint("no-such-recipe")
    assert Path(other.result()).is_dir()


def test_the_next_cell_is_built_after_this_one_and_its_trouble_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[tuple[str, bool]] = []
    this_one_stands = threading.Event()

    def ensure(cell: Any, **settings: Any) -> Any:
        built.append((cell.name, this_one_stands.is_set()))
        if cell is CELLS[0]:
            this_one_stands.set()
            return SimpleNamespace(
                cell=cell, python=Path(sys.executable), resolved={}, warm=True, seconds=0.0, build="cpu"
            )
        raise EnvError("error", "the index did not answer", "try again")

    monkeypatch.setattr(session, "ensure", ensure)
    run = Session(Run(tmp_path / "run"))
    run.wait()  # nothing was begun: nothing to wait for
    run.build(CELLS[1], after=CELLS[0])
    run.wait()
    run.close()
    assert built == [(CELLS[0].name, False), (CELLS[1].name, True)]


def wait_for_arms(run: Session) -> None:
    """Wait until the arms of all trials that were started have ended."""
    began = run._running.values()
    eventually(lambda: all(isinstance(one, Running) and one.ended() for one in began), 60, "the end of all arms")


def test_a_run_that_is_cut_keeps_what_had_ended_and_nobody_waited_for(
    tmp_path: Path, bench: Bench, harness: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Session(Run(tmp_path / "run"), jobs=2)
    monkeypatch.setattr(run, "ready", lambda cell: bench)
    trials = {name: Trial(harness, harness.condition(name), bench.cell) for name in ("passes", "breaks", "crashes")}
    for trial in trials.values():
        run.start(trial, CELLS[0])
    wait_for_arms(run)
    run.start(Trial(harness, harness.condition("hangs"), bench.cell), CELLS[0])
    run.close()
    (kept,) = load(run.run.folder)[0]  # one that would fail the run has to be seen to fail, and `crashes` told nothing
    assert (kept.key, kept.verdict) == (trials["passes"].key, Verdict.ABSENT)
    assert settled(run.run.folder) == {kept.key}


def test_whatever_cannot_be_written_the_supervisors_are_ended(
    tmp_path: Path, bench: Bench, harness: Entry, ready: ReadyCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Session(Run(tmp_path / "run"), jobs=2)
    run._ready[ready.cell] = ready
    ended: list[str] = []
    monkeypatch.setattr(ready, "close", lambda: ended.append(ready.cell))
    monkeypatch.setattr(run, "ready", lambda cell: bench)

    def full(record: Record) -> None:
        raise UserError("no space left", "free some")

    monkeypatch.setattr(run.run, "append", full)
    run.start(Trial(harness, harness.condition("passes"), bench.cell), CELLS[0])
    wait_for_arms(run)
    with pytest.raises(UserError, match="no space left"):
        run.close()
    assert ended == [ready.cell]


def test_what_may_have_ended_with_the_run_is_not_kept() -> None:
    whole = record(condition="x")
    assert session.is_kept(whole)
    assert not session.is_kept(replace(whole, failed=True))
    assert not session.is_kept(replace(whole, verdict=Verdict.INCONCLUSIVE))
    *others, last = whole.arms
    assert not session.is_kept(
        replace(whole, arms=(*others, replace(last, state="crashed", reason="killed by SIGINT")))
    )


def test_trouble_of_a_trial_ahead_is_told_at_its_turn(
    tmp_path: Path, bench: Bench, harness: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Session(Run(tmp_path / "run"), jobs=2)
    monkeypatch.setattr(run, "ready", lambda cell: bench)
    monkeypatch.setattr(run, "_begin_checkpoints", lambda trials, cell: None)
    monkeypatch.setattr(run, "leave", lambda cell: None)
    order = [(Trial(harness, harness.condition(name), CELLS[0].label), CELLS[0]) for name in ("passes", "breaks")]
    begin = run.start

    def start(trial: Trial, cell: Any) -> None:
        if trial.condition.name == "breaks":
            raise UserError("no checkpoint", "make one")
        begin(trial, cell)

    monkeypatch.setattr(run, "start", start)
    assert run.take(order, 0).verdict is Verdict.ABSENT
    with pytest.raises(UserError, match="no checkpoint"):
        run.take(order, 1)
    run.close()


@pytest.mark.parametrize("how", ["left", "closed"])
def test_what_came_of_an_environment_that_changed_is_void(
    tmp_path: Path, bench: Bench, harness: Entry, ready: ReadyCell, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    said: list[str] = []
    run = Session(Run(tmp_path / "run"), jobs=2, say=said.append)
    monkeypatch.setattr(run, "ready", lambda cell: bench)
    order = [(Trial(harness, harness.condition(name), ready.cell), CELLS[0]) for name in ("passes", "breaks")]
    monkeypatch.setattr(ready.environment, "damage", lambda: "a.py is missing", raising=False)
    run._ready[ready.cell] = ready
    assert run.take(order, 0).verdict is Verdict.ABSENT
    last = run.take(order, 1) if how == "left" else None
    run.close()
    assert last is None or (last.verdict, last.failed) == (Verdict.ERROR, True)
    why = "the environment changed while it was used: a.py is missing"
    records = load(run.run.folder)[0]
    assert len(records) == len(said) == (2 if how == "left" else 1)
    assert all((one.verdict, one.reason, one.arms) == (Verdict.ERROR, why, ()) for one in records)
    assert settled(run.run.folder) == set(), "`--resume` tries them again"
