"""A run in progress: what is made ready while trials run."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from repros import ROOT
from repros.case import CONTROLS, Needs
from repros.cases import Entry, imports
from repros.cells.envs import EnvError
from repros.cells.matrix import load_matrix
from repros.errors import UserError
from repros.run import session
from repros.run.controls import SHARED
from repros.run.results import Record, Run, load, settled
from repros.run.server import Clock
from repros.run.session import ReadyCell, Session
from repros.run.trial import Running, Trial
from repros.verdict import Observation, Verdict
from repros.worker import checkpoints
from tests.conftest import METERS, Bench
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


def told_in_an_arm_s_environment(ready: ReadyCell, code: str) -> str:
    """Return what code prints in a process that has the environment of an arm."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=ready.server.environment(), stdout=subprocess.PIPE, text=True, check=True).stdout


def test_an_arm_on_a_cpu_keeps_its_heap(ready: ReadyCell) -> None:
    """A tensor's pages are not fetched anew from the kernel each time: that took a sixth of the main job."""
    code = (
        "import ctypes; from repros.meters.heap import _Mallinfo2 as Told\n"
        "ask = ctypes.CDLL(None).mallinfo2; ask.restype = Told\n"
        "large = [bytearray(size << 20) for size in (1, 40, 100)]; before = ask()\n"
        "del large; after = ask(); print(before.hblkhd, after.arena >= before.arena > 141 << 20)"
    )
    assert told_in_an_arm_s_environment(ready, code) == "0 True\n"


def test_a_product_leaves_nothing_on_the_heap_of_an_arm_on_a_cpu(ready: ReadyCell) -> None:
    """Where the processor has no instructions for bfloat16, MKL kept 6 MiB and the oracle broke its own limit."""
    code = (
        "import torch; from repros.meters.heap import open_heap\n"
        "a, b = torch.ones(1024, 576), torch.ones(576, 1536); in_use = open_heap()\n"
        "torch.ones(8, 8) @ torch.ones(8, 8); before = in_use(); a @ b; print(in_use() - before < 1 << 16)"
    )
    assert told_in_an_arm_s_environment(ready, code) == "True\n"


def test_what_went_wrong_ahead_is_told_to_the_trial_that_needs_it(ready: ReadyCell) -> None:
    ready.begin_checkpoint("no-such-recipe")
    other = ready.begin_checkpoint("smollm2-135m-1l")
    for _ in range(2):
        with pytest.raises(UserError, match="no-such-recipe"):
            ready.checkpoint("no-such-recipe")
    assert Path(other.result()).is_dir()


