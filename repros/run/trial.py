"""The parent's side of a trial: run its arms, hold them against the budget, return the record."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from repros import ROOT
from repros.case import CONTROLS, Budget, Condition, Remedy
from repros.cases import Entry, imports
from repros.cases.sources import digest
from repros.errors import MOST, printable
from repros.machine.cards import known
from repros.requirements import holds, unmet, unmet_cards
from repros.run.controls import Shared, lendings, of_machine
from repros.run.results import Record
from repros.verdict import (
    SETTLED,
    ArmReading,
    Effect,
    Observation,
    Outcome,
    Verdict,
    decide,
    effect,
    is_failure,
    margins,
    outcome,
    read,
    to_number,
    with_witness,
)
from repros.worker.arm import WITNESS


class Place(Protocol):
    """Where arms run: a cell that is ready (see `repros.run.session`)."""

    @property
    def cell(self) -> str:
        """Its label."""

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Package -> version, without a local part."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the record keeps: packages as resolved, lock, build of torch."""

    def observe(self, request: Mapping[str, Any], log: Path, fresh: bool = False, cards: int = 1) -> Observation:
        """Run one arm, with cards of its own where the cell is for a GPU."""

    def checkpoint(self, recipe: str) -> str:
        """Return the folder of a checkpoint, made if it is missing."""


@dataclass(frozen=True)
class Trial:
    """A case under one condition in one cell."""

    entry: Entry
    condition: Condition
    cell: str

    @property
    def key(self) -> tuple[str, str, str]:
        """Return the names that a record is found under."""
        return self.entry.name, self.condition.name, self.cell

    @property
    def repeat(self) -> str:
        """Return the command that tries this again."""
        name, _, overrides = self.cell.partition(" with ")
        replaced = "".join(f" --with {shlex.quote(one)}" for one in overrides.split(", ") if one)
        return f"python -m repros run {self.entry.name} --cell {name}{replaced} --condition {self.condition.name}"

    def missing(self, versions: Mapping[str, str]) -> str:
        """Return why this trial cannot run with these packages on this machine; empty if it can."""
        needs = self.condition.needs
        lacking = unmet(needs, versions)
        if lacking or self.condition.device != "cuda":
            return lacking
        return unmet_cards(needs, [card.free_bytes for card in known()])

    def expected(self, versions: Mapping[str, str]) -> bool | None:
        """Return whether these versions are recorded as affected under this condition; None if nothing is recorded."""
        if self.condition.control:
            return False
        if self.condition.affected is None:
            return None
        return any(
            all(holds(specifier, versions.get(package, "")) for package, specifier in window.versions.items())
            for window in self.condition.affected
        )


