"""Build what the arms of bitsandbytes#1935 run: the installed layers, the reference's products, the planted bug.

A *product* is a function of ``x`` that multiplies by one quantized weight; `assemble` makes of them what the
condition's placement says, and `steps` runs that under the condition's mode.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import cached_property, partial, reduce
from types import SimpleNamespace
from typing import Any

#: A condition's mode -> backend of `torch.compile`. aot_eager partitions by default, its sibling by min-cut.
BACKENDS = {"default": "aot_eager", "mincut": "aot_eager_decomp_partition", "inductor": "inductor"}
RANK, DROPOUT = 8, 0.1

Product = Callable[[Any], Any]
Steps = Generator[str, None, dict[str, Any]]


class Inputs(SimpleNamespace):
    """What `prepare` drew: ``p``, ``x``, ``grad``, 16-bit ``weights``; ``kept`` is what a late planted bug holds."""

    @cached_property
    def quantized(self) -> list[Any]:
        """The weights as the reference quantizes them; the subject of a deep model has no use for it."""
        return [quantize(weight, self.p) for weight in self.weights]


def steps(i: Any, run: Product) -> Steps:
    """Warm up, then do one training step under the mode; with ``late``, its first such step counts too."""
    import torch
    from torch.utils.checkpoint import checkpoint

    p, mode = i.p, i.p["mode"]
    calls = {}

    def step() -> None:
        run(i.x).backward(i.grad)
        i.x.grad = None  # compiled code is guarded on it: the judged step must find it as this one did

    step()  # settles what modules set in their first forward; never judged
    i.kept.clear()
    if mode in BACKENDS:
        run = torch.compile(run, backend=BACKENDS[mode])
    elif mode != "eager":
        run = partial(checkpoint, run, use_reentrant=mode == "reentrant")
    if not p["late"]:
        step()
    if mode in BACKENDS:
        calls["graph_calls"] = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    yield "forward"
    if p["late"]:
        step()
    output = run(i.x)
    yield "backward"
    output.backward(i.grad)
    return {"output": output, "grad_input": i.x.grad, **calls}


# -- the installed packages


def installed(i: Any) -> Product:
    """Return what bitsandbytes and PEFT make of the weights."""
    place, p = i.p["place"], i.p
    if place == "experts":
        return _installed_experts(i)
    if place == "customop":
        return compose(i, _custom_op_products(i))
    import torch

    model = torch.nn.Sequential(*(installed_layer(weight, p) for weight in i.weights))
    if place in ("lora", "dora"):
        import peft

        settings = {"r": RANK, "lora_alpha": RANK, "lora_dropout": DROPOUT, "use_dora": place == "dora"}
        peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["0"], **settings), model)
        model.to(p["device"])
    model.train(p["train"])
    return model


def packed_bytes(run: Product) -> dict[str, float]:
    """Return what the installed 4-bit layers hold in codes and scales, where `run` is made of such layers."""
    states = [(value, getattr(value, "quant_state", None)) for value in getattr(run, "parameters", tuple)()]
    held = [(value, state.absmax, getattr(state.state2, "absmax", None)) for value, state in states if state]
    total = sum(tensor.nbytes for tensors in held for tensor in tensors if tensor is not None)
    return {"packed_bytes": float(total)} if total else {}


def installed_layer(weight: Any, p: Any) -> Any:
    """Return the installed frozen layer of a 16-bit weight ``[out, in]``, quantized on the condition's device."""
    import bitsandbytes

    nn: Any = bitsandbytes.nn
    n, k = weight.shape
    if p["quant"] == "int8":
        layer = nn.Linear8bitLt(k, n, bias=False, has_fp16_weights=False, threshold=p["threshold"], device="meta")
        layer.weight = nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False).to(p["device"])
        return layer
    scheme = {"quant_type": p["quant"], "compress_statistics": p["double"]}
    layer = nn.Linear4bit(k, n, bias=False, compute_dtype=weight.dtype, device="meta", **scheme)
    layer.weight = nn.Params4bit(weight, requires_grad=False, **scheme).to(p["device"])
    return layer


def _installed_experts(i: Any) -> Product:
    import torch
    from bitsandbytes.nn.parametrize import replace_parameter_4bit

    class Experts(torch.nn.Module):
        """Two experts whose weights are one parameter, as in the MoE blocks of transformers."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.stack(i.weights), requires_grad=False)

        def forward(self, x: Any) -> Any:
            return _route(x, [partial(torch.nn.functional.linear, weight=self.weight[e]) for e in (0, 1)])

    experts = Experts()
    replace_parameter_4bit(experts, "weight", compress_statistics=i.p["double"], quant_type=i.p["quant"])
    return experts


def _custom_op_products(i: Any) -> list[Product]:
    """Write the operator that the maintainer planned, over the installed package's kernels."""
    import bitsandbytes.functional as F
    import torch

    scheme = "Tensor packed, Tensor absmax, int n, int k, str kind, int blocksize"

    def dequantize_installed(like: Any, packed: Any, absmax: Any, n: int, k: int, kind: str, blocksize: int) -> Any:
        return torch.ops.bitsandbytes.dequantize_4bit(packed, absmax, blocksize, kind, [n, k], like.dtype)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _, packed, absmax, *ctx.scheme = inputs
        ctx.save_for_backward(packed, absmax)

    def backward(ctx: Any, grad: Any) -> tuple[Any, ...]:
        return (grad @ dequantize_installed(grad, *ctx.saved_tensors, *ctx.scheme), *(None,) * 6)

    op = torch.library.custom_op(
        "repros_subject::linear_4bit",
        lambda x, *weight: torch.nn.functional.linear(x, dequantize_installed(x, *weight)),
        mutates_args=(),
        schema=f"(Tensor x, {scheme}) -> Tensor",
    )
    op.register_fake(lambda x, packed, absmax, n, *rest: x.new_empty((*x.shape[:-1], n)))
    op.register_autograd(backward, setup_context=setup)
    states = [F.quantize_4bit(weight, quant_type=i.p["quant"]) for weight in i.weights]

    def product(x: Any, packed: Any, state: Any) -> Any:
        return op(x, packed, state.absmax, *state.shape, state.quant_type, state.blocksize)

    return [partial(product, packed=packed, state=state) for packed, state in states]


