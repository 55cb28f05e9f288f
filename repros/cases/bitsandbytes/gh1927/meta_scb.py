"""On the meta device: ``AttributeError: 'Int8Params' object has no attribute 'SCB'``.

Mechanism tried: ``CB`` and ``SCB`` are plain attributes that ``Int8Params.__new__`` sets, and ``Linear8bitLt`` reads
them without asking. Building a layer on meta sets them, so it raises nothing. They are gone where a parameter is made
in another way (``_make_subclass``, ``to_empty``, ``load_state_dict(assign=True)``, a weight tied to a 16-bit one) and
where a loader takes them off the meta parameter (transformers pops ``SCB`` from its ``__dict__``). Since
bitsandbytes 0.50 ``state_dict`` and ``load_state_dict`` ask; ``forward`` does not, and fails on ``CB`` instead.

Every condition ends with real weights and a training step, judged as in the sibling case on recompute: an exception
of that family breaks the budget, and so do wrong numbers. Budget: ``repros.cases._int8.error_limit``.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Generator, Mapping
from types import SimpleNamespace
from typing import Any

from repros.case import Budget, Case, Claim, Condition, Requires, Symptom
from repros.cases import _int8
from repros.cases._int8 import error_limit, oracle

Arm = Generator[str, None, Mapping[str, Any]]

__all__ = ["CASE", "oracle", "planted", "prepare", "reference", "subject"]


ANY = Requires()
REFUSED = Requires({"bitsandbytes": "<0.50"}, reason="0.50 refuses by design to load int8 into an unquantized layer")


def _way(name: str, note: str, requires: Requires = ANY, **params: object) -> Condition:
    return Condition(name, {"trigger": name, **params}, requires, note=note)


CASE = Case(
    package="bitsandbytes",
    number=1927,
    title="INT8: 'Int8Params' object has no attribute 'SCB' on the meta device",
    kind="issue",
    status="open",
    claims=(
        Claim(
            "a layer on the meta device raises",
            {"message": "AttributeError: 'Int8Params' object has no attribute 'SCB'"},
            "meta-16bit meta-deepcopy",
        ),
        Claim("it raises where transformers' loader took SCB off the meta parameter", conditions="loader-pops*"),
        Claim(
            "not in the report: it raises wherever the attributes were lost on the way",
            conditions="meta-int8* meta-pickle to-empty assign-* make-subclass skip-modules-tied",
        ),
    ),
    conditions=(
        _way("meta-16bit", "built on meta, state_dict(), then 16-bit weights by accelerate"),
        _way("meta-int8", "built on meta, state_dict(), then int8 weights and SCB by accelerate"),
        _way("meta-int8-no-scale", "int8 weights without SCB: the only right answer is an error"),
        _way("meta-deepcopy", "deepcopy() of the layer on meta, then as meta-16bit"),
        _way("meta-pickle", "pickled on meta, then as meta-16bit"),
        _way("to-empty", "meta -> to_empty(device) -> load_state_dict -> to(device)"),
        _way("assign-16bit", "load_state_dict(assign=True) of 16-bit weights on meta, then to(device)"),
        _way("assign-int8", "load_state_dict(assign=True) of an int8 state dict on meta", REFUSED),
        _way("make-subclass", "Tensor._make_subclass(Int8Params, weight), as generic tensor code does"),
        _way("loader-pops", "transformers' loader pops SCB off the meta parameter; state_dict() before it is replaced"),
        _way("loader-pops-tied", "the same with a second layer tied to the popped parameter, and state_dict() of both"),
        _way("skip-modules-tied", "from_pretrained of a tied model, llm_int8_skip_modules without lm_head", bias=False),
    ),
    budget=Budget("error", error_limit),
    numbers=error_limit,
    symptoms=(
        *_int8.LOST_SCALE,
        # What transformers 4.57 and bitsandbytes 0.50 say where the attribute is gone.
        Symptom("AttributeError", r"^`lm_head\.SCB` is neither a parameter, buffer, nor extra state\.$"),
    ),
    affected=(
        *_int8.affected("bitsandbytes", ">=0.47,<0.48.1", "meta-int8"),
        *_int8.affected("bitsandbytes", "<0.50", "loader-pops*"),
        *_int8.affected("bitsandbytes", ">=0.46", "meta-int8-no-scale", "meta-pickle", "to-empty", "assign-*"),
        *_int8.affected("bitsandbytes", ">=0.46", "make-subclass", "skip-modules-tied"),
    ),
    url="https://github.com/bitsandbytes-foundation/bitsandbytes/issues/1927",
)


def prepare(p: Mapping[str, Any], checkpoint: object) -> SimpleNamespace:
    return _int8.inputs(p)


def _step(i: Any, layer: Any) -> Arm:
    import torch

    yield "forward"
    layer.train().state_dict()
    out = layer(i.x) * i.gate
    yield "backward"
    torch.autograd.backward(out, i.grad)
    return {"output": out, "grad_input": i.x.grad, "grad_gate": i.gate.grad}


def subject(i: Any) -> Arm:
    import torch
    from accelerate.utils import set_module_tensor_to_device
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    # A device object: accelerate takes the string "cpu" as an order to quantize on an accelerator first.
    cpu, way, scale = torch.device("cpu"), i.trigger, None
    yield "materialize"
    with torch.device("meta"):
        layer = Linear8bitLt(_int8.IN, _int8.OUT, has_fp16_weights=False).requires_grad_(False)
    layer.state_dict()
    weight, bias = i.weight.half(), torch.nn.Parameter(i.bias, requires_grad=False)
    if way == "to-empty":
        layer = layer.to_empty(device="cpu")
        layer.load_state_dict({"weight": weight, "bias": i.bias})
        layer = layer.to(cpu)
    elif way == "assign-16bit":
        layer.load_state_dict({"weight": weight, "bias": i.bias}, assign=True)
        layer = layer.to(cpu)
    elif way == "assign-int8":
        layer.load_state_dict(_int8.bnb_layer(i).state_dict(), assign=True)
    elif way == "make-subclass":
        layer.weight, layer.bias = torch.Tensor._make_subclass(Int8Params, i.codes), bias
    elif way.startswith("loader-pops"):
        tied = Linear8bitLt(_int8.IN, _int8.OUT, has_fp16_weights=False)
        tied.weight, tied.bias = layer.weight, bias
        options = vars(layer.weight)
        options.pop("SCB")  # transformers 4.x create_quantized_param, 5.x Bnb8bitQuantize.convert
        (tied if way.endswith("tied") else layer).state_dict()
        layer.weight, layer.bias = Int8Params(weight, requires_grad=False, **options).to(cpu), bias
    elif way == "skip-modules-tied":
        layer = _tied_head(i)
    else:
        if way in ("meta-deepcopy", "meta-pickle"):
            layer = copy.deepcopy(layer) if way == "meta-deepcopy" else pickle.loads(pickle.dumps(layer))
        if way.startswith("meta-int8"):
            layer.weight.data = layer.weight.data.to(torch.int8)
            weight, scale = i.codes, None if way.endswith("no-scale") else i.scale
        set_module_tensor_to_device(layer, "bias", cpu, value=i.bias)
        set_module_tensor_to_device(layer, "weight", cpu, value=weight, fp16_statistics=scale)
    return (yield from _step(i, layer))


def _tied_head(i: Any) -> Any:
    """Return the head of a model whose head and embedding are one weight."""
    import torch
    from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 1}
    shape: dict[str, Any] = {"hidden_size": _int8.IN, "vocab_size": _int8.OUT, "intermediate_size": 64}
    config = LlamaConfig(tie_word_embeddings=True, **heads, **shape)
    model: Any = LlamaForCausalLM(config).half()
    model.lm_head.load_state_dict({"weight": i.weight})
    model.save_pretrained("saved")
    int8 = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["v_proj"])
    options: dict[str, Any] = {"device_map": {"": "cpu"}, "dtype": torch.float16}
    return LlamaForCausalLM.from_pretrained("saved", quantization_config=int8, **options).lm_head


def reference(i: Any) -> Arm:
    """Codes and scale are buffers: a meta layer has both, and takes both from a state dict."""
    import torch

    from repros.reference.modules import FrozenLinear8bit

    yield "materialize"
    layer = pickle.loads(pickle.dumps(copy.deepcopy(FrozenLinear8bit(_int8.IN, _int8.OUT, device="meta"))))
    layer.state_dict()
    layer = layer if "assign" in i.trigger else layer.to_empty(device="cpu")
    layer.load_state_dict(FrozenLinear8bit.from_weight(i.weight, i.bias).state_dict(), assign="assign" in i.trigger)
    return (yield from _step(i, layer.requires_grad_(False).to(torch.device("cpu"))))


def planted(i: Any) -> Arm:
    """Keep the scale in an attribute of a parameter, and replace the parameter."""
    import torch

    from repros.reference.linear import linear_8bit

    class Layer(torch.nn.Module):
        weight: Any

        def forward(self, x: Any) -> Any:
            return linear_8bit(x, self.weight, self.weight.SCB, i.bias)

    class Int8Params(torch.nn.Parameter):
        pass

    yield "materialize"
    layer: Any = Layer()
    layer.weight = torch.Tensor._make_subclass(Int8Params, i.codes.to("meta"))
    layer.weight.SCB = i.scale
    layer.weight = torch.Tensor._make_subclass(Int8Params, i.codes)
    return (yield from _step(i, layer))