class Running:
    """A trial whose arms are on their way; `record` waits for them.

    ``controls``: what an arm that can be shared is asked of (`repros.run.controls.Controls.observe`).
    """

    def __init__(
        self,
        trial: Trial,
        place: Place,
        arms: ThreadPoolExecutor,
        logs: Path,
        machine: Mapping[str, Any],
        snapshots: bool = False,
        remedies: bool = True,
        controls: Callable[..., Observation] | None = None,
    ) -> None:
        self.trial = trial
        self._place = place
        self._machine = machine
        self._source = digest(trial.entry.module)
        self._missing = trial.missing(place.versions)
        # Where the record says that nothing is wrong there is nothing to remedy.
        wanted = remedies and trial.expected(place.versions) is not False
        self._remedies = {
            arm: one
            for arm, one in trial.condition.remedy_arms().items()
            if wanted and not unmet(one.needs, place.versions)
        }
        self._futures: list[tuple[str, Future[Observation]]] = []
        self._witness: Future[Observation] | None = None
        if self._missing:
            return
        condition, entry = trial.condition, trial.entry
        checkpoint = place.checkpoint(condition.checkpoint) if condition.checkpoint else None
        can_propose = not unmet(entry.case.proposed_needs, place.versions)
        # Where bytes are judged, whether others may be on the card is for the cell's server to find out.
        shared = condition.budget.unit != "bytes" and condition.needs.cards == 1
        imported = imports.uses(entry.module) if controls is not None else frozenset()
        declared_arms = [arm for arm in entry.arms_of(condition) if arm != "proposed" or can_propose]
        for arm in [*declared_arms, *self._remedies]:
            request = {
                "module": entry.module,
                "condition": condition.name,
                "arm": arm,
                "checkpoint": checkpoint,
                "env": dict(condition.runs(arm)[1].env),
                "timeout_s": entry.case.timeout_s,
                "shared": shared,
                "card_bytes": condition.needs.card_bytes,
                "snapshot": snapshots and place.device == "cuda",
            }
            log = logs / f"{trial.cell}.{entry.name}.{condition.name}.{arm}.log"
            run: Callable[..., Observation] = place.observe
            lent = lendings(arm, imported, place.facts) if controls is not None else ()
            if controls is not None and lent:
                given = condition if arm in CONTROLS else None
                request |= {"watch": True} if given else {}
                what = Shared(entry.name, condition.name, arm, self._source, lent, of_machine(machine), given)
                run = partial(controls, what)
            self._futures.append((arm, arms.submit(run, request, log, cards=condition.needs.cards)))
        if condition.witness:
            log = logs / f"{trial.cell}.{entry.name}.{condition.name}.witness.log"
            request = {"arm": WITNESS, "script": str(witness_of(trial)), "env": {}, "timeout_s": entry.case.timeout_s}
            request |= {"shared": shared, "card_bytes": condition.needs.card_bytes}
            self._witness = arms.submit(place.observe, request, log, cards=condition.needs.cards)

    def cancel(self) -> None:
        """Call off the arms that did not start."""
        for future in self._all():
            future.cancel()

    def _all(self) -> list[Future[Observation]]:
        return [future for _, future in self._futures] + ([self._witness] if self._witness else [])

    def ended(self) -> bool:
        """Return whether every arm has come to its end and told of it."""
        return all(future.done() and not future.cancelled() and not future.exception() for future in self._all())

    def record(self) -> Record:
        """Wait for the arms and return the finished trial."""
        trial, condition = self.trial, self.trial.condition
        case, budget = trial.entry.case, condition.budget
        observed = {arm: relative_log(future.result()) for arm, future in self._futures}
        judged = {arm: read(one, budget, case.symptoms) for arm, one in observed.items()}
        if self._missing:
            verdict, reason = Verdict.UNSUPPORTED, self._missing
        else:
            verdict, reason = decide([judged["subject"]], judged["reference"], judged.get("planted"))
        witness = heard(condition.witness, relative_log(self._witness.result())) if self._witness else {}
        verdict, reason = with_witness(verdict, reason, witness)
        expected = trial.expected(self._place.versions)
        result = outcome(verdict, expected)
        proposed = None
        if "proposed" in judged and verdict in SETTLED:
            kind, why = effect(
                (judged["subject"][0], observed["subject"]),
                (judged["proposed"][0], observed["proposed"]),
                case.numbers_of(condition),
            )
            proposed = {"effect": kind.value, "reason": why}
        arms = {arm: (judged[arm][0], one) for arm, one in observed.items()}
        limit = case.numbers_of(condition)
        return Record(
            case=trial.entry.name,
            condition=condition.name,
            cell=trial.cell,
            device=self._place.device,
            verdict=verdict,
            outcome=result,
            failed=is_failure(verdict, result),
            expected=expected,
            reason=reason,
            budget=as_record(budget),
            margins=margins(observed.get("planted"), observed["reference"], budget) if observed else {},
            proposed=proposed,
            remedies={arm: kept(one, arms, arm, verdict, limit) for arm, one in self._remedies.items() if arm in arms},
            readings={arm: reading.value for arm, (reading, _) in judged.items()},
            arms=tuple(observed.values()),
            environment=self._place.facts,
            machine=self._machine,
            date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            repeat=trial.repeat,
            source=self._source,
            control=condition.control,
            witness=witness,
        )


