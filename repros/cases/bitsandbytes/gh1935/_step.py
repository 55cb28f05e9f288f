"""What the cases of bitsandbytes#1935 share: the report, the step that is judged, its size."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from repros.case import NOTHING, Budget, Condition, Needs
from repros.cases._frozen import Arm
from repros.cases.bitsandbytes.gh1935._fix import PROPOSES

REPORT: dict[str, Any] = {
    "report": "bitsandbytes#1935",
    "kind": "pull request",
    "status": "closed unmerged, withdrawn by its author",
    "severity": "memory",
    "proposes": PROPOSES,
}

NEWEST = Needs({"transformers": ">=5.20"}, reason="transformers has no part in it; its newest release is enough")
#: Widths along the six weights of a layer of the report's 9B model.
LAYER_9B = (4096, 4096, 4096, 12288, 4096, 12288, 4096)
WEIGHTS = 2 * 4096 * 4096 + 4 * 4096 * 12288
LAYER_BYTES = (2 + 2 + 1) * WEIGHTS  # in 16 bits, the same again where autograd saves it, codes with their scales
DRAWING_BYTES = 2 * 4 * 4096 * 12288  # a weight is drawn and scaled in float32


def of_9b(proxy: Condition, budget: Budget, layers: int = 1, needs: Needs = NOTHING, **declared: Any) -> Condition:
    """Declare the same for layers of the report's 9B model, on a GPU."""
    size = "layer" if layers == 1 else f"{layers}-layers"
    needs = replace(needs, card_bytes=layers * LAYER_BYTES + DRAWING_BYTES)
    params = {"tokens": 128, "widths": LAYER_9B + (layers - 1) * LAYER_9B[1:]}
    declared = {"affected": (), "proposed": False, "remedies": (), **declared}
    return proxy.on_card(size, budget, params, needs=needs, **declared)


def wrapped(c: Any, run: Any) -> Any:
    """Return the chain compiled or checkpointed, as the condition has it.

    ``aot_eager`` splits a joint graph into forward and backward by default, its sibling and inductor by min-cut.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    if "backend" in c.params:
        return torch.compile(run, backend=c.backend)
    if "reentrant" in c.params:
        return partial(checkpoint, run, use_reentrant=c.reentrant)
    return run


def train(c: Any, run: Any, x: Any, grad: Any) -> Arm:
    """Warm up, bare and wrapped; then run the step that is judged: what is alive at ``backward`` was kept for it."""
    import torch

    judged = wrapped(c, run)
    for step in (run, judged):
        step(x).backward(grad)
        x.grad = None  # compiled code is guarded on it: the judged step must find it so
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    yield "forward"
    output = judged(x)
    yield "backward"
    output.backward(grad)
    return {"output": output, "grad_input": x.grad, **({"graph_calls": graphs} if graphs else {})}
