"""A cluster of worker processes: what its losses cost, and what it refuses. Real trials over one: `tests/attack`."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

import pytest

from repros import ROOT, cases
from repros.cells.matrix import load_matrix
from repros.cluster import crew as crews
from repros.cluster import trials, worker
from repros.cluster.crew import Crew
from repros.cluster.worker import Answer
from repros.errors import UserError
from repros.run import results
from repros.run.results import Run
from repros.run.trial import Trial
from repros.verdict import Verdict
from tests.benchmarks import scaling
from tests.cluster_work import Number, double, fail
from tests.commands import errors
from tests.waiting import eventually

CELL = load_matrix(ROOT / "matrix.yaml").cell("tf5.23.0-bnb0.50.2")
ENTRY = next(entry for entry in cases.find() if entry.name == "gh1995_strided_tensor")
TRIAL = Trial(ENTRY, ENTRY.case.conditions[0], CELL.label)

#: For a machine that has much else to do.
PATIENCE_S = 300.0


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    made = Crew(None, 3, lambda text: None)
    yield made
    made.close()


@pytest.fixture
def doomed() -> Iterator[Crew]:
    """Return workers that no other test has: one that is killed while it starts may not come back."""
    made = Crew(None, 3, lambda text: None)
    yield made
    made.close()


def pids(crew: Crew) -> list[int]:
    """Return the process of each worker that is up."""
    return [nanny.pid for nanny in crew._local.workers.values() if nanny.pid]


@pytest.mark.slow
def test_killed_workers_cost_no_result_and_give_no_wrong_one(doomed: Crew) -> None:
    sent = {doomed.submit(double, Number(n, 0.05), "double", {}): n for n in range(150)}
    chance = random.Random(0)
    killed: list[int] = []

    def kill() -> None:
        while len(killed) < 8:
            time.sleep(chance.uniform(0.1, 0.6))
            if found := pids(doomed):
                os.kill(chance.choice(found), signal.SIGKILL)
                killed.append(found[0])

    thread = threading.Thread(target=kill)
    thread.start()
    results = {sent[one]: one.result(timeout=PATIENCE_S).found for one in as_completed(sent, timeout=PATIENCE_S)}
    thread.join()
    assert results == {n: 2 * n for n in range(150)}
    assert len(killed) == 8
    assert sum(task.lost for task in doomed._tasks) == 0  # none is left behind


def test_an_answer_that_goes_with_its_worker_is_asked_for_again(doomed: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the word that it is there and its fetching: dask calls such an answer lost."""
    ended, seen = Crew._ended, list[str]()

    def late(self: Crew, task: crews._Task, sent: Any) -> None:
        if not seen:
            for pid in pids(self):
                os.kill(pid, signal.SIGKILL)
            seen.append(eventually(lambda: sent.status != "finished" and sent.status, 60, "dask's word of the loss"))
        ended(self, task, sent)

    monkeypatch.setattr(Crew, "_ended", late)
    answer = doomed.submit(double, Number(21), "double", {}).result(timeout=PATIENCE_S)
    assert answer.found == 42
    assert seen[0] in ("lost", "pending")


def test_an_order_that_ends_its_worker_each_time_is_given_up(doomed: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crews, "LOST", 0)
    sent = doomed.submit(double, Number(1, 10 * PATIENCE_S), "double", {})
    began = time.monotonic()
    while not sent.done() and time.monotonic() - began < PATIENCE_S:
        busy = {address for address, keys in doomed._client.processing().items() if keys}
        for nanny in doomed._local.workers.values():
            if nanny.worker_address in busy and nanny.pid:
                os.kill(nanny.pid, signal.SIGKILL)
        time.sleep(1.0)
    answer = sent.result(timeout=0)
    assert answer.cannot == "its worker was lost 1 times"
    assert answer.kind == "error"


def test_an_order_goes_to_another_worker_where_one_cannot(crew: Crew) -> None:
    addresses = sorted(crew._addresses())
    unfit = frozenset(addresses[:-1])
    sent = [crew.submit(double, Number(n, 0.02, unfit, "one worker can"), "double", {}) for n in range(12)]
    found = [one.result(timeout=PATIENCE_S) for one in sent]
    assert [one.found for one in found] == [2 * n for n in range(12)]
    assert {one.worker for one in found} == {addresses[-1]}


def test_what_no_worker_can_is_said_with_the_reason(crew: Crew, tmp_path: Path) -> None:
    order = Number(1, 0.0, crew._addresses(), "nobody can")
    answer = crew.submit(double, order, "double", {}).result(timeout=PATIENCE_S)
    record = trials.kept(answer, TRIAL, CELL, tmp_path)
    assert record.verdict is Verdict.ERROR
    assert record.failed
    assert record.reason == "no worker could: no Python 3.99 here"


