"""Two experts whose weights are one quantized parameter, as in the mixture blocks of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from repros.case import Needs
from repros.cases._frozen import reference_format

PARAMETRIZE = Needs({"bitsandbytes": ">=0.48.0"}, reason="bitsandbytes.nn.parametrize came with 0.48.0")


def routed(experts: Sequence[Any]) -> Any:
    """Return one function that gives each expert its share of the rows."""
    import torch

    def run(x: Any) -> Any:
        return torch.cat([expert(rows) for expert, rows in zip(experts, x.chunk(len(experts)), strict=True)])

    return run


def installed_experts(c: Any, weights: Any) -> Any:
    """Return a module whose parameter bitsandbytes quantizes, and which `F.linear` applies expert by expert."""
    import torch
    from bitsandbytes.nn.parametrize import replace_parameter_4bit

    class Experts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.stack(weights), requires_grad=False)

        def forward(self, x: Any) -> Any:
            return routed([partial(torch.nn.functional.linear, weight=self.weight[e]) for e in (0, 1)])(x)

    experts = Experts()
    quant_type, double = c.quant
    replace_parameter_4bit(experts, "weight", compress_statistics=double, quant_type=quant_type)
    return experts


def exact_experts(c: Any, x: Any, weights: Any, grad: Any) -> dict[str, Any]:
    """Return output and gradient in float64, with the weights that the codes stand for."""
    import torch

    how = reference_format(c)
    exact = [how.dequantize(how.quantize(weight), torch.float64) for weight in weights]
    x = x.detach().double().requires_grad_()
    output = routed([partial(torch.nn.functional.linear, weight=weight) for weight in exact])(x)
    output.backward(grad.double())
    return {"output": output.detach(), "grad_input": x.grad}
