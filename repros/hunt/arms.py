"""A life as the arms of a case, and the largest error that a right layer may have in it."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from types import SimpleNamespace
from typing import Any

from repros.case import ITEMSIZE, Condition
from repros.hunt.life import Life

Arm = Generator[str, None, Mapping[str, Any]]

BFLOAT16_EPS = 2.0**-7
INPLACE = "modified by an inplace operation"


def error_limit(life: Life) -> float:
    """Return the largest relative error, in the maximum norm, of a right layer against its float64 oracle.

    8 bits: a code is r/127 of the deviation of the activations wide (r = sqrt(2 ln(elements)), the largest of that
    many normal values), and its rounding error is that over sqrt(12); twice it, for a row's own largest value is not
    that of all. 4 bits: codes are exact; scale, value, input and result are rounded to bfloat16 at the worst (a CPU
    kernel of 0.49 and later does so whatever the dtype), 2**-8 each, so 2**-6. Double quantization moves a scale by
    half a step of an 8-bit table, 1/64 of the spread of the scales, a quarter of a scale at most: 2**-6 more at twice.
    A cast of the module rounds the bias to its dtype, which here is exact.
    """
    spec = life.full()
    if spec["kind"] == "int8":
        elements = 16 * spec["in"]
        return 2 * math.sqrt(2 * math.log(elements)) / (127 * math.sqrt(12)) + BFLOAT16_EPS
    return 2.0**-6 * (3 if spec["double"] else 1) + BFLOAT16_EPS


def held_limit(life: Life) -> float:
    """Return what may be held from forward to backward: input and output, and half of the packed weight as slack."""
    spec = life.full()
    each: float = ITEMSIZE[spec["dtype"]] * 16
    packed = spec["in"] * spec["out"] / (1 if spec["kind"] == "int8" else 2)
    return float(each * (spec["in"] + spec["out"]) + packed / 2)


def inputs(c: Condition) -> dict[str, SimpleNamespace]:
    """Draw the inputs of a life, and let new memory hold NaN: what is read unwritten is not right by chance."""
    import torch

    from repros.hunt import upstream

    # Filling is a part of this mode (`torch.utils.deterministic.fill_uninitialized_memory`); it warns where an
    # operator has no deterministic form and changes nothing else there.
    torch.use_deterministic_algorithms(True, warn_only=True)
    spec = c.life.full()
    return {"i": SimpleNamespace(life=c.life, spec=spec, t=upstream.make_tensors(spec))}


def oracle(c: Condition, i: Any) -> dict[str, Any]:
    """Compute output and gradient of the input in float64, with the weight that the codes stand for."""
    from repros.hunt import upstream

    if c.what == "unnoticed":
        return {}
    weight = upstream.dequantized(i.spec, i.t["weight"])
    out = i.t["x"].double() @ weight.t() + (0 if i.t["bias"] is None else i.t["bias"].double())
    found = {"output": out}
    if i.life.steps and i.life.steps[-1][0] == "step":
        found["grad_input"] = i.t["grad"].double() @ weight
    return found


def live(i: Any, side: Any, between: Any = None, layer: Any = None) -> Arm:
    """Go through the life; a last step that computes nothing is followed by a forward. Return what came last."""
    layer = side.build(i.spec, i.t) if layer is None else layer
    yield "life"
    steps = list(i.life.steps)
    if not steps or steps[-1][0] not in ("step", "forward"):
        steps.append(("forward", {}))
    for name, parameters in steps[:-1]:
        layer, _ = yield from one(i, side, layer, name, parameters, named=False)
    name, parameters = steps[-1]
    _, result = yield from one(i, side, layer, name, parameters, named=True, between=between)
    return dict(result)


def one(
    i: Any, side: Any, layer: Any, name: str, parameters: Mapping[str, Any], named: bool, between: Any = None
) -> Any:
    """Take one step; return the layer and what it computed. ``named``: mark its phases for the meters."""
    import torch

    if name == "forward":
        with torch.no_grad():
            return layer, {"output": layer(i.t["x"])}
    if name != "step":
        return getattr(side, f"step_{name}")(layer, i, **parameters), {}
    x = i.t["x"].clone().requires_grad_()
    if named:
        yield "forward"
    out = side.run(layer, x, parameters.get("mode", "plain"))
    if named:
        yield "backward"
    meanwhile = parameters.get("between", "nothing")
    if between is not None:
        between(layer, out)
    elif meanwhile == "reset":
        side.reset(layer)
    elif meanwhile == "forward":
        layer(i.t["x"] * 3)
    elif meanwhile == "change":
        side.change(layer)
    try:
        torch.autograd.backward(out, i.t["grad"])
    except RuntimeError as error:
        if meanwhile == "change" and INPLACE in str(error):
            return layer, {"output": out, "unnoticed": 0.0}
        raise
    computed = {"output": out.detach(), "grad_input": x.grad}
    if meanwhile == "change":
        # A recompute takes the weight as it is by then, here and in a dense layer: only a kept graph can notice.
        computed["unnoticed"] = 1.0 if parameters.get("mode", "plain") in ("plain", "compiled") else 0.0
    return layer, computed


def subject(c: Condition, i: Any) -> Arm:
    """Lead the life with the installed package."""
    from repros.hunt import upstream

    return (yield from live(i, upstream))


def reference(c: Condition, i: Any) -> Arm:
    """Lead the life with the reference."""
    from repros.hunt import fixed

    return (yield from live(i, fixed))


def planted(c: Condition, i: Any) -> Arm:
    """Lead the life with the reference and the same kind of departure put in on purpose."""
    import os
    import signal

    from repros.hunt import fixed

    what = str(c.what)
    layer = fixed.build(i.spec, i.t)
    if what.startswith("killed by"):
        os.kill(os.getpid(), getattr(signal, what.removeprefix("killed by ")))
    if what.startswith("raises"):
        kind, _, text = what.removeprefix("raises ").partition(": ")
        raise type(kind, (Exception,), {})(text)
    if what == "unnoticed":
        return (yield from live(i, fixed, between=change_unseen))
    if what == "gradient":
        return (yield from live(i, fixed, between=wrong_gradient))
    if what == "held":
        return (yield from live(i, keeping(fixed), layer=layer))
    lose_scale(layer)
    return (yield from live(i, fixed, layer=layer))


def lose_scale(layer: Any) -> None:
    """Give every row or block a scale that is not its own."""
    if hasattr(layer, "codes"):
        from repros.reference.int8 import quantize_rowwise

        layer.codes, layer.scale = quantize_rowwise(layer.codes.float())
    elif layer.nested_absmax is not None:
        layer.nested_absmax, layer.nested_offset = layer.nested_absmax * 3, layer.nested_offset * 3
    else:
        layer.absmax = layer.absmax * 3


def wrong_gradient(layer: Any, out: Any) -> None:
    """Triple what flows back, as a scale lost between forward and backward does."""
    out.register_hook(lambda grad: grad * 3)


def change_unseen(layer: Any, out: Any) -> None:
    """Change the codes past the version counter."""
    (layer.codes if hasattr(layer, "codes") else layer.packed).data.zero_()


def keeping(side: Any) -> Any:
    """Return a side that keeps a float32 weight with each output, whatever the mode of training."""
    import torch

    def run(layer: Any, x: Any, mode: str) -> Any:
        out = side.run(layer, x, mode)
        out.kept = torch.ones(layer.out_features, layer.in_features)
        return out

    return SimpleNamespace(**{**vars(side), "run": run})
