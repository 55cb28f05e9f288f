"""A case file's contents as data: what the process that read the file says, and what the suite makes of that.

Only what JSON can hold goes over, and it is checked on arrival as a declaration is where it is written. Parameters that
JSON cannot hold, which arms alone read, arrive as `Opaque`; a function that gives a figure arrives as the figure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from repros.case import Affected, Budget, Case, Claim, Condition, Needs, Reading, Remedy, Symptom
from repros.cases.importing import Contents, functions
from repros.errors import MOST, shortened

PARTS: Mapping[str, Any] = {
    kind.__name__: kind for kind in (Affected, Budget, Case, Claim, Condition, Needs, Reading, Remedy, Symptom)
}


@dataclass(frozen=True)
class Opaque:
    """A parameter of a condition that stayed in the process that read it; ``shown`` is its `repr`."""

    shown: str


@dataclass(frozen=True)
class Given:
    """A reading's function that was called where the case file was read."""

    figure: float

    def __call__(self) -> float:
        """Return what it returned there."""
        return self.figure


# --- on the way out ------------------------------------------------------------------------------


def data_of(found: Contents) -> dict[str, Any]:
    """Return the contents of a case file as JSON can hold them; TypeError where it cannot."""
    case = None if found.case is None else _part_data(found.case)
    return {"case": case, "kind": found.kind, "doc": found.doc, "has": dict(found.has)}


def _part_data(part: Any) -> dict[str, Any]:
    values = {one.name: _value_data(str(one.type), getattr(part, one.name)) for one in fields(part)}
    if isinstance(part, Reading):
        values["value"] = part.value() if part.arm == "arithmetic" else None
    return {"place": list(part.place), **values}


def _value_data(kind: str, value: Any) -> Any:
    if kind == "Params":
        return {name: _param_data(one) for name, one in value.items()}
    if type(value).__name__ in PARTS:
        return _part_data(value)
    if isinstance(value, Mapping):
        return {name: _value_data("", one) for name, one in value.items()}
    return [_value_data("", one) for one in value] if isinstance(value, tuple | list) else value


def _param_data(value: Any) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (list, tuple):
        each = [_param_data(one) for one in value]
        return each if isinstance(value, list) else {"tuple": each}
    return {"opaque": shortened(repr(value), MOST)}


# --- on the way in -------------------------------------------------------------------------------


def contents(data: Any, module: str, file: Path) -> Contents:
    """Return what data say that a case file has.

    ValueError where they are no such data; DeclarationError, with the part's place, where they say what no case can
    declare.
    """
    case, kind, doc, has = _items(data, "case", "kind", "doc", "has")
    functional = isinstance(has, dict) and all(isinstance(one, str) for one in has.values())
    if not (functional and isinstance(case, dict | None) and isinstance(kind, str) and isinstance(doc, str | None)):
        raise ValueError("what it has is of another kind")
    found = None if case is None else _part(Case, case)
    if not has.keys() <= {*functions(found)}:
        raise ValueError("what it has is of another kind")
    return Contents(module, file, found, shortened(kind), doc, {name: shortened(one) for name, one in has.items()})


def _items(data: Any, *names: str) -> list[Any]:
    """Return the values of an object that has these names and no others."""
    if not isinstance(data, dict) or data.keys() != {*names}:
        raise ValueError(f"no object of {', '.join(names)}")
    return [data[name] for name in names]


def _part(kind: Any, data: Any) -> Any:
    """Return a part of a declaration; what is no object is refused by whoever it is a part of."""
    if not isinstance(data, dict):
        return data
    kinds = {one.name: str(one.type) for one in fields(kind)}
    place, *values = _items(data, "place", *kinds)
    if not (isinstance(place, list) and [type(one) for one in place] == [str, int]):
        raise ValueError("a place is a file and a line")
    found = {name: _value(of, value) for (name, of), value in zip(kinds.items(), values, strict=True)}
    return kind.placed((place[0], place[1]), found)


def _value(kind: str, value: Any) -> Any:
    """Return a field's value; one of another kind stays as it is, and the part that it is of refuses it."""
    kind = kind.removesuffix(" | None")
    if kind in PARTS:
        return _part(PARTS[kind], value)
    if isinstance(value, list) and (each := re.fullmatch(r"tuple\[(\w+), \.\.\.\]", kind)):
        return tuple(_value(each[1], one) for one in value)
    if kind == "Callable[[], float]":
        return _function(value)
    if kind == "Params" and isinstance(value, dict):
        return {name: _param(one) for name, one in value.items()}
    if kind == "Mapping[str, tuple[Reading, ...]]" and isinstance(value, dict):
        return {name: _value("tuple[Reading, ...]", one) for name, one in value.items()}
    return value


def _function(figure: Any) -> Callable[[], float]:
    if figure is None:
        return float  # it is not asked
    if type(figure) not in (int, float):
        raise ValueError("the figure of a reading is no number")
    return Given(figure)


def _param(value: Any) -> Any:
    if isinstance(value, list):
        return [_param(one) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items() if len(value) == 1 else [("", None)]
    if kind == "tuple" and isinstance(held, list):
        return tuple(_param(one) for one in held)
    if kind == "opaque" and isinstance(held, str):
        return Opaque(held)
    raise ValueError("a parameter is of another kind")