def kept(
    remedy: Remedy,
    arms: Mapping[str, tuple[ArmReading, Observation]],
    arm: str,
    verdict: Verdict,
    numbers_limit: float,
) -> dict[str, str]:
    """Return what a record keeps of a remedy: what it does, where the verdict is settled."""
    kind, why = Effect.UNSETTLED, f"the trial is {verdict.value}"
    if verdict in SETTLED:
        kind, why = effect(arms["subject"], arms[arm], numbers_limit)
    return {"text": remedy.text, "recommended": remedy.recommended, "effect": kind.value, "reason": why}


def witness_of(trial: Trial) -> Path:
    """Return the path of a trial's witness."""
    return ROOT.joinpath(*trial.entry.module.split(".")).with_name(trial.condition.witness)


def heard(file: str, observation: Observation) -> dict[str, Any]:
    """Return what is kept of a witness: its vote and last words; one that came to no end of its own could not tell."""
    told = observation.evidence if observation.state == "done" else {"vote": "skip", "says": observation.reason}
    seconds = round(observation.seconds.get("total", 0.0), 3)
    return {"file": file, "vote": told["vote"], "says": told["says"], "seconds": seconds, "log": observation.log}


def declared(record: Record, known: Mapping[str, Entry]) -> Condition | None:
    """Return the condition that a record is of; None where its case or its condition is no more."""
    entry = known.get(record.case)
    return next((c for c in entry.case.conditions if c.name == record.condition), None) if entry else None


def judged_again(record: Record, known: Mapping[str, Entry]) -> Record:
    """Return a record with its verdict held against what is recorded of the case now, not when it was tried."""
    condition = declared(record, known)
    if condition is None or not record.versions:
        return record
    expected = Trial(known[record.case], condition, record.cell).expected(record.versions)
    result = outcome(record.verdict, expected)
    return replace(record, expected=expected, outcome=result, failed=is_failure(record.verdict, result))


def as_record(budget: Budget) -> dict[str, Any]:
    """Return a budget as it is kept in a record."""
    kept = {"figure": budget.figure, "second": budget.second, "limit": to_number(budget.limit), "unit": budget.unit}
    return kept | ({"second_slack": budget.second_slack} if budget.second_slack else {})


def relative_log(observation: Observation) -> Observation:
    """Name the log from the run's folder: a record says nothing of where that lies."""
    path = Path(observation.log)
    return replace(observation, log=f"{path.parent.name}/{path.name}")


def not_run(trial: Trial, verdict: Verdict, reason: str, device: str, machine: Mapping[str, Any]) -> Record:
    """Return the record of a trial whose cell could not be made ready: `unsupported` or `error`."""
    return Record(
        case=trial.entry.name,
        condition=trial.condition.name,
        cell=trial.cell,
        device=device,
        verdict=verdict,
        outcome=Outcome.UNSETTLED,
        failed=is_failure(verdict, Outcome.UNSETTLED),
        expected=False,
        reason=reason,
        budget=as_record(trial.condition.budget),
        machine=machine,
        date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        repeat=trial.repeat,
        control=trial.condition.control,
    )


def two_lines(record: Record) -> str:
    """Return the message of a failed trial: what was observed against what was allowed; then what to do."""
    name = f"{record.case}[{record.condition}] in {record.cell}"
    observed = printable(f"{name}: {record.verdict.value}: ", most=MOST) + printable(record.reason, most=MOST)
    hints = {
        Outcome.REGRESSION: f"the record says that this version is not affected; look closer with `{record.repeat}`",
        Outcome.FIXED: "the record says that this version is affected; if that is over, narrow `affected` in the case",
        Outcome.NEW: "nothing is recorded here yet; write what it is into `affected` of the condition",
        Outcome.UNSETTLED: f"read the arms' logs ({log_of(record)} in the run's folder), then `{record.repeat}`",
    }
    return f"{observed}\nhint: {printable(hints.get(record.outcome, 'nothing to do'), most=MOST)}"


def log_of(record: Record) -> str:
    """Return the log that is worth reading first: of the arm that did not do what it must."""
    wanted: dict[str, str] = {"reference": "inside", "planted": "over"}
    for arm in record.arms:
        reading = record.readings.get(arm.arm)
        if arm.arm not in record.remedies and reading != wanted.get(arm.arm, "inside"):
            return arm.log
    return record.arms[0].log if record.arms else "none was written"
