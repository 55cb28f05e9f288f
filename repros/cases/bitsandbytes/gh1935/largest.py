"""The largest model that trains on a card with QLoRA, adapters beside frozen 4-bit weights (bitsandbytes#1935).

The report says that autograd saves the dequantized 16-bit weight of each 4-bit layer for the backward, so a card trains
a smaller model than it could. `REPORTED` is its table: the largest model on a card before its fix, and after it.

Run: one training step of a model, then of a larger one, until one runs out of memory. The allocator of a large GPU gets
what a card of that size would leave it. `_qlora.py` makes the models and the step.

Limit: of the models tried on a card one may be too large, the last. The sum of what a step should take
(`repros.reference.step_memory`) is more than the card has for that one alone, as tests/test_qlora.py holds.

Planted (must break the limit): the reference, but autograd saves its dequantized weights. By the same sum no
ladder's second model trains then, and on 12 GB not even its first.
"""

import gc

from repros.case import CONTEXT_BYTES, Budget, Case, Claim, Condition, Needs, Reading
from repros.cases.bitsandbytes.gh1935 import _qlora
from repros.cases.bitsandbytes.gh1935._fix import PROPOSES, apply_fix
from repros.reference.formats import module_that_saves_its_weight
from repros.reference.step_memory import predicted
from repros.worker.small_card import shrink

TOO_LARGE = 1  # model of each ladder: the last one

#: Size of a card in GB -> the largest model on it, by the report: before its fix, and after it.
REPORTED = {
    12: ("4B", "9B"),
    16: ("7B", "13B"),
    24: ("9B", "20B"),
    32: ("13B", "20B"),
    48: ("20B", "34B"),
    80: ("34B", "50B"),
}
BEFORE, AFTER = "the largest on {} GB, before the fix", "the largest on {} GB, after it"
ARMS = (
    "`planted` is what the report says of the installed layers (0B: not even the smallest tried), `reference` a "
    "fix that works, `proposed` the report's own"
)
NEWEST = "transformers' release does not matter to a step, and older bitsandbytes is tried row by row"


def largest(card_gb, *arms):
    """Return where it is measured which model is the largest that an arm trains on a card."""
    return tuple(Reading("largest_parameters", f"up-to-{card_gb}gb-cuda", 10**9, arm, note=ARMS) for arm in arms)


SMALLER = Claim(
    "without the fix the largest model that trains on a card of 12 to 80 GB is a smaller one "
    f"({_qlora.STEP}; bitsandbytes from 0.50 on)",
    {BEFORE.format(card): before for card, (before, _) in REPORTED.items()}
    | {AFTER.format(card): after for card, (_, after) in REPORTED.items()},
    {BEFORE.format(card): largest(card, "subject", "planted") for card in REPORTED}
    | {AFTER.format(card): largest(card, "reference", "proposed") for card in REPORTED},
)


def upward(card_gb, *models, proposed=False):
    """Declare that these models are tried on a card, the smallest first."""
    return Condition(
        f"up-to-{card_gb}gb-cuda",
        Budget("too_large", TOO_LARGE),
        {"card_gb": card_gb, "models": models},
        Needs(
            {"transformers": ">=5.20", "bitsandbytes": ">=0.50"},
            card_bytes=(card_gb << 30) + CONTEXT_BYTES,
            reason=NEWEST,
        ),
        affected=(),
        claims=(SMALLER,),
        device="cuda",
        proposed=proposed,
    )


CASE = Case(
    report="bitsandbytes#1935",
    title="the card table, upward: the largest model that trains on a card",
    kind="pull request",
    status="closed unmerged, withdrawn by its author",
    severity="memory",
    trigger="training adapters beside frozen 4-bit layers",
    claims=(SMALLER,),
    conditions=(
        upward(12, "4b", "7b", "9b", "13b", proposed=True),
        upward(16, "4b", "7b", "9b", "13b", "20b"),
        upward(24, "7b", "9b", "13b", "20b", "34b"),
        upward(32, "9b", "13b", "20b", "34b", "50b", proposed=True),
        upward(48, "13b", "20b", "34b", "50b", "70b"),
        upward(80, "20b", "34b", "50b", "70b", "123b"),
    ),
    proposes=PROPOSES,
    timeout_s=180.0,
)


def inputs(c):
    shrink(c.card_gb)
    return {}


def subject(c):
    import bitsandbytes

    return climb(c, _qlora.installed_layer, bitsandbytes.optim.AdamW8bit)


def reference(c):
    from repros.reference.modules import FrozenLinear4bit

    return climb(c, FrozenLinear4bit.from_weight)


def planted(c):
    return climb(c, module_that_saves_its_weight())


def proposed(c):
    apply_fix()
    return subject(c)


def climb(c, make_layer, adamw=None):
    """Train one model after another until one does not fit; each is a phase. A model's name says its parameters."""
    import torch

    figures = {"too_large": len(c.models), "largest_parameters": 0.0}
    for model in c.models:
        yield model
        config = _qlora.llama(model)
        figures[f"foreseen_{model}_bytes"] = float(sum(predicted(config, _qlora.LENGTH).values()))
        ids = _qlora.token_ids(config, _qlora.LENGTH, c.device)
        try:
            for _ in _qlora.training_step(config, ids, _qlora.eager, make_layer, adamw):
                pass
        except torch.OutOfMemoryError:
            break
        finally:
            gc.collect()
            torch.cuda.empty_cache()
        figures["too_large"] -= 1
        figures["largest_parameters"] = float(model.removesuffix("b")) * 1e9
    return figures
