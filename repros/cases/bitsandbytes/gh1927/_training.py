"""Two steps of training an int8 layer, the reference's layer for that, and the bug to plant in it."""


def fixed_layer(frozen, threshold=0.0):
    """Return the reference: codes and scale are buffers of the layer, so they go together wherever it goes."""
    from repros.reference.modules import FrozenLinear8bit

    return FrozenLinear8bit.from_weight(frozen.weight, frozen.bias, threshold=threshold)


def lose_scale(fixed):
    """Plant the bug: quantize the codes as if they were a weight. Every row reaches 127, so every scale becomes 127."""
    from repros.reference.int8 import quantize_rowwise

    fixed.codes, fixed.scale = quantize_rowwise(fixed.codes.float())


def train(layer, batch, *, recompute="reentrant", training=True, between=None):
    """Train ``gate`` in ``layer(x) * gate`` for two steps; return the numbers of the second.

    ``recompute`` is a mode of ``torch.utils.checkpoint``, ``reentrant`` or ``nonreentrant``, or None for plain calls.
    Both modes run the layer again, for the gradient of the gate. ``between`` is done to the layer before each backward.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    def block(x):
        return layer(x) * batch.gate

    layer.train(training)
    for forward, backward in ("forward", "backward"), ("second forward", "second backward"):
        yield forward
        batch.x.grad = batch.gate.grad = None
        out = checkpoint(block, batch.x, use_reentrant=recompute == "reentrant") if recompute else block(batch.x)
        yield backward
        if between is not None:
            between(layer)
        torch.autograd.backward(out, batch.grad)
    return {"output": out, "grad_input": batch.x.grad, "grad_gate": batch.gate.grad}