#: What bitsandbytes#1935 proposes, in a line, and what does it.
PROPOSES = "call F.linear under torch.no_grad() in MatMul4Bit.forward and MatMul8bitLt.forward"


def without_grad() -> None:
    """Patch the installed functions as the report proposes: what their forward calls runs under `torch.no_grad()`."""
    global torch  # Dynamo of torch 2.9 finds no_grad through a module, not through a closure
    import torch
    from bitsandbytes.autograd import _functions

    def guarded(forward: Any) -> Any:
        def run(*arguments: Any, **named: Any) -> Any:
            with torch.no_grad():
                return forward(*arguments, **named)

        return staticmethod(run)

    for name in ("MatMul4Bit", "MatMul8bitLt", "MatMul8bitFp"):
        if function := getattr(_functions, name, None):
            function.forward = guarded(function.forward)


# -- the reference and the planted bug


def quantize(weight: Any, p: Any) -> Any:
    """Quantize one weight ``[out, in]`` with the reference, in the condition's format."""
    from repros.reference.blockwise import quantize_4bit
    from repros.reference.int8 import quantize_rowwise

    return quantize_rowwise(weight) if p["quant"] == "int8" else quantize_4bit(weight, p["quant"], double=p["double"])


def dequantize(q: Any, dtype: Any) -> Any:
    """Return the weight that `quantize` made codes of."""
    from repros.reference.blockwise import dequantize_4bit
    from repros.reference.int8 import dequantize_rowwise

    if hasattr(q, "packed"):
        return dequantize_4bit(q, dtype)
    codes, scale = q
    return dequantize_rowwise(codes, scale, dtype)


def reference_products(i: Any) -> list[Product]:
    """Return products that keep nothing but the quantized weight."""
    from repros.reference.linear import linear_4bit, linear_8bit

    if i.p["quant"] == "int8":
        return [partial(linear_8bit, codes=c, scale=s, threshold=i.p["threshold"]) for c, s in i.quantized]
    return [partial(linear_4bit, q=q) for q in i.quantized]


def planted_products(i: Any) -> list[Product]:
    """Return products with the reported bug: autograd saves the dequantized weight for the backward.

    What dequantizes is an operator that a graph compiler cannot open, or min-cut could undo the bug by computing the
    weight again. With ``late``, the weight is kept by a cache instead, as `torch.nn.utils.parametrize` keeps it.
    """
    import torch

    op = torch.library.custom_op(
        "repros_planted::dequantize",
        lambda codes, which, dtype: dequantize(i.quantized[which], dtype),
        mutates_args=(),
        schema="(Tensor codes, int which, ScalarType dtype) -> Tensor",
    )
    op.register_fake(lambda codes, which, dtype: codes.new_empty(i.weights[which].shape, dtype=dtype))

    def product(x: Any, which: int, codes: Any) -> Any:
        weight = op(codes, which, x.dtype)
        if i.p["late"]:
            i.kept[which] = weight
        return torch.nn.functional.linear(x, weight)

    codes = [q.packed if hasattr(q, "packed") else q[0] for q in i.quantized]
    return [partial(product, which=which, codes=c) for which, c in enumerate(codes)]


def compose(i: Any, products: Sequence[Product]) -> Product:
    """Return one function of the products: experts that share the rows, or a chain."""
    if i.p["place"] == "experts":
        return lambda x: _route(x, products)
    return lambda x: reduce(lambda y, product: product(y), products, x)


def assemble(i: Any, products: Sequence[Product]) -> Product:
    """Return `compose` of the products, with the adapter that the placement asks for."""
    return _adapted(i, products[0]) if i.p["place"] in ("lora", "dora") else compose(i, products)


def _route(x: Any, experts: Sequence[Product]) -> Any:
    import torch

    return torch.cat([expert(rows) for expert, rows in zip(experts, x.chunk(len(experts)), strict=True)])


def _adapted(i: Any, product: Product) -> Product:
    """Add what PEFT adds with dropout: LoRA (arXiv:2106.09685), or DoRA (arXiv:2402.09353)."""
    import torch

    (n, k), kind = i.weights[0].shape, {"dtype": i.x.dtype, "device": i.x.device}
    dtype = i.x.dtype
    down, up = torch.nn.Linear(k, RANK, bias=False, **kind), torch.nn.Linear(RANK, n, bias=False, **kind)
    torch.nn.init.zeros_(up.weight)

    def norm() -> Any:
        with torch.no_grad():
            return torch.linalg.vector_norm(dequantize(i.quantized[0], dtype) + up.weight @ down.weight, dim=1)

    magnitude = torch.nn.Parameter(norm())

    def forward(x: Any) -> Any:
        dropped = torch.nn.functional.dropout(x, DROPOUT)
        update = up(down(dropped))
        if i.p["place"] == "dora":
            factor = magnitude / norm()
            update = (factor - 1) * product(dropped) + factor * update
        return product(x) + update

    return forward
