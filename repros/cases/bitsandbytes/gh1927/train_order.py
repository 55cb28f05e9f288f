"""``gradient_checkpointing_enable()`` before ``model.train()`` silently does nothing; every layer's state piles up.

A block of transformers recomputes when two flags are set, ``gradient_checkpointing`` and ``training``, and it reads
both at each call: so their order cannot matter, and what decides is whether ``train()`` is called at all
(``from_pretrained`` ends with ``eval()``). Two questions, two figures. ``order-*``: does the recompute happen?
``skipped_calls`` counts the block calls that are missing from the two that a checkpointed block makes in a step; none
may be missing. ``held-*``: is anything but the inputs of the blocks held from forward to backward? An op that keeps its
input on ``ctx`` instead of ``save_for_backward`` hides it from non-reentrant checkpointing (bitsandbytes#2034),
whatever the order.

Budget of ``held-*``, for L blocks over hidden states of T x H float32: L inputs, the last block's output, and the final
norm's product and output (L + 3 states); cos and sin of T x D each; one boolean mask of T x T (transformers 4.57 makes
one); position ids, cache positions and the norm's rsqrt (20 T bytes); a random-generator state (5,056 bytes, rounded
up to 8 KiB) a block; and 64 KiB for the graph's own objects, which the heap counts too. Without recomputation a block
keeps a dozen states and more. A step before the measured one makes what kernels keep from their first call prior.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from repros.case import Budget, Case, Claim, Condition, on_cards
from repros.cases import _int8

Arm = Generator[str, None, Mapping[str, Any]]
LAYERS, HIDDEN, INNER, HEADS = 2, 256, 512, 4


def _held(p: Mapping[str, Any]) -> int:
    length: int = p["length"]
    states, cos_sin, mask = (LAYERS + 3) * length * HIDDEN * 4, 2 * length * (HIDDEN // HEADS) * 4, length**2
    return states + cos_sin + mask + 20 * length + LAYERS * (8 << 10) + (64 << 10)


def _condition(question: str, order: str, mode: str, bits: int = 8, bare: bool = False) -> Condition:
    name = f"{question}-{order}-{mode}-{bits}bit" + ("-bare" if bare else "")
    params = {"order": order, "mode": mode, "bits": bits, "bare": bare}
    params |= {"length": 256, "warm": True} if question == "held" else {"length": 64, "warm": False}
    note = "without enable_input_require_grads(), which PEFT calls, and transformers itself from 5.0" if bare else ""
    skipped = Budget("skipped_calls", lambda p: 0)
    return Condition(name, params, note=note, budget=skipped if question == "order" else None)


#: Peak memory and what is held on a GPU, in the orders and modes that differ.
ON_CARD = [
    replace(condition.on_cuda(), budget=Budget("cuda_held_bytes", _held))
    for condition in (
        _condition("held", "enable-train", "default"),
        _condition("held", "train-enable", "default"),
        _condition("held", "enable-train", "nonreentrant"),
        _condition("held", "enable-train", "reentrant", bits=4),
    )
]

CASE = Case(
    package="bitsandbytes",
    number=1927,
    title="INT8 training: gradient_checkpointing_enable() before model.train()",
    kind="issue",
    status="open",
    claims=(
        Claim("enable() before train() silently does nothing", conditions="order-enable-train-default-?bit"),
        Claim("not in the report: without train(), enable() silently does nothing", conditions="order-enable-only-*"),
        Claim("not in the report: in either order, where no input needs a gradient", conditions="order-*-bare"),
        Claim("every layer's state piles up", conditions="held-*"),
    ),
    conditions=(
        _condition("order", "enable-train", "default"),
        _condition("order", "train-enable", "default"),
        _condition("order", "enable-only", "default"),
        _condition("order", "enable-train", "default", bare=True),
        _condition("order", "train-enable", "default", bare=True),
        _condition("order", "enable-train", "default", bits=4),
        _condition("held", "enable-train", "default"),
        _condition("held", "train-enable", "default"),
        _condition("held", "enable-only", "default"),
        _condition("held", "enable-train", "reentrant"),
        _condition("held", "enable-train", "nonreentrant"),
        _condition("held", "enable-train", "reentrant", bits=4),
        _condition("held", "enable-train", "nonreentrant", bits=4),
        *ON_CARD,
    ),
    budget=Budget("held_bytes", _held, second="heap_held_bytes"),
    affected=(
        *on_cards("reports/h200", transformers=(">=4.57", "held-*-nonreentrant-8bit-cuda")),
        *on_cards("reports/h200", transformers=(">=5", "held-*-default-8bit-cuda")),
        *_int8.affected(
            "transformers", ">=4.57", "order-enable-only-*", "held-enable-only-*", "held-*-nonreentrant-8bit"
        ),
        *_int8.affected("transformers", "<5", "order-*-bare"),
        *_int8.affected("transformers", ">=5", "held-enable-train-default-8bit", "held-train-enable-default-8bit"),
    ),
    url="https://github.com/bitsandbytes-foundation/bitsandbytes/issues/1927",
)


def prepare(p: Mapping[str, Any], checkpoint: object) -> SimpleNamespace:
    import torch

    device = p.get("device", "cpu")
    ids = torch.arange(p["length"], device=device)[None] % 64
    grad = torch.randn(*ids.shape, HIDDEN, device=device) / HIDDEN
    return SimpleNamespace(**{**p, "device": device}, ids=ids, grad=grad)


def _quantized(linear: Any, bits: int, device: str) -> Any:
    import torch
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    shape = linear.in_features, linear.out_features, False
    layer: Any
    if bits == 4:
        layer = Linear4bit(*shape, compute_dtype=torch.float32, quant_type="nf4")
    else:
        layer = Linear8bitLt(*shape, has_fp16_weights=False)
    layer.load_state_dict(linear.state_dict())
    return layer.requires_grad_(False).to(device)


def _llama(i: Any) -> Any:
    """Return a Llama with quantized linears in eval mode, as ``from_pretrained`` leaves it; its norms are trained."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    heads: dict[str, Any] = {"num_attention_heads": HEADS, "num_key_value_heads": HEADS, "attn_implementation": "sdpa"}
    shape: dict[str, Any] = {
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "vocab_size": 64,
    }
    config = LlamaConfig(use_cache=False, **heads, **shape)
    model: Any = LlamaModel(config)
    for block in model.layers:
        for part in (block.self_attn, block.mlp):
            for name, child in list(part.named_children()):
                if isinstance(child, torch.nn.Linear):
                    setattr(part, name, _quantized(child, i.bits, i.device))
    model.embed_tokens.requires_grad_(False)
    return model.eval().to(i.device)


