"""The int8 layer of the cases of bitsandbytes#1927, its inputs, and the error that a right layer may have.

An int8 weight is ``codes * scale / 127``: int8 codes, and for each row its largest magnitude as a float32 scale.
bitsandbytes calls them ``CB`` and ``SCB``. What is trained is the gate in ``layer(x) * gate``; the layer is frozen.
"""

import math
from collections import namedtuple
from typing import Any

from repros.case import Symptom

IN, OUT, BATCH, LENGTH = 256, 512, 2, 32

# How far a right layer may be off, relative to the largest number of the float64 oracle.
# Codes: the largest of n normal activations is sqrt(2 ln n) standard deviations, and 127 steps of a code reach as far.
# Rounding to a step is off by step / sqrt(12). A product with the weight keeps that ratio of error to value.
LARGEST_ACTIVATION = math.sqrt(2 * math.log(BATCH * LENGTH * IN))  # 4.4 standard deviations
CODE_ROUNDING = LARGEST_ACTIVATION / (127 * math.sqrt(12))  # 1.0 %
# Dtype: weight and result are rounded to the dtype of the computation, by half an epsilon each.
BFLOAT16_EPSILON, FLOAT16_EPSILON, FLOAT32_EPSILON = 2.0**-7, 2.0**-10, 2.0**-23  # 0.8 %, 0.1 %, nothing
# For comparison: a scale is about 0.06 here, so 127 in its place is 2,000 times too large, and 1 is 17 times too large.

#: What bitsandbytes raises where it looks for a scale that is gone: the report's words, and those of other releases.
LOST_SCALE = (
    Symptom("AttributeError", r"^'(Int8Params|Parameter)' object has no attribute 'S?CB'$"),
    Symptom("AttributeError", r"^'NoneType' object has no attribute '(unsqueeze|dtype)'$"),
    Symptom("Exception", r"^State must contain CB matrix for backward$"),
    Symptom("NotImplementedError", r"^Cannot copy out of meta tensor; no data!$"),  # the scale was left on meta
)
REPORT: dict[str, Any] = {"report": "bitsandbytes#1927", "kind": "issue", "status": "open", "symptoms": LOST_SCALE}

#: The layer: a float32 weight ``[OUT, IN]``, its codes and scale, a bias, and the device of them all. The device is an
#: object: accelerate takes the string "cpu" as an order to quantize on an accelerator first.
Frozen = namedtuple("Frozen", "weight codes scale bias device")
#: What the layer is trained on: activations, the trained gate, and the gradient of the output.
Batch = namedtuple("Batch", "x gate grad")


def inputs(c, dtype_name="bfloat16", *, outliers=False, times=1.0, bias=True):
    """Draw a layer and a batch, with activations ``times`` as large; quantize the weight by the formula."""
    import torch

    dtype, device = getattr(torch, dtype_name), torch.device(c.device)
    weight = (torch.randn(OUT, IN) * 0.02).half().float().to(device)
    scale = weight.abs().amax(dim=1)
    codes = torch.round(weight * (127 / scale).unsqueeze(1)).to(torch.int8)
    x = torch.randn(BATCH, LENGTH, IN).to(device)
    if outliers:
        x[..., :4] *= 10
    added = (torch.randint(-8, 9, (OUT,)) / 64 * float(bias)).to(device)  # exact in every dtype
    x = (x * times).to(dtype).requires_grad_()
    gate = torch.ones(OUT, dtype=dtype, device=device, requires_grad=True)
    grad = torch.randn(BATCH, LENGTH, OUT).to(device, dtype)
    return {"frozen": Frozen(weight, codes, scale, added, device), "batch": Batch(x, gate, grad)}


def oracle(c, frozen, batch):
    """Compute ``layer(x) * gate`` and its gradients in float64 with the dequantized weight."""
    weight = frozen.codes.double() * frozen.scale.double().unsqueeze(1) / 127
    out, grad = batch.x.detach().double() @ weight.t() + frozen.bias.double(), batch.grad.double()
    return {"output": out, "grad_input": grad @ weight, "grad_gate": (grad * out).flatten(0, 1).sum(0)}


def installed_layer(frozen, threshold=0.0):
    """Return bitsandbytes' layer, made as its documentation says: load 16- or 32-bit weights, then move."""
    from bitsandbytes.nn import Linear8bitLt

    layer = Linear8bitLt(IN, OUT, has_fp16_weights=False, threshold=threshold)
    layer.load_state_dict({"weight": frozen.weight, "bias": frozen.bias})
    return layer.requires_grad_(False).to(frozen.device)
