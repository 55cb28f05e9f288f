"""What the int8 cases of bitsandbytes#1927 share: inputs, the error a right layer may have, the report's patch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from repros.case import Affected, Params, Symptom

IN, OUT, BATCH, LENGTH = 256, 512, 2, 32
EPS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}

#: An int8 scale that is looked up where it is not: the report's words, and what other releases say at the same places.
LOST_SCALE = (
    Symptom("AttributeError", r"^'(Int8Params|Parameter)' object has no attribute 'S?CB'$"),
    Symptom("AttributeError", r"^'NoneType' object has no attribute '(unsqueeze|dtype)'$"),
    Symptom("Exception", r"^State must contain CB matrix for backward$"),
    Symptom(
        "NotImplementedError", r"^Cannot copy out of meta tensor; no data!$"
    ),  # SCB itself, left on the meta device
)


def affected(package: str, versions: str, *conditions: str) -> tuple[Affected, ...]:
    """Return the windows of several conditions: bitsandbytes by bisection, others by the cells' trials."""
    source = "reports/bisect/gh1927-bitsandbytes" if package == "bitsandbytes" else "reports/cpu"
    return tuple(Affected({package: versions}, condition, source=source) for condition in conditions)


def error_limit(p: Params) -> float:
    """Return the largest relative error, in the maximum norm, of a right int8 layer against its float64 oracle.

    A row of normal activations reaches r = sqrt(2 ln(elements)) standard deviations, so a code is r/127 of them wide
    and its rounding error has r / (127 sqrt(12)) of them; a product with the weight keeps that ratio, and the largest
    error is as many deviations out as the largest output. The weight is rounded to the compute dtype once and the
    result once, by half an epsilon each. A scale of 127 in place of the true one (here about 0.08) is wrong by 1,600
    times its size, a scale of 1 by 12 times.
    """
    rows = BATCH * LENGTH
    return math.sqrt(2 * math.log(rows * IN)) / (127 * math.sqrt(12)) + EPS[str(p.get("dtype", "bfloat16"))]


def inputs(p: Mapping[str, Any]) -> SimpleNamespace:
    """Draw a frozen layer, an activation and the gradient of its output; quantize the weight by the formula."""
    import torch

    dtype = getattr(torch, str(p.get("dtype", "bfloat16")))
    device = torch.device(str(p.get("device", "cpu")))
    weight = (torch.randn(OUT, IN) * 0.02).half().float().to(device)
    scale = weight.abs().amax(dim=1)
    x = torch.randn(BATCH, LENGTH, IN).to(device)
    if p.get("threshold"):
        x[..., :4] *= 10
    return SimpleNamespace(
        p=p,
        weight=weight,
        codes=torch.round(weight * (127 / scale).unsqueeze(1)).to(torch.int8),
        scale=scale,
        device=device,
        bias=(torch.randint(-8, 9, (OUT,)) / 64 * float(p.get("bias", True))).to(device),  # exact in every dtype
        x=(x * float(p.get("amplitude", 1))).to(dtype).requires_grad_(),
        gate=torch.ones(OUT, dtype=dtype, device=device, requires_grad=True),
        grad=torch.randn(BATCH, LENGTH, OUT).to(device, dtype),
        threshold=float(p.get("threshold", 0)),
        trigger=str(p.get("trigger", "")),
    )


def oracle(i: Any) -> dict[str, Any]:
    """Compute ``layer(x) * gate`` and its gradients in float64 with the dequantized weight."""
    weight = i.codes.double() * i.scale.double().unsqueeze(1) / 127
    out = i.x.detach().double() @ weight.t() + i.bias.double()
    grad = i.grad.double()
    return {"output": out, "grad_input": grad @ weight, "grad_gate": (grad * out).flatten(0, 1).sum(0)}


def bnb_layer(i: Any) -> Any:
    """Return the layer as bitsandbytes documents it: load 16- or 32-bit weights, then move."""
    from bitsandbytes.nn import Linear8bitLt

    layer = Linear8bitLt(IN, OUT, has_fp16_weights=False, threshold=i.threshold)
    layer.load_state_dict({"weight": i.weight, "bias": i.bias})
    return layer.requires_grad_(False).to(i.device)


