"""Which model trains on which card: QLoRA steps on a card made as small as the report's.

The report: with the dequantized weights saved a card of 12 GB trains 4B, and 9B with the fix; 16 GB 7B and 13B, 24 GB
9B and 20B, 32 GB 13B and 20B, 48 GB 20B and 34B, 80 GB 34B and 50B.

Each condition trains the larger of the two. The model is transformers' Llama in the shapes of a published model, made
on the card of random weights: 4-bit base, adapters of rank 16 on every linear layer, bfloat16, one sequence, AdamW
(the subject has bitsandbytes' 8-bit one), and one step that finds the optimizer's state in place. The report's model
for 32 GB is the one that it has on 24 GB; it is tried there.

Budget: what the card has, less what context and kernels take. The allocator is given no more, so an arm that does not
fit ends out of memory, which is the symptom. `repros.cases._qlora.predicted` says beforehand what an arm should need;
the arm returns it as the figure ``predicted_bytes``, to be held beside ``cuda_peak_allocated_bytes``.

Planted: autograd saves the dequantized weight of every layer.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from repros.case import Budget, Case, Claim, Symptom
from repros.cases import _qlora
from repros.cases._qlora import Steps, on
from repros.cases._saved_weight import PROPOSES

__all__ = ["CASE", "planted", "prepare", "proposed", "reference", "subject"]

TABLE = (("9b", 12), ("13b", 16), ("20b", 24), ("34b", 48), ("50b", 80))
#: A row that names a model which has its row already: it is tried on the smaller card.
AGAIN = {("20b", 32): "20b-on-24gb-cuda"}

CASE = Case(
    package="bitsandbytes",
    number=1935,
    title="the card table: which model trains on which card",
    kind="pull request",
    status="closed unmerged, withdrawn by its author",
    claims=(
        _qlora.table(
            "without the fix the card table's larger models do not train on their cards",
            {(model, card): f"{model}-on-{card}gb-cuda" for model, card in TABLE} | AGAIN,
            longer={("13b", 16): "13b-on-32gb-2048-cuda"},
        ),
        Claim("not in the report: with 2,048 tokens 13B does not train on 32 GB", conditions="*-2048-cuda"),
    ),
    conditions=(
        *(on(model, card, without=() if card == 12 else ("proposed",)) for model, card in TABLE),
        on("13b", 32, length=2048, without=("proposed",)),
    ),
    budget=Budget("cuda_peak_reserved_bytes", _qlora.limit),
    symptoms=(Symptom("OutOfMemoryError"),),
    proposes=PROPOSES,
    timeout_s=180.0,
    url="https://github.com/bitsandbytes-foundation/bitsandbytes/pull/1935",
)


def prepare(p: Any, checkpoint: object) -> SimpleNamespace:
    return _qlora.inputs(p)


def subject(i: Any) -> Steps:
    return (yield from _qlora.installed(i))


def reference(i: Any) -> Steps:
    return (yield from _qlora.fixed(i))


def planted(i: Any) -> Steps:
    return (yield from _qlora.saving(i))


def proposed(i: Any) -> Steps:
    return (yield from _qlora.patched(i))