def _counts(calls: list[int], trained: list[Any]) -> dict[str, Any]:
    lost = sum(parameter.grad is None for parameter in trained)
    return {"skipped_calls": 2 * LAYERS - len(calls), "block_calls": len(calls), "lost_gradients": lost}


def _train(i: Any, model: Any, order: str) -> Arm:
    """Run one step; count the calls of the blocks' attention, which is inside what is recomputed in every release."""
    calls: list[int] = []
    for block in model.layers:
        block.self_attn.register_forward_pre_hook(lambda *_: calls.append(1))
    options = {} if i.mode == "default" else {"gradient_checkpointing_kwargs": {"use_reentrant": i.mode == "reentrant"}}
    if order == "train-enable":
        model.train()
    model.gradient_checkpointing_enable(**options)
    if order == "enable-train":
        model.train()
    if not i.bare:
        model.enable_input_require_grads()
    if i.warm:
        model(input_ids=i.ids)[0].backward(i.grad)
        calls.clear()
    yield "forward"
    out = model(input_ids=i.ids)[0]
    yield "backward"
    out.backward(i.grad)
    return _counts(calls, [parameter for parameter in model.parameters() if parameter.requires_grad])


def subject(i: Any) -> Arm:
    return (yield from _train(i, _llama(i), i.order))


def _plain(i: Any, checkpointed: bool) -> Arm:
    """Run the same step over plain torch blocks of the reference's layers."""
    import torch
    from torch.nn import functional as F
    from torch.utils.checkpoint import checkpoint

    from repros.reference.modules import FrozenLinear4bit, FrozenLinear8bit

    torch.set_default_device(i.device)  # this process makes nothing else
    layer = FrozenLinear4bit if i.bits == 4 else FrozenLinear8bit
    shapes = dict.fromkeys("qkvo", (HIDDEN, HIDDEN)) | dict.fromkeys(("gate", "up"), (INNER, HIDDEN))
    shapes["down"] = (HIDDEN, INNER)
    blocks = [{n: layer.from_weight(torch.randn(s) * 0.02) for n, s in shapes.items()} for _ in range(LAYERS)]
    norms = [torch.ones(HIDDEN, requires_grad=True) for _ in range(2 * LAYERS + 1)]
    embedding = torch.randn(64, HIDDEN)
    calls: list[int] = []

    def norm(x: Any, weight: Any) -> Any:
        return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))

    def turn(x: Any, cos: Any, sin: Any) -> Any:
        a, b = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-b, a), dim=-1) * sin

    def block(x: Any, cos: Any, sin: Any, number: int) -> Any:
        calls.append(number)
        w, h = blocks[number], norm(x, norms[2 * number])
        q, k, v = (w[name](h).view(1, i.length, HEADS, -1).transpose(1, 2) for name in "qkv")
        h = F.scaled_dot_product_attention(turn(q, cos, sin), turn(k, cos, sin), v, is_causal=True)
        x = x + w["o"](h.transpose(1, 2).reshape(1, i.length, HIDDEN))
        h = norm(x, norms[2 * number + 1])
        return x + w["down"](F.silu(w["gate"](h)) * w["up"](h))

    def step() -> Any:
        angles = torch.outer(torch.arange(i.length), 10000 ** -torch.linspace(0, 1, HIDDEN // HEADS)).float()
        x, cos, sin = F.embedding(i.ids, embedding).requires_grad_(), angles.cos(), angles.sin()
        for number in range(LAYERS):
            run = block if not checkpointed else lambda *a: checkpoint(block, *a, use_reentrant=i.mode == "reentrant")
            x = run(x, cos, sin, number)
        return norm(x, norms[-1])

    if i.warm:
        step().backward(i.grad)
        calls.clear()
    yield "forward"
    out = step()
    yield "backward"
    out.backward(i.grad)
    return _counts(calls, norms)


def reference(i: Any) -> Arm:
    return (yield from _plain(i, checkpointed=True))


def planted(i: Any) -> Arm:
    """Switch checkpointing off and say nothing."""
    return (yield from _plain(i, checkpointed=False))
