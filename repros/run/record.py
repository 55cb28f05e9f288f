"""A finished trial as it is kept: one frozen record, one line of strict JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from repros.verdict import SCHEMA, Observation, Outcome, Verdict, to_number


@dataclass(frozen=True)
class Record:
    """One trial as it is kept: verdict, outcome, and everything they were drawn from."""

    case: str
    condition: str
    cell: str
    device: str
    verdict: Verdict
    outcome: Outcome
    failed: bool
    expected: bool | None
    reason: str
    budget: Mapping[str, Any]
    margins: Mapping[str, float | None] = field(default_factory=dict)
    proposed: Mapping[str, str] | None = None
    readings: Mapping[str, str] = field(default_factory=dict)
    arms: tuple[Observation, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    date: str = ""
    repeat: str = ""
    control: bool = False
    """Whether its condition is a control condition, which has no planted arm."""
    witness: Mapping[str, Any] = field(default_factory=dict)
    """File, vote, last words, seconds and log of the report's witness; empty where the condition has none."""
    remedies: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Arm -> text, recommended, effect and reason of the remedy that it tried."""
    source: str = ""
    """Digest of the case's own source (`repros.cases.sources`); empty where it was not noted."""
    rivals: tuple[Mapping[str, Any], ...] = ()
    """Results of this trial in several runs that disagree: ``run``, its name, and ``record``, all that it kept."""

    @property
    def versions(self) -> dict[str, str]:
        """Return package -> version as installed, without a local part; empty where the cell could not be had."""
        packages = self.environment.get("packages", {})
        return {name: str(version).partition("+")[0] for name, version in packages.items()}

    @property
    def key(self) -> tuple[str, str, str]:
        """Return what makes a trial: case, condition and cell."""
        return self.case, self.condition, self.cell

    def arm(self, name: str) -> Observation | None:
        """Return the (first) observation of an arm."""
        return next((arm for arm in self.arms if arm.arm == name), None)

    def figure(self, arm: str) -> float | None:
        """Return the judged figure of an arm, if it reached one."""
        observation = self.arm(arm)
        return observation.reached(self.budget.get("figure", "")) if observation else None

    def to_line(self) -> str:
        """Return the record as one line of strict JSON."""
        return json.dumps(self.as_json(), allow_nan=False, separators=(",", ":")) + "\n"

    def as_json(self) -> dict[str, Any]:
        """Return what `to_line` writes and `from_json` reads."""
        record = {"schema": SCHEMA, "kind": "trial", **{name: getattr(self, name) for name in _FIELDS}}
        for name in ("source", "control", "witness", "remedies", "rivals"):
            if not record[name]:
                del record[name]
        record["arms"] = [arm.to_json() for arm in self.arms]
        record["margins"] = {name: to_number(value) for name, value in self.margins.items()}
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Record:
        """Read what `to_line` wrote."""
        values = {name: value for name, value in record.items() if name in _FIELDS}
        values["verdict"], values["outcome"] = Verdict(record["verdict"]), Outcome(record["outcome"])
        values["arms"] = tuple(Observation.from_json(arm) for arm in record["arms"])
        values["rivals"] = tuple(record.get("rivals", ()))
        values["margins"] = {n: float(v) if isinstance(v, str) else v for n, v in record["margins"].items()}
        return cls(**values)


_FIELDS = tuple(f.name for f in fields(Record))
