"""Which model trains on which card: QLoRA steps on a card made as small as the report's.

The report: with the dequantized weights saved a card of 12 GB trains 4B, and 9B with the fix; 16 GB 7B and 13B, 24 GB
9B and 20B, 32 GB 13B and 20B, 48 GB 20B and 34B, 80 GB 34B and 50B.

Each condition trains the larger of the two. The model is transformers' Llama in the shapes of a published model, made
on the card of random weights: 4-bit base, adapters of rank 16 on every linear layer, bfloat16, one sequence, AdamW
(the subject has bitsandbytes' 8-bit one), and one step that finds the optimizer's state in place. All arms have the
same model and adapters; what multiplies by a quantized weight is the arm's own. ``compile`` compiles each decoder
layer. The report's model for 32 GB is the one that it has on 24 GB; it is tried there.

Budget: what the card has, less what context and kernels take. The allocator is given no more, so an arm that does not
fit ends out of memory, which is the symptom. `predicted` says beforehand what an arm should need; the arm returns it as
the figure ``predicted_bytes``, to be held beside ``cuda_peak_allocated_bytes``.

Planted: autograd saves the dequantized weight of every layer. Under gradient checkpointing it holds those of one
layer at a time, and what fits is decided by the base and not by the bug, so no condition checkpoints.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from repros.case import Budget, Case, Claim, Condition, Params, Requires, Symptom
from repros.cases import _qlora, _saved_weight
from repros.cases._qlora import Steps

__all__ = ["CASE", "planted", "prepare", "proposed", "reference", "subject"]

#: What a context, its kernels and a desktop take of a card before the allocator has anything.
CONTEXT = 768 << 20


def limit(p: Params) -> int:
    """Return what the allocator may take of a card of this size."""
    return (int(str(p["card_gb"])) << 30) - CONTEXT


def on(model: str, card_gb: int, mode: str = "eager", tokens: int = 512) -> Condition:
    """Declare that a model trains on a card."""
    name = f"{model}-on-{card_gb}gb" + ("-compile" if mode != "eager" else "") + (f"-{tokens}" if tokens != 512 else "")
    why = "transformers' release does not matter to a step; the newest is enough"
    needs = Requires({"transformers": ">=5.20"}, card_bytes=(card_gb << 30) + CONTEXT, reason=why)
    params = {"model": model, "card_gb": card_gb, "mode": mode, "tokens": tokens, "device": "cuda"}
    without = () if mode == "eager" and card_gb == 12 else ("proposed",)
    return Condition(f"{name}-cuda", params, needs, without)


TABLE = (("9b", 12), ("13b", 16), ("20b", 24), ("34b", 48), ("50b", 80))

CASE = Case(
    package="bitsandbytes",
    number=1935,
    title="the card table: which model trains on which card",
    kind="pull request",
    status="closed unmerged, withdrawn by its author",
    claims=(
        Claim(
            "larger models train on the same card, but only with the fix",
            {
                "12 GB": "4B, 9B with the fix", "16 GB": "7B, 13B with the fix", "24 GB": "9B, 20B with the fix",
                "32 GB": "13B, 20B with the fix", "48 GB": "20B, 34B with the fix", "80 GB": "34B, 50B with the fix",
            },
        ),
    ),
    conditions=(
        *(on(model, card) for model, card in TABLE),
        *(on(model, card, "mincut") for model, card in TABLE if card == 12),
        on("13b", 32, tokens=2048),
    ),
    budget=Budget("cuda_peak_reserved_bytes", limit),
    symptoms=(Symptom("OutOfMemoryError"),),
    proposes="call F.linear under torch.no_grad() in MatMul4Bit.forward and MatMul8bitLt.forward",
    timeout_s=180.0,
    url="https://github.com/bitsandbytes-foundation/bitsandbytes/pull/1935",
)  # fmt: skip


def prepare(p: Any, checkpoint: object) -> SimpleNamespace:
    import torch

    if p["device"] == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit(p) / total))
    return _qlora.inputs(p)


def subject(i: Any) -> Steps:
    import bitsandbytes

    nn: Any = bitsandbytes.nn

    def make(weight: Any) -> Any:
        n, k = weight.shape
        layer = nn.Linear4bit(k, n, bias=False, compute_dtype=weight.dtype, quant_type="nf4", compress_statistics=False,
                              device="meta")  # fmt: skip
        layer.weight = nn.Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=False)
        return layer.to(i.p["device"])

    optimizer: Any = bitsandbytes.optim.AdamW8bit
    return (yield from _qlora.train(i, make, optimizer))


def reference(i: Any) -> Steps:
    from repros.reference.modules import FrozenLinear4bit

    return (yield from _qlora.train(i, FrozenLinear4bit.from_weight))


def planted(i: Any) -> Steps:
    """Save the dequantized weight of every layer; a compiler cannot open the operator that makes it."""
    import torch

    from repros.reference.blockwise import Quantized4bit, dequantize_4bit
    from repros.reference.modules import FrozenLinear4bit

    def dequantize(packed: Any, absmax: Any, n: int, k: int) -> Any:
        return dequantize_4bit(Quantized4bit(packed, absmax, (n, k), torch.bfloat16, "nf4", 64))

    op = torch.library.custom_op(
        "repros_planted::whole",
        dequantize,
        mutates_args=(),
        schema="(Tensor packed, Tensor absmax, int n, int k) -> Tensor",
    )
    op.register_fake(lambda packed, absmax, n, k: packed.new_empty((n, k), dtype=torch.bfloat16))

    class Saving(FrozenLinear4bit):
        """The reference's layer with the reported bug."""

        def forward(self, x: Any) -> Any:
            weight = op(self.packed, self.absmax, self.out_features, self.in_features)
            return torch.nn.functional.linear(x, weight)

    return (yield from _qlora.train(i, Saving.from_weight))


def proposed(i: Any) -> Steps:
    _saved_weight.without_grad()
    return (yield from subject(i))