def test_nobody_waits_for_workers_that_do_not_come_back(doomed: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crews, "LOOK_S", 0.2)
    monkeypatch.setattr(crews, "FIRST_WORKER_S", 1.0)
    sent = doomed.submit(double, Number(1, 10 * PATIENCE_S), "double", {})
    doomed._client.retire_workers(list(doomed._addresses()), close_workers=True, remove=True)
    with pytest.raises(UserError, match=r"no worker has been there for 1 s\nhint: .*`--resume`"):
        sent.result(timeout=PATIENCE_S)


def test_a_fault_of_the_suite_is_raised_and_not_tried_again(crew: Crew) -> None:
    with pytest.raises(ZeroDivisionError, match="7"):
        crew.submit(fail, Number(7), "fail", {}).result(timeout=PATIENCE_S)


def test_a_worker_refuses_the_order_of_another_suite(crew: Crew) -> None:
    order = worker.TrialOrder("0" * 64, ENTRY.module, TRIAL.condition.name, CELL, frozenset())
    answer = crew.submit(worker.try_trial, order, "trial", {}).result(timeout=PATIENCE_S)
    assert answer.cannot == "it runs another suite: its sources differ"


def test_workers_of_another_suite_are_refused_before_anything_is_sent(
    crew: Crew, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "matrix.yaml").write_text("cells: {}")
    monkeypatch.setattr(worker, "ROOT", tmp_path)  # here; the workers have their own
    worker.suite.cache_clear()
    try:
        with pytest.raises(UserError, match=r"the worker tcp\S+ runs another suite than this: its sources differ\n"):
            Crew(crew.address, 1, lambda text: None)
    finally:
        worker.suite.cache_clear()


def test_trials_for_a_card_want_a_worker_that_declares_one(crew: Crew, tmp_path: Path) -> None:
    cell = load_matrix(ROOT / "matrix.yaml").cell("gpu-tf5.23.0-bnb0.50.2")
    condition = next(c for c in ENTRY.case.conditions if c.device == "cuda")
    with pytest.raises(UserError, match=r'no worker there declares a GPU\nhint: .*--resources "GPU=1"'):
        list(trials.stream([(Trial(ENTRY, condition, cell.label), cell)], Run(tmp_path / "run"), crew))


def test_a_scheduler_that_goes_away_ends_what_waits_in_two_lines(tmp_path: Path) -> None:
    """What came back before is the caller's."""
    where = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*command, "--scheduler-file", str(where)], **quiet) as scheduler:
        eventually(lambda: where.exists() and where.read_text().endswith("}"), PATIENCE_S, "the scheduler's address")
        joins = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(where), "--nthreads", "1"]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen([*joins, "--no-dashboard", "--death-timeout", "5"], env=env, **quiet) as joined:
            try:
                address = json.loads(where.read_text())["address"]
                made = Crew(address, 1, lambda text: None)
                first = made.submit(double, Number(1), "double", {})
                assert first.result(timeout=PATIENCE_S).found == 2
                waits = made.submit(double, Number(2, 10 * PATIENCE_S), "double", {})
                scheduler.kill()
                with pytest.raises(UserError, match=r"the scheduler went away\nhint: .*`--resume`"):
                    waits.result(timeout=PATIENCE_S)
                made.close()
            finally:
                joined.kill()
                scheduler.kill()


def test_bad_input_is_two_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crews, "CONNECT_S", 1.0)
    run = ["run", "gh1995", "--cell", CELL.label]
    for words, what in {
        ("--scheduler", "tcp://127.0.0.1:9"): "--scheduler tcp://127.0.0.1:9: trials are made here\nhint: add",
        ("--executor", "dask", "--scheduler", "tcp://127.0.0.1:9"): "tcp://127.0.0.1:9: no dask scheduler answers",
        ("--executor", "dask", "--scheduler", "nonsense://x"): "nonsense://x: no dask scheduler answers",
        ("--executor", "slurm"): "--executor: there is no `slurm`",
    }.items():
        assert errors([*run, *words], capsys).startswith(what)
    monkeypatch.setitem(sys.modules, "distributed", None)
    said = errors([*run, "--executor", "dask"], capsys)
    assert said.startswith("--executor dask: dask.distributed is not installed")


def test_an_answer_is_kept_with_its_logs_and_no_name_leads_out_of_them(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    record = trials.kept(Answer(cannot="nothing", kind="unsupported"), TRIAL, CELL, tmp_path)
    assert record.verdict is Verdict.UNSUPPORTED
    answer = Answer(record.to_line(), {"a.log": b"1", "../b.log": b"2"})
    assert trials.kept(answer, TRIAL, CELL, tmp_path).key == TRIAL.key
    assert sorted(path.name for path in tmp_path.rglob("*.log")) == ["a.log", "b.log"]
    assert not (tmp_path / "b.log").exists()


def test_the_table_of_what_it_costs_is_made_of_what_was_measured() -> None:
    page = (ROOT / "repros" / "cluster" / "README.md").read_text(encoding="utf-8")
    shown = page.partition("--table reports/cpu/scaling.json` -->\n")[2].partition("\n<!-- /scaling -->")[0]
    assert shown == scaling.table(results.REPORTS / "cpu" / "scaling.json")
    assert shown.count("| measured |") == 3