def disturb(i: Any, layer: Any) -> tuple[Any, Any]:
    """Do to a bitsandbytes layer what the condition is about; also return what to do between forward and backward."""
    from bitsandbytes.nn import Int8Params

    # A device object: accelerate takes the string "cpu" as an order to quantize on an accelerator first.
    device, trigger, between = i.device, i.trigger, None
    if trigger == "codes-scale-module-move":
        layer.weight = Int8Params(i.codes.clone(), requires_grad=False, SCB=i.scale)
        layer = layer.to(device)
    elif trigger.startswith("codes"):
        scale = i.scale if trigger == "codes-scale-before-move" else None
        layer.weight = Int8Params(i.codes.clone(), requires_grad=False, SCB=scale).to(device)
        if trigger == "codes-scale-after-move":
            layer.weight.SCB = i.scale
    elif trigger == "second-to":
        layer = layer.to(device)
    elif trigger == "to-after-forward":
        layer(i.x.detach())
        layer = layer.to(device)
    elif trigger == "weight-to-after-forward":
        layer(i.x.detach())
        layer.weight = layer.weight.to(device)
    elif trigger == "tied-weight":
        other = bnb_layer(i)
        other.weight = layer.weight
        other(i.x.detach())
    elif trigger.startswith("offload"):
        import accelerate

        weights = {name: tensor.to("cpu", copy=True) for name, tensor in layer.state_dict().items()}
        if trigger == "offload-map-without-scale":
            weights.pop("SCB")
        layer = accelerate.cpu_offload(layer, execution_device=device, state_dict=weights)
    elif trigger.startswith("state-dict-reload"):
        saved, layer = layer.state_dict(), bnb_layer(SimpleNamespace(**{**vars(i), "weight": -2 * i.weight}))
        layer.load_state_dict(saved)
        layer = layer.to(device) if trigger.endswith("then-to") else layer
    elif trigger.startswith("from-pretrained"):
        layer = pretrained_layer(i, again=trigger.endswith("reload"))
    elif trigger.startswith("reset-grads"):
        between = lambda layer: layer.state.reset_grads()  # noqa: E731
    elif trigger == "clear-cb-between":
        between = lambda layer: setattr(layer.state, "CB", None)  # noqa: E731
    return layer, between


def pretrained_layer(i: Any, again: bool) -> Any:
    """Return the layer after `from_pretrained` quantized it; ``again``: after saving and loading the int8 model."""
    import torch
    from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 1}
    config = LlamaConfig(vocab_size=64, hidden_size=IN, intermediate_size=OUT, mlp_bias=True, **heads)
    model: Any = LlamaForCausalLM(config).half()
    model.model.layers[0].mlp.gate_proj.load_state_dict({"weight": i.weight, "bias": i.bias})
    options: dict[str, Any] = {"device_map": {"": "cpu"}, "dtype": torch.float16}
    model.save_pretrained("saved")
    int8 = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
    model = LlamaForCausalLM.from_pretrained("saved", quantization_config=int8, **options)
    if again:
        model.save_pretrained("saved_int8")
        model = LlamaForCausalLM.from_pretrained("saved_int8", **options)
    return model.model.layers[0].mlp.gate_proj.requires_grad_(False)


def patch_report_fix() -> None:
    """Put the report's patch in place of every quantization of ``B`` in bitsandbytes' int8 functions."""
    import importlib
    import inspect
    import textwrap

    import torch

    functions: Any = importlib.import_module("bitsandbytes.autograd._functions")

    def quantize(b: Any) -> Any:
        if b.dtype != torch.int8:
            return functions.F.int8_vectorwise_quant(b.to(torch.float16))
        codes = b.data.clone()
        scale = getattr(b, "SCB", None)
        return codes, codes.float().abs().amax(dim=1).div(127.0) if scale is None else scale.to(codes.device), None

    vars(functions)["_report_quantize"] = quantize
    for name in ("MatMul8bitLt", "MatMul8bitFp"):
        function = getattr(functions, name, None)
        if function is not None:
            source = textwrap.dedent(inspect.getsource(function.forward))
            patched = source.replace("F.int8_vectorwise_quant(B.to(torch.float16))", "_report_quantize(B)")
            found: dict[str, Any] = {}
            if patched == source:
                raise LookupError(f"{name}.forward has no line for the report's patch to replace")
            exec(patched, functions.__dict__, found)  # noqa: S102 - a patch to the installed source, as the report has it
            function.forward = found["forward"]
