"""A run's trials on the workers of a cluster: each is written as it comes back, in whatever order that is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from pathlib import Path

from repros.case import Condition
from repros.cells.matrix import Cell
from repros.cluster.crew import Crew
from repros.cluster.worker import Answer, TrialOrder, suite, try_trial
from repros.errors import UserError
from repros.run.record import Record
from repros.run.results import Run
from repros.run.trial import Trial, not_run
from repros.verdict import Verdict
from repros.worker.sizes import sizes

#: Resources as workers declare them: `dask worker --resources "GPU=1 MEMORY=64e9"`.
CARDS, MEMORY = "GPU", "MEMORY"
#: What a cell's server and one arm take with every package imported, in bytes; beside it, a checkpoint so many times.
IMPORTED_BYTES, COPIES = 2 << 30, 3


def stream(wanted: Sequence[tuple[Trial, Cell]], run: Run, crew: Crew, snapshots: bool = False) -> Iterator[Record]:
    """Yield the record of each trial once it is written; what one order ends with is raised after all others."""
    refuse_what_is_elsewhere([trial for trial, _ in wanted])
    modules, declared = frozenset(trial.entry.module for trial, _ in wanted), crew.declared()
    if CARDS not in declared and any(cell.device == "cuda" for _, cell in wanted):
        what = f"{crew.address}: no worker there declares a GPU"
        raise UserError(what, f'start one with it: `dask worker {crew.address} --resources "{CARDS}=1"`')
    sent = {}
    for trial, cell in wanted:
        condition = trial.condition
        order = TrialOrder(suite(), trial.entry.module, condition.name, cell, modules, snapshots)
        asked = {name: amount for name, amount in resources(condition).items() if name in declared}
        sent[crew.submit(try_trial, order, trial.entry.name, asked)] = trial, cell
    wrong: BaseException | None = None
    for future in as_completed(sent):
        if error := future.exception():
            wrong = wrong or error
            continue
        record = kept(future.result(), *sent[future], run.folder)
        run.append(record)
        yield record
    if wrong is not None:
        raise wrong


def refuse_what_is_elsewhere(trials: Sequence[Trial]) -> None:
    """Raise UserError for a case file that is not the project's own: a worker has no copy of it."""
    for trial in trials:
        if not trial.entry.module.startswith("repros.cases."):
            what = f"{trial.entry.name}: a case file of your own is not on the workers"
            raise UserError(what, "leave `--executor dask` out, or put it below repros/cases on every machine")


def resources(condition: Condition) -> dict[str, float]:
    """Return what a trial takes of a worker: cards of its own, and bytes of memory."""
    checkpoint = sizes(condition.checkpoint).whole if condition.checkpoint else 0
    cards = {CARDS: float(condition.needs.cards)} if condition.device == "cuda" else {}
    return {**cards, MEMORY: float(IMPORTED_BYTES + COPIES * checkpoint)}


def kept(answer: Answer, trial: Trial, cell: Cell, folder: Path) -> Record:
    """Return the record of an answer, its logs written into the run; of a cell that no worker can make ready, that."""
    if answer.cannot:
        verdict = Verdict.UNSUPPORTED if answer.kind == "unsupported" else Verdict.ERROR
        return not_run(trial, verdict, f"no worker could: {answer.cannot}", cell.device, {})
    for name, data in answer.logs.items():
        (folder / "logs" / Path(name).name).write_bytes(data)
    return Record.from_json(json.loads(answer.found))
