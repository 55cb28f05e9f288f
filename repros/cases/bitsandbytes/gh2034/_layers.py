"""What the cases of bitsandbytes#2034 share: a layer as a callable and its tensors, and the fix of #2035."""

from dataclasses import dataclass
from typing import Any

from repros.cases._frozen import installed_layer
from repros.reference.formats import FourBit

REPORT: dict[str, Any] = {
    "report": "bitsandbytes#2034",
    "kind": "issue",
    "status": "open, fix proposed: #2035",
    "also": ("bitsandbytes#2035", "bitsandbytes#1927"),
}


@dataclass(frozen=True)
class Plain:
    """A weight that is not quantized, as a format. See `repros.reference.formats.Format`."""

    quantize = staticmethod(lambda weight: (weight.clone(),))
    dequantize = staticmethod(lambda quantized, dtype: quantized[0].to(dtype))
    multiply = staticmethod(lambda x, quantized: x @ quantized[0].t())


def installed(c, weight):
    """Return bitsandbytes' layer; of a plain weight, torch's product."""
    if isinstance(c.quant, Plain):
        return plain(c, weight)
    layer = installed_layer(c, weight)
    w = layer.weight
    return layer, (w.data, w.quant_state.absmax) if isinstance(c.quant, FourBit) else (w.CB, w.SCB)


def plain(c, weight):
    """Return the reference's function, which saves its weight."""
    q = c.quant.quantize(weight)
    return lambda x: c.quant.multiply(x, q), q if isinstance(q, tuple) else (q.packed, q.absmax)


def kept(c, weight):
    """Return a Function that multiplies likewise, and keeps its input and its weight on ``ctx``."""
    import torch

    class KeepsOnCtx(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.x, ctx.multiply = x.detach().requires_grad_(), multiply
            return multiply(x)

        @staticmethod
        @torch.enable_grad()
        def backward(ctx, grad):
            return torch.autograd.grad(ctx.multiply(ctx.x), ctx.x, grad)[0]

    multiply, tensors = plain(c, weight)
    return KeepsOnCtx.apply, tensors


def save_the_weight():
    """Let ``MatMul4Bit`` save the packed weight by ``save_for_backward``; its state stays on ``ctx`` (#2035)."""
    from bitsandbytes.autograd._functions import MatMul4Bit as Op

    old_forward, old_backward = Op.forward, Op.backward

    def forward(ctx, *args):
        output = old_forward(ctx, *args)
        ctx.save_for_backward(ctx.tensors[1])
        return output

    def backward(ctx, grad):
        ctx.tensors = (None, *ctx.saved_tensors)
        return old_backward(ctx, grad)

    Op.forward, Op.backward = staticmethod(forward), staticmethod(backward)


def train(c, x, weights, grad, make):
    """Run one step; each layer is written within its checkpoint into the buffer that ``c.buffer`` names."""
    from torch.utils.checkpoint import checkpoint

    stored, buffers = ([make(c, weight) for weight in weights] for _ in range(2))
    y, turns = x, iter(range(2 * len(weights)))

    def block(x, layer):
        run, tensors = buffers[c.buffer(layer, next(turns))]
        for tensor, one in zip(tensors, stored[layer][1], strict=True):
            tensor.copy_(one)
        return run(x)

    yield "forward"
    for layer in range(len(weights)):
        y = checkpoint(block, y, layer, use_reentrant=c.reentrant)
    yield "backward"
    y.backward(grad)
    return {"output": y, "grad_input": x.grad}
