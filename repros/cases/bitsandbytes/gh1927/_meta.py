"""What the cases of bitsandbytes#1927 on the meta device share: a layer there, a step of training, reference and bug.

The meta device holds shapes and no data: a model is built there, and a loader then gives it weights.
"""

import copy
import pickle

from repros.cases.bitsandbytes.gh1927._int8 import IN, OUT


def installed_layer_on_meta():
    """Return bitsandbytes' layer, built on meta; a loader asks it for its ``state_dict()``."""
    import torch
    from bitsandbytes.nn import Linear8bitLt

    with torch.device("meta"):
        layer = Linear8bitLt(IN, OUT, has_fp16_weights=False).requires_grad_(False)
    layer.state_dict()
    return layer


def fixed_layer_from_meta(frozen, assign=False):
    """Return the reference: codes and scale are buffers, so a layer on meta has both, copies both and loads both."""
    from repros.reference.modules import FrozenLinear8bit

    layer = pickle.loads(pickle.dumps(copy.deepcopy(FrozenLinear8bit(IN, OUT, device="meta"))))
    layer.state_dict()
    layer = layer if assign else layer.to_empty(device="cpu")
    layer.load_state_dict(FrozenLinear8bit.from_weight(frozen.weight, frozen.bias).state_dict(), assign=assign)
    return layer.requires_grad_(False).to(frozen.device)


def layer_with_replaced_weight(frozen):
    """Plant the bug: the scale is an attribute of the weight, and the weight is replaced by one without it."""
    import torch

    from repros.reference.linear import linear_8bit

    class Int8Params(torch.nn.Parameter):
        pass

    class Layer(torch.nn.Module):
        def forward(self, x):
            return linear_8bit(x, self.weight, self.weight.SCB, frozen.bias)

    layer = Layer()
    layer.weight = torch.Tensor._make_subclass(Int8Params, frozen.codes.to("meta"))
    layer.weight.SCB = frozen.scale
    layer.weight = torch.Tensor._make_subclass(Int8Params, frozen.codes)
    return layer


def train(layer, batch):
    """Ask for the ``state_dict()`` again, train the gate in ``layer(x) * gate`` for a step, and return its numbers."""
    import torch

    yield "forward"
    layer.train().state_dict()
    out = layer(batch.x) * batch.gate
    yield "backward"
    torch.autograd.backward(out, batch.grad)
    return {"output": out, "grad_input": batch.x.grad, "grad_gate": batch.gate.grad}
