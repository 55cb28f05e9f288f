"""Lead a life on both sides and compare after each step; in a cell, as the arm of a request like any other.

The arm raises `Departed`, whose text is JSON, at the first step after which output, gradient, held bytes or
exceptions differ by more than a right layer's may. Each step is named on stderr first, so that the log tells where a
process was killed.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any

from repros.case import Case, Condition, error
from repros.hunt import arms
from repros.hunt.arms import error_limit, held_limit, one
from repros.hunt.life import Life

CASE = Case(
    report="repros#0",
    title="a life, side by side",
    kind="finding of the hunt",
    status="",
    severity="wrong numbers",
    trigger="",
    claims=(),
    conditions=(Condition("life", error(0)),),
)
STEP_MARK = "life: step "

__all__ = ["CASE", "Departed", "FaultError", "inputs", "subject"]


class Departed(Exception):  # noqa: N818 - what was found, not an error of ours
    """The installed package departs from the reference."""


class FaultError(Exception):
    """The reference departs from its own oracle, or raises: nothing can be said of the package."""


def inputs(c: Condition) -> dict[str, Any]:
    """Draw the inputs of the life that the request brings."""
    return arms.inputs(replace(c, params={"life": Life.from_json(c.life)}))


def subject(c: Condition, i: Any) -> Generator[str, None, Mapping[str, Any]]:
    """Lead the life; what is returned is of no interest."""
    from repros.hunt import fixed, upstream

    yield "life"
    sides = [upstream, fixed]
    layers: list[Any] = [None, None]
    for at, (name, parameters) in enumerate([("build", {}), *i.life.steps]):
        print(f"{STEP_MARK}{at - 1}", file=sys.stderr, flush=True)
        found: list[Mapping[str, Any]] = [{}, {}]
        raised: list[BaseException | None] = [None, None]
        was_away = away(layers[1])
        for n in (1, 0):
            try:
                if name == "build":
                    layers[n] = sides[n].build(i.spec, i.t)
                else:
                    layers[n], found[n] = take(i, sides[n], layers[n], name, parameters)
            except Exception as error:  # noqa: BLE001 - both sides' exceptions are compared
                raised[n] = error
        if raised[1] is not None and (was_away or type(raised[0]) is type(raised[1])):
            # Neither side can take this step here, and both say so; or the values are with accelerate, on the meta
            # device there is nothing to save or to offload again, and the reference says so: the life ends.
            return {}
        if raised[1] is not None:
            raise FaultError(f"the reference raised in step {at - 1} {name}: {raised[1]!r}") from raised[1]
        if raised[0] is not None:
            raise departed(f"raises {type(raised[0]).__name__}: {worded(raised[0])}", at - 1, raised[0]) from raised[0]
        compare(i, at - 1, found[0], found[1])
        if parameters.get("between") == "change":
            return {}  # the weight is another one from here on
    return {}


def away(layer: Any) -> bool:
    """Return whether offload hooks hold a layer's values at present."""
    return layer is not None and any(t.is_meta for t in (*layer.parameters(), *layer.buffers()))


def take(i: Any, side: Any, layer: Any, name: str, parameters: Mapping[str, Any]) -> Any:
    """Take a step to its end; read what is held where backward starts."""
    import gc

    ledger = watching()
    steps = one(i, side, layer, name, parameters, named=True)
    held = before = 0
    while True:
        try:
            phase = next(steps)
        except StopIteration as stop:
            layer, found = stop.value
            return layer, {**found, **({"held_bytes": held} if name == "step" else {})}
        if phase == "forward":
            gc.collect()  # what an earlier step left in cycles would be counted as given back
            before = ledger.live_bytes if ledger else 0
        elif ledger:
            gc.collect(0)
            held = ledger.live_bytes - before


def watching() -> Any:
    """Return the ledger that the worker has open around this arm."""
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

    for mode in _get_current_dispatch_mode_stack():
        ledger = getattr(mode, "_ledger", None)
        if ledger is not None:
            return ledger
    return None


def compare(i: Any, at: int, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raise what the step shows."""
    from repros.hunt import upstream
    from repros.meters.numerics import relative_error

    if "output" not in ours:
        return
    limit = error_limit(i.life)
    weight = upstream.dequantized(i.spec, i.t["weight"])
    exact = {"output": i.t["x"].double() @ weight.t() + (0 if i.t["bias"] is None else i.t["bias"].double())}
    if "grad_input" in ours and not ("unnoticed" in ours or "unnoticed" in theirs):
        exact["grad_input"] = i.t["grad"].double() @ weight
    for name, want in exact.items():
        mine = relative_error(ours[name], want)
        if mine > limit:
            raise FaultError(f"the reference's {name} is off by {mine:.3g} of {limit:.3g} allowed in step {at}")
        value = theirs.get(name)
        error = float("inf") if value is None else relative_error(value, want)
        if error > limit:
            what = "output" if name == "output" else "gradient"
            raise departed(
                what, at, f"relative error {error:.3g}, at most {limit:.3g} is right, the reference's is {mine:.3g}"
            )
    if theirs.get("unnoticed", 0.0) > ours.get("unnoticed", 0.0):
        raise departed("unnoticed", at, "codes changed in place between forward and backward: a dense layer raises")
    held, allowed = theirs.get("held_bytes", 0), held_limit(i.life)
    if held > allowed >= ours.get("held_bytes", 0):
        raise departed("held", at, f"{held} bytes held for backward, {ours['held_bytes']} by the reference")


def departed(what: str, at: int, why: object) -> Departed:
    """Return the finding as an exception whose text is JSON."""
    return Departed(json.dumps({"what": what, "at": at, "detail": placeless(str(why))[:500]}))


def worded(error: BaseException) -> str:
    """Return the first line of an exception without numbers and addresses, which differ from life to life."""
    lines = placeless(str(error)).strip().splitlines() or [""]
    return re.sub(r"0x[0-9a-f]+|\d+", "N", lines[0])[:120]


def placeless(text: str) -> str:
    """Return a text in which each file is named without the folders it lies in: those are this machine's."""
    return re.sub(r"(?<![\w/])/(?:[^\s/:'\"()]+/)+", "", text)
