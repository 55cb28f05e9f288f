"""A condition that notes what is asked of it: to an arm, two conditions that agree in that are one.

Standard library alone: it is imported in a cell's interpreter.
"""

from __future__ import annotations

from typing import Any

from repros.case import Condition

#: The attributes that were asked for in this process, which runs one arm.
READ: set[str] = set()


class Watched(Condition):
    """A condition as any; who asks for all of it, as ``but`` does, has asked for its name too."""

    def __getattribute__(self, name: str) -> Any:
        """Return an attribute, and note that it was asked for."""
        if name != "__class__":
            READ.add(name)
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> Any:
        """Return a parameter."""
        held = object.__getattribute__(self, "__dict__")
        return held["params"][name] if name in held.get("params", ()) else super().__getattr__(name)


def watched(condition: Condition) -> Condition:
    """Return the same condition, watched from now on."""
    made = object.__new__(Watched)
    object.__getattribute__(made, "__dict__").update(vars(condition))
    READ.clear()
    return made
