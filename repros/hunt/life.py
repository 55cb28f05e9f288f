"""What a life is: how a layer is made, and the steps it goes through. Standard library only, on both sides.

A life is JSON: ``{"spec": {...}, "steps": [["name", {...}], ...]}``. Fields of a spec that are left out have their
default, so a shrunk life names only what matters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: The first of each is the default, which shrinking moves towards.
SPEC: Mapping[str, tuple[Any, ...]] = {
    "kind": ("int8", "nf4", "fp4"),
    "in": (64, 96, 128),
    "out": (32, 64),
    "dtype": ("float32", "bfloat16", "float16"),
    "bias": (False, True),
    "threshold": (0.0, 6.0),  # int8
    "double": (False, True),  # 4-bit
    "blocksize": (64, 128),  # 4-bit
}
MODES = ("plain", "reentrant", "nonreentrant", "compiled")
BETWEEN = ("nothing", "reset", "forward", "change")

#: Steps and their parameters; ``step`` is a training step and ``forward`` one without gradients.
STEPS: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "step": {"mode": MODES, "between": BETWEEN},
    "forward": {},
    "train": {},
    "eval": {},
    "to": {},
    "weight_to": {},
    "deepcopy": {},
    "pickle": {},
    "torch_save": {},
    "state_dict": {},
    "state_dict_meta": {},
    "safetensors": {},
    "pretrained": {},
    "reset": {},
    "zero_grad": {},
    "tie": {},
    "cast": {"dtype": ("float16", "bfloat16")},
    "offload": {},
    "unhook": {},
    "lora": {},
    "lora_merge": {},
}
ONLY = {"reset": "int8"}

Step = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Life:
    """A spec (only what is not default) and steps (parameters likewise)."""

    spec: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()

    @classmethod
    def of(cls, spec: Mapping[str, Any], steps: Sequence[Step]) -> Life:
        """Return the life without what is default or has no meaning for its kind."""
        kind = spec.get("kind", "int8")
        idle = {"double", "blocksize"} if kind == "int8" else {"threshold"}
        kept = {k: v for k, v in spec.items() if v != SPEC[k][0] and k not in idle}
        return cls(kept, tuple((n, {k: v for k, v in p.items() if v != STEPS[n][k][0]}) for n, p in steps))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Life:
        """Read a life."""
        return cls.of(data["spec"], [(name, dict(parameters)) for name, parameters in data["steps"]])

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {"spec": dict(self.spec), "steps": [[name, dict(p)] for name, p in self.steps]}

    def full(self) -> dict[str, Any]:
        """Return the whole spec."""
        return {**{name: values[0] for name, values in SPEC.items()}, **self.spec}

    @property
    def key(self) -> str:
        """Return the same text for the same life."""
        return json.dumps(self.to_json(), sort_keys=True)

    @property
    def size(self) -> tuple[int, int, str]:
        """Order lives: fewer steps, then fewer things that are not default."""
        return len(self.steps), len(self.spec) + sum(len(p) for _, p in self.steps), self.key

    def words(self) -> str:
        """Say the life in a line."""
        spec = ", ".join(f"{name}={value}" for name, value in self.spec.items()) or "defaults"
        return f"[{spec}] " + " → ".join(call(step) for step in self.steps)


def call(step: Step) -> str:
    """Say a step as a call."""
    name, parameters = step
    inside = ", ".join(f"{key}={value}" for key, value in parameters.items())
    return f"{name}({inside})" if inside else name


@dataclass(frozen=True)
class Departure:
    """How the installed package departs from the reference.

    ``what``: ``output``, ``gradient``, ``held``, ``unnoticed`` (it goes on where the reference raises),
    ``raises TYPE: TEXT`` (it raises where the reference goes on) or ``killed by SIGNAL``. ``at``: index of the step.
    """

    what: str
    at: int
    detail: str = ""


def matches(life: Life, pattern: Life) -> bool:
    """Return whether a life has all that a pattern has: its spec, and its steps in that order, their parameters too.

    The two 4-bit types share their code and count as one; where a pattern has a forward, a training step will do.
    """
    spec = life.full()
    if any(spec[name] != value for name, value in pattern.spec.items() if name != "kind"):
        return False
    if (spec["kind"] == "int8") != (pattern.full()["kind"] == "int8"):
        return False
    remaining = iter(life.steps)
    return all(
        any(
            (name == n or (name, n) == ("forward", "step")) and all(p.get(k) == v for k, v in wanted.items())
            for n, p in remaining
        )
        for name, wanted in pattern.steps
    )