def test_the_next_cell_is_built_meanwhile_and_its_trouble_is_its_trials(
    tmp_path: Path, harness: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []

    def ensure(cell: Any, **settings: Any) -> Any:
        built.append(cell.name)
        raise EnvError("error", "the index did not answer", "try again")

    monkeypatch.setattr(session, "ensure", ensure)
    run = Session(Run(tmp_path / "run"))
    run.wait()  # nothing was begun: nothing to wait for
    run.build([(Trial(harness, harness.condition("passes"), CELLS[1].label), CELLS[1])])
    run.wait()
    assert built == [CELLS[1].name]
    told = run.finish(Trial(harness, harness.condition("passes"), CELLS[1].label), CELLS[1])
    run.close()
    assert (told.verdict, told.reason) == (Verdict.ERROR, "the index did not answer")
    assert built == [CELLS[1].name], "it is asked for once"


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


@pytest.mark.parametrize("error", [EnvError("error", "no index", "try again"), UserError("no checkout", "name one")])
def test_a_cell_that_cannot_be_built_keeps_no_later_one_from_being_built(
    tmp_path: Path, harness: Entry, monkeypatch: pytest.MonkeyPatch, error: UserError
) -> None:
    asked: list[str] = []

    def ensure(cell: Any, **settings: Any) -> Any:
        asked.append(cell.label)
        raise error

    monkeypatch.setattr(session, "ensure", ensure)
    run = Session(Run(tmp_path / "run"))
    run.build(over(harness, "passes"))
    run.wait()
    run.close()
    assert asked == [cell.label for cell in CELLS[:2]]


@pytest.fixture
def two_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """Yield a run of two cells that borrow this interpreter, one arm at a time."""

    def ensure(cell: Any, **settings: Any) -> Any:
        return SimpleNamespace(
            cell=cell, python=Path(sys.executable), resolved={"torch": "2.13.0"}, warm=True, seconds=0.0, build="cpu",
            lock_digest="", lock_committed=True, damage=lambda: "",
        )  # fmt: skip

    monkeypatch.setattr(session, "ensure", ensure)
    monkeypatch.setattr(imports, "PRELOAD", {"cpu": ("torch", "torch._dynamo", "repros.worker.arm", *METERS)})
    run = Session(Run(tmp_path / "run"), jobs=1, controls=SHARED)
    yield run
    run.close()


def over(entry: Entry, *names: str) -> list[tuple[Trial, Any]]:
    """Return trials of these conditions in both cells, cell by cell."""
    return [(Trial(entry, entry.condition(name), cell.label), cell) for cell in CELLS[:2] for name in names]


def test_what_took_longest_in_another_cell_is_sent_first_and_what_is_unknown_before_that(
    tmp_path: Path, harness: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its longest arm counts, not their sum; of unknown ones the largest on a card."""
    before = Run(tmp_path / "run")
    for name, arms in (("passes", (1.0, 1.0, 1.0)), ("breaks", (0.1, 2.0, 0.1)), ("crashes", (1.5, 1.5, 0.0))):
        found = record(harness.name, name, "another")
        pairs = zip(found.arms, arms, strict=True)
        before.append(replace(found, arms=tuple(replace(arm, seconds={"total": took}) for arm, took in pairs)))
    run = Session(before, controls=SHARED)
    sent: list[str] = []
    monkeypatch.setattr(run, "_begin_checkpoints", lambda trials, cell: None)
    monkeypatch.setattr(run, "start", lambda trial, cell: sent.append(trial.condition.name))
    trials = [Trial(harness, harness.condition(name), CELLS[0].label) for name in ("passes", "breaks", "crashes")]
    large = replace(harness.condition("control"), needs=Needs(card_bytes=1))
    run._send([*trials, *(Trial(harness, one, "c") for one in (harness.condition("hangs"), large))], CELLS[0])
    run.close()
    assert sent == ["control", "hangs", "breaks", "crashes", "passes"]


def test_the_next_cell_is_sent_ahead_after_all_of_this_one(
    two_cells: Session, harness: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = over(harness, "passes", "breaks")
    sent, start = list[tuple[str, str, str]](), two_cells._start

    def note(trial: Trial, cell: Any) -> None:
        sent.append(trial.key)
        start(trial, cell)

    monkeypatch.setattr(two_cells, "_start", note)
    first = two_cells.take(order, 0)
    eventually(lambda: order[3][0].key in two_cells._sent, 60, "the next cell's trials")
    wait_for_arms(two_cells)
    records = [first, *(two_cells.take(order, at) for at in range(1, 4))]
    assert [(one.cell, one.condition) for one in records] == [
        (cell.label, trial.condition.name) for trial, cell in order
    ]
    assert len(load(two_cells.run.folder)[0]) == 4
    assert [cell for _, _, cell in sent] == [cell.label for _, cell in order]
    assert not two_cells._ready, "both cells were left"


def test_every_later_cell_follows_though_none_before_it_has_ended(
    two_cells: Session, harness: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large arm that waits for a card would keep all of them waiting."""
    cells = load_matrix(ROOT / "matrix.yaml").tier("cpu")[:4]
    order = [(Trial(harness, harness.condition("passes"), cell.label), cell) for cell in cells]
    ended = threading.Event()
    monkeypatch.setattr(two_cells, "finish", lambda trial, cell: ended.wait(60))
    with ThreadPoolExecutor(1) as main:
        taken = main.submit(two_cells.take, order, 0)
        eventually(lambda: two_cells._sent == {trial.key for trial, _ in order}, 60, "the trials of all cells")
        assert not taken.done()
        ended.set()


def test_a_cell_whose_environment_is_still_built_follows_once_that_stands(two_cells: Session, harness: Entry) -> None:
    order = over(harness, "passes")
    two_cells._follow(order)
    assert not two_cells._sent
    two_cells.build(order)
    eventually(lambda: two_cells._sent == {trial.key for trial, _ in order}, 60, "the trials of both cells")


def test_a_cell_that_waits_for_its_environment_does_not_follow_in_a_run_that_has_ended(
    two_cells: Session, harness: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that sent something all the same would end with an exception, which fails a test."""

    def ensure(cell: Any, **settings: Any) -> Any:
        two_cells.close()
        raise EnvError("unsupported", "no such release", "")

    monkeypatch.setattr(session, "ensure", ensure)
    order = over(harness, "passes")
    two_cells._follow(order)
    assert two_cells._pending
    two_cells.build(order)
    two_cells.wait()
    assert not two_cells._pending


def test_a_trial_is_sent_when_its_checkpoint_is_written_though_nobody_asks_for_it(
    two_cells: Session, harness: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: Future[str] = Future()
    monkeypatch.setattr(ReadyCell, "begin_checkpoint", lambda place, recipe: written)
    trial = Trial(harness, replace(harness.condition("passes"), checkpoint="smollm2-135m-1l"), CELLS[0].label)
    for _ in range(2):
        two_cells._send([trial], CELLS[0])
        assert not two_cells._sent
    written.set_result("/a/folder")
    eventually(lambda: two_cells._sent == {trial.key}, 60, "the trial")


def test_checkpoints_of_a_later_cell_are_begun_once_that_is_built(
    two_cells: Session, harness: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(ReadyCell, "begin_checkpoint", lambda place, recipe: begun.append(f"{place.cell} {recipe}"))
    condition = replace(harness.condition("passes"), checkpoint="smollm2-135m-1l")
    two_cells.build([(Trial(harness, condition, CELLS[1].label), CELLS[1])])
    two_cells.wait()
    assert begun == [f"{CELLS[1].label} smollm2-135m-1l"]


def test_an_arm_that_waits_for_packages_keeps_no_other_waiting(
    two_cells: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One at a time runs here, and that one is of a cell whose packages are imported."""
    first, second = (two_cells.ready(cell) for cell in CELLS[:2])
    imported, inside = threading.Event(), list[str]()
    monkeypatch.setattr(first.server, "start", lambda: imported.wait(60))
    monkeypatch.setattr(second.server, "start", lambda: None)

    def observe(name: str, *given: Any) -> Observation:
        inside.append(name)
        assert not two_cells._slots.acquire(blocking=False), "it holds the only place"
        return Observation(name, "done")

    for name, place in (("first", first), ("second", second)):
        monkeypatch.setattr(place.server, "observe", partial(observe, name))
    with ThreadPoolExecutor(2) as both:
        waits = both.submit(first.observe, {}, tmp_path / "log")
        assert both.submit(second.observe, {}, tmp_path / "log").result(60).arm == "second"
        imported.set()
        assert waits.result(60).arm == "first"
    assert inside == ["second", "first"]


@pytest.mark.parametrize(("jobs", "holds"), [(None, False), (1, True)])
def test_a_large_arm_on_a_card_holds_a_place_of_those_that_the_user_allows(
    jobs: int | None, holds: bool, tmp_path: Path
) -> None:
    run = Session(Run(tmp_path / "run"), jobs=jobs)
    assert run._slot(1 << 30) is run._slots
    assert (run._slot(8 << 30) is run._slots) is holds
    run.close()


def test_large_arms_wait_for_a_card_side_by_side(tmp_path: Path) -> None:
    """A cell has sixty of them; of those in a queue behind the first ones no card could take what fits it."""
    run, waiting, gate = Session(Run(tmp_path / "run")), threading.Semaphore(0), threading.Event()

    def arm() -> None:
        waiting.release()
        gate.wait(60)

    for _ in range(60):
        run._large.submit(arm)
    try:
        assert all(waiting.acquire(timeout=5) for _ in range(60))
    finally:
        gate.set()
        run.close()


def test_what_leans_on_a_cell_that_turns_out_to_have_changed_is_tried_again(two_cells: Session, harness: Entry) -> None:
    order = over(harness, "passes", "breaks")
    two_cells.take(order, 0)
    eventually(lambda: order[3][0].key in two_cells._sent, 60, "the next cell's trials")
    wait_for_arms(two_cells)
    place = two_cells._ready[CELLS[0].label]
    assert isinstance(place, ReadyCell)
    place.environment.damage = lambda: "a.py is missing"  # type: ignore[method-assign]
    assert two_cells.take(order, 1).verdict is Verdict.ERROR
    for at in (2, 3):
        found = two_cells.take(order, at)
        assert found.verdict in (Verdict.ABSENT, Verdict.REPRODUCED)
        assert {arm.evidence.get("tried_in") for arm in found.arms if arm.arm in CONTROLS} == {CELLS[1].label}


def test_a_run_that_is_closed_sends_nothing_more(two_cells: Session, harness: Entry) -> None:
    order = over(harness, "passes")
    two_cells.close()
    began = time.monotonic()
    two_cells._follow(order[1:])
    two_cells.start(*order[0])
    assert not two_cells._running
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("jobs", [None, 1])
def test_an_arm_that_waits_for_much_of_a_card_keeps_no_other_waiting(
    tmp_path: Path, harness: Entry, monkeypatch: pytest.MonkeyPatch, jobs: int | None
) -> None:
    """It waits in a pool of its own, where the user does not say how many are to go at a time."""
    run = Session(Run(tmp_path / "run"), jobs=jobs)
    given: dict[str, Any] = {}
    monkeypatch.setattr(run, "ready", lambda cell: None)
    monkeypatch.setattr(
        session, "Running", lambda trial, place, arms, *more, **how: given.setdefault(trial.condition.name, arms)
    )
    card = SimpleNamespace(label="c", device="cuda")
    small, large = (replace(harness.condition("passes"), name=f"{size}GiB", needs=Needs(card_bytes=size << 30))
                    for size in (1, 8))  # fmt: skip
    for condition in (small, large):
        run.start(Trial(harness, condition, "c"), card)  # type: ignore[arg-type]
    run._running.clear()
    run.close()
    assert (given["1GiB"] is given["8GiB"]) is (jobs is not None)
    for arms in given.values():
        with pytest.raises(RuntimeError, match="after shutdown"):
            arms.submit(print)


def test_an_environment_that_is_built_for_a_run_that_was_ended_is_not_kept(
    two_cells: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    shut = ReadyCell.close

    def close(place: ReadyCell) -> None:
        closed.append(place.cell)
        shut(place)

    monkeypatch.setattr(ReadyCell, "close", close)
    two_cells.close()
    with pytest.raises(EnvError, match="the run was ended"):
        two_cells.ready(CELLS[0])
    assert (closed, two_cells._ready) == ([CELLS[0].label], {})
