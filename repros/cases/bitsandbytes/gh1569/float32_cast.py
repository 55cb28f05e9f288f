"""After `prepare_model_for_kbit_training` a step of a 4-bit model needs more memory than one of the 16-bit model.

Report: with LoRA over NF4 the call takes the memory above that of bfloat16; without it, it is below. It does not say
whether layers are checkpointed: its figures leave no room for that, so here they are not.

Mechanism: PEFT casts each 16-bit parameter that is not quantized to float32: the norms and the head, as it documents,
and the embedding. What that returns is float32 then, and so is all that follows, as a 4-bit layer returns the dtype of
its input. The adapter is on `v_proj` alone: its own input is float32 in either model.

Limit: what autograd saves in 16 bits (`needed` names each term), the logits, the adapter; 64 KiB that the heap rounds
up, and as much for PEFT's modules. For a step also what 4-bit weights save, as the model itself is not counted.

Planted (must break the limit): the reference, but what is not quantized becomes float32.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from repros.case import Affected, Case, Claim, Condition, Needs, held, held_on_card
from repros.cases.bitsandbytes.gh1569._limit import QWEN, RANK, SMOLLM, needed, of_bf16
from repros.cases.bitsandbytes.gh1569._step import adapt, frozen, load, step
from repros.cases.bitsandbytes.gh1569._today import TODAY, leave, prepare

FIGURES = {"bf16": "72840 MB", "int4, not prepared": "63082 MB", "int4, prepared": "81076 MB"}
HIGHER = Claim("with prepare_model_for_kbit_training NF4 and LoRA take more memory than the bf16 model", FIGURES)
CAST = Claim("prepare_model_for_kbit_training casts parameters to float32")
PARAMS = {"tokens": 1024, "nf4": True, "prepare": prepare, "within": nullcontext}
CPU: dict[str, Any] = {"checkpoint": SMOLLM}
NOW: dict[str, Any] = {"remedies": TODAY, "witness": "minimal.py"}
EVER = (Affected({"peft": ">=0.13"}, "reports/bisect/gh1569-peft"),)
STEP = Condition("step", held(of_bf16(SMOLLM, 1024)), PARAMS, claims=(HIGHER,), affected=EVER, **CPU, **NOW)

CASE = Case(
    report="bitsandbytes#1569",
    title="memory issue, prepare_model_for_kbit_training",
    kind="issue",
    status="open",
    severity="memory",
    trigger="`prepare_model_for_kbit_training` before LoRA over 4-bit weights, without gradient checkpointing",
    claims=(HIGHER, CAST),
    also=("peft#3265", "peft#1149", "bitsandbytes#1141"),
    conditions=(
        STEP,
        STEP.on_card(
            "4096",
            held_on_card(of_bf16(QWEN, 4096)),
            {"tokens": 4096},
            checkpoint=QWEN,
            affected=EVER,
            needs=Needs(card_bytes=8 << 30),
        ),
        Condition("parameters", held(needed(SMOLLM, 2)), {**PARAMS, "tokens": 2}, claims=(CAST,), affected=EVER, **CPU),
        Condition("not-prepared", STEP.budget, {**PARAMS, "prepare": leave}, control=True, **CPU),
        Condition("bf16", STEP.budget, {**PARAMS, "prepare": leave, "nf4": False}, control=True, **CPU),
    ),
)


def inputs(c: Condition, checkpoint: str) -> dict[str, Any]:
    import torch

    return {"checkpoint": checkpoint, "ids": torch.randint(256, (1, c.tokens), device=c.device)}


def subject(c: Condition, checkpoint: str, ids: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    model = load(c, checkpoint, ids, c.nf4)
    yield "forward"
    c.prepare(model)
    model = get_peft_model(model, LoraConfig(target_modules=["v_proj"], r=RANK)).train()
    with c.within(c.device):
        return (yield from step(model, ids))


def reference(c: Condition, checkpoint: str, ids: Any, wide: bool = False) -> Any:
    model = frozen(load(c, checkpoint, ids, nf4=False))
    yield "forward"
    return (yield from step(adapt(model.float() if wide else model), ids))


def planted(c: Condition, **inputs: Any) -> Any:
    return reference(c, **inputs, wide=True)
