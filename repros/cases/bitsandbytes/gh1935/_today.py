"""What a user of bitsandbytes#1935 can do today."""

from __future__ import annotations

from typing import Any

from repros.case import Remedy
from repros.cases._frozen import Arm, installed
from repros.cases.bitsandbytes.gh1935._step import train

APART = Remedy("wrap each quantized layer in `torch.compiler.disable`, and compile the rest", arm="remedy_apart")
RECOMPUTE = Remedy(
    "have the compiler recompute: `torch._functorch.config.activation_memory_budget = 0`", arm="remedy_recompute"
)


def remedy_apart(c: Any, x: Any, weights: Any, grad: Any) -> Arm:
    import torch

    return train(c, torch.nn.Sequential(*map(torch.compiler.disable, installed(c, weights).train(c.training))), x, grad)


def remedy_recompute(c: Any, x: Any, weights: Any, grad: Any) -> Arm:
    import torch._functorch.config

    torch._functorch.config.activation_memory_budget = 0
    return train(c, installed(c, weights).train(c.training), x, grad)
