"""Which model trains on which card with QLoRA, adapters beside frozen 4-bit weights (bitsandbytes#1935).

The report says that autograd saves the dequantized 16-bit weight of each 4-bit layer for the backward, so a card trains
a smaller model than it could. Its table names the largest model before its fix and after it: on 12 GB 4B and 9B, on 16
GB 7B and 13B, on 24 GB 9B and 20B, on 32 GB 13B and 20B, on 48 GB 20B and 34B, on 80 GB 34B and 50B.

Run: one training step of the larger model, without the fix. The allocator of a large GPU gets what a card of that size
would leave it. The 20B of 32 GB is tried on 24 GB. `_qlora.py` makes the model and the step, in one of three ways:

- eager, as in the report;
- compiled: forward and backward are one graph, in which bitsandbytes before 0.50 dequantizes a weight twice. The
  compiler does it once and saves the result, so the bug is real here;
- checkpointed: the backward runs a layer's forward again, so even the bug would hold the weights of one layer at a
  time. That leaves room: each model goes on a card that the report gives to a smaller one.

Limit: the size of the card, less 768 MiB that the CUDA context and its kernels take. An arm that needs more runs out of
memory, which is the symptom. Arms also return the sum of what a step should take, to compare
(`repros.reference.step_memory`).

Planted (must break the limit): the reference, but autograd saves dequantized weights and, checkpointed, a cache does.
"""

from repros.case import CONTEXT_BYTES, Affected, Budget, Case, Claim, Condition, Needs, Reading, Symptom
from repros.cases.bitsandbytes.gh1935 import _qlora
from repros.cases.bitsandbytes.gh1935._fix import PROPOSES, apply_fix
from repros.reference.formats import module_that_saves_its_weight
from repros.worker.small_card import allowed, shrink

BEFORE_0_50 = Affected({"bitsandbytes": "<0.50"}, "reports/h200")
NEWEST = "transformers' release does not matter to a step; the newest is enough"
INSTALLED = "beside the card's size stands what a step reserved of it as installed, without the fix"
LONGER_STEP = "`-2048` is a step of as many tokens, on a larger card"


def reserved(condition):
    """Return where it is measured what a step takes of a card, as the report's GB of 2**30 bytes."""
    note = LONGER_STEP if "-2048" in condition else INSTALLED
    return Reading("cuda_peak_reserved_bytes", condition, per_unit=1 << 30, note=note)


def of_table(text, rows):
    """Return a claim of rows such as `9B on 12 GB`, each with the conditions that try it."""
    reported, readings = {}, {}
    for row, conditions in rows.items():
        name = f"{row}, after the fix"
        reported[name] = row.partition(" on ")[2]
        readings[name] = tuple(map(reserved, conditions))
    return Claim(f"{text} ({_qlora.STEP})", reported, readings)


TABLE = of_table(
    "without the fix the card table's larger models do not train on their cards",
    {
        "9B on 12 GB": ("9b-on-12gb-cuda",),
        "13B on 16 GB": ("13b-on-16gb-cuda", "13b-on-32gb-2048-cuda"),
        "20B on 24 GB": ("20b-on-24gb-cuda",),
        "34B on 48 GB": ("34b-on-48gb-cuda",),
        "50B on 80 GB": ("50b-on-80gb-cuda",),
        "20B on 32 GB": ("20b-on-24gb-cuda",),
    },
)
LONGER = Claim("not in the report: with 2,048 tokens 13B does not train on 32 GB")
TABLE_COMPILED = of_table(
    "not in the report: under torch.compile the card table's larger models do not train on their cards",
    {
        "9B on 12 GB": ("9b-on-12gb-compile-cuda",),
        "20B on 24 GB": ("20b-on-24gb-compile-cuda",),
        "50B on 80 GB": ("50b-on-80gb-compile-cuda",),
    },
)
TABLE_CHECKPOINTED = Claim(
    "not in the report: under gradient checkpointing larger models still do not train on those cards"
)


def compiled(model):
    """Compile each decoder layer, with the backend that splits forward from backward by min-cut."""
    import torch

    model.enable_input_require_grads()  # or the first layer, of whose input no gradient is taken, is a graph alone
    torch._dynamo.config.cache_size_limit = 4 * len(model.model.layers)
    for layer in model.model.layers:
        layer.compile(backend="aot_eager_decomp_partition")


def checkpointed(model):
    """Checkpoint each decoder layer."""
    model.gradient_checkpointing_enable({"use_reentrant": False})


def on_card(name, card_gb, model, claim, run_as=_qlora.eager, length=_qlora.LENGTH, affected=()):
    """Declare that a model takes a step on a card; the proposed fix is tried on the smallest card alone."""
    budget = Budget("cuda_peak_reserved_bytes", allowed(card_gb))
    params = {"card_gb": card_gb, "model": model, "run_as": run_as, "length": length}
    needs = Needs({"transformers": ">=5.20"}, card_bytes=(card_gb << 30) + CONTEXT_BYTES, reason=NEWEST)
    return Condition(name, budget, params, needs, affected, (claim,), device="cuda", proposed=card_gb == 12)


CASE = Case(
    report="bitsandbytes#1935",
    title="the card table: which model trains on which card",
    kind="pull request",
    status="closed unmerged, withdrawn by its author",
    severity="memory",
    trigger="training with torch.compile around 4-bit layers",
    claims=(TABLE, LONGER, TABLE_COMPILED, TABLE_CHECKPOINTED),
    conditions=(
        on_card("9b-on-12gb-cuda", 12, "9b", TABLE),
        on_card("13b-on-16gb-cuda", 16, "13b", TABLE),
        on_card("20b-on-24gb-cuda", 24, "20b", TABLE),
        on_card("34b-on-48gb-cuda", 48, "34b", TABLE),
        on_card("50b-on-80gb-cuda", 80, "50b", TABLE),
        on_card("13b-on-32gb-2048-cuda", 32, "13b", LONGER, length=2048),
        on_card("9b-on-12gb-compile-cuda", 12, "9b", TABLE_COMPILED, compiled, affected=(BEFORE_0_50,)),
        on_card("20b-on-24gb-compile-cuda", 24, "20b", TABLE_COMPILED, compiled, affected=(BEFORE_0_50,)),
        on_card("50b-on-80gb-compile-cuda", 80, "50b", TABLE_COMPILED, compiled, affected=(BEFORE_0_50,)),
        on_card("13b-on-12gb-checkpoint-2048-cuda", 12, "13b", TABLE_CHECKPOINTED, checkpointed, length=2048),
        on_card("34b-on-24gb-checkpoint-cuda", 24, "34b", TABLE_CHECKPOINTED, checkpointed),
    ),
    symptoms=(Symptom("OutOfMemoryError"),),
    proposes=PROPOSES,
    timeout_s=180.0,
)


def inputs(c):
    shrink(c.card_gb)
    config = _qlora.llama(c.model)
    return {"config": config, "ids": _qlora.token_ids(config, c.length, c.device)}


def subject(c, config, ids):
    import bitsandbytes

    return _qlora.training_step(config, ids, c.run_as, _qlora.installed_layer, bitsandbytes.optim.AdamW8bit)


def reference(c, config, ids):
    from repros.reference.modules import FrozenLinear4bit

    return _qlora.training_step(config, ids, c.run_as, FrozenLinear4bit.from_weight)


def planted(c, config, ids):
    return _qlora.training_step(config, ids, c.run_as, module_that_saves_its_weight(cache=c.run_as is checkpointed))


def proposed(c, config, ids):
    apply_fix()
    return subject(c, config, ids)
