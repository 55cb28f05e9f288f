"""16-bit sources do pile up while a model is loaded, but nothing leaks: the loader reads ahead (transformers#44728).

A *source* is a 16-bit tensor as it was read. The report: 16-bit weights accumulate while a model is quantized, until
one of 67 GB fails on a card of 32 GB when 48 % of it is loaded. It blames references that ``Bnb4bitQuantize.convert``
holds, and proposes to drop them before the quantization (``fp16_load_leak.py`` tries that mechanism).

Tried here: from 5.0 on a pool of threads reads sources that then wait for their conversion (transformers#44387). So
sources pile up although no reference outlives its conversion, and the proposed fix should change nothing. The first
quantization is made to wait until the pool is idle (``gate``), so the peak on a CPU is the worst case.

Limit of 16-bit bytes alive at once: what stays 16-bit (embedding, norms) and one source, the largest; for int8 also a
float16 copy of it, from which bitsandbytes quantizes. The GPU's limit, of all bytes allocated, is derived below.

Planted (must break the limit): the reference, but it keeps every third source of a quantized weight for good.
"""

from __future__ import annotations

from repros.case import CONTEXT_BYTES, Affected, Budget, Case, Claim, Condition, Reading
from repros.cases._loading import GATE, POOL, SWITCH, load_installed, load_reference, published
from repros.cases.transformers.gh44728._shared import NF4_ERROR, PROPOSES, keep_every, load_with_proposed_fix
from repros.worker.sizes import sizes

MIB, GIB = 1 << 20, 1 << 30

# SmolLM2-135M, cut to one or two layers and a short embedding.
ONE_LAYER, TWO_LAYERS = sizes("smollm2-135m-1l"), sizes("smollm2-135m-2l")
NF4_PEAK = Budget("peak_live_16bit_bytes", ONE_LAYER.staying + ONE_LAYER.largest_quantized)
INT8_PEAK = Budget("peak_live_16bit_bytes", TWO_LAYERS.staying + 2 * TWO_LAYERS.largest_quantized)

OPT = sizes("opt-350m")
# Before it reads, transformers may allocate half of the 16-bit size and free it (`caching_allocator_warmup`). For NF4
# that is more than the loading takes: what stays, codes, scales and one source.
NF4_ALLOCATED = Budget("cuda_peak_allocated_bytes", OPT.whole // 2)
# For int8 the loading takes more. OPT is float16 already, so there is no copy. Codes and scales are each rounded up to
# 512 bytes; the reference quantizes by 4 million elements in float32, with ranks and codes (40 MiB).
INT8_LOADING = OPT.staying + OPT.int8 + OPT.largest
INT8_ALLOCATED = Budget("cuda_peak_allocated_bytes", INT8_LOADING + 2 * 512 * OPT.tensors + 40 * MIB)

READS_AHEAD = Affected({"transformers": ">=5.0,<5.4"}, "reports/bisect/gh44387-gh44728-transformers")
READS_AHEAD_ON_CARD = Affected({"transformers": ">=5.0,<5.4"}, "reports/h200")
#: Without a pool: one source more is alive. 4.53.0 is the oldest release that quantizes on a CPU.
INT8_BEFORE_4_57 = Affected({"transformers": ">=4.53,<4.57"}, "reports/bisect/gh44387-gh44728-transformers")


def whole_35b(arm, per_unit, note, value=float):
    """Read what the report's 35B model comes to, by ``value`` or as another case loads eight of its layers."""
    where = {"case": "gh1849_fused_experts", "condition": "nf4-experts-fused-35b-cuda"}
    return Reading("whole_bytes", per_unit=per_unit, arm=arm, note=note, value=value, **where)


def model_bytes():
    return sizes("qwen3.5-35b-a3b").whole


def share_of_card():
    return (32 * GIB - CONTEXT_BYTES) / model_bytes()


BY_LAYERS = "by arithmetic from eight of its layers"
ACCUMULATE = Claim(
    "16-bit weights accumulate while loading",
    reported={
        "35B in 16 bits": "~67 GB",
        "35B in 4 bits": "~17 GB",
        "a card on which 35B in 4 bits runs out": "32 GB",
        "how much of it is loaded by then": "about 48 %",
    },
    readings={
        "35B in 16 bits": (whole_35b("arithmetic", 10**9, "from the shapes", model_bytes),),
        "35B in 4 bits": (whole_35b("subject", 10**9, BY_LAYERS), whole_35b("reference", 10**9, BY_LAYERS)),
        "a card on which 35B in 4 bits runs out": (whole_35b("subject", GIB, BY_LAYERS),),
        "how much of it is loaded by then": (
            whole_35b("arithmetic", 0.01, "a card less a context, over the 16-bit size", share_of_card),
        ),
    },
)
INT8_TOO = Claim("not in the report: int8 goes the same way")


def loading(name, budget, scheme, checkpoint, dtype="bfloat16", **more):
    return Condition(name, budget, {"scheme": scheme, "dtype": dtype}, checkpoint=checkpoint, **more)


def on_card(name, budget, scheme, **more):
    ahead = (READS_AHEAD_ON_CARD,)
    return loading(name, budget, scheme, "opt-350m", dtype="float16", device="cuda", affected=ahead, **more)


NF4 = {"claims": (ACCUMULATE,)}
INT8 = {"claims": (INT8_TOO,), "proposed": False}  # the fix is to the 4-bit operation alone

CASE = Case(
    report="transformers#44728",
    title="Fix float16 memory leak during 4-bit quantized model loading",
    kind="pull request",
    status="closed in favour of #44576",
    fix="transformers#44576",
    severity="memory",
    trigger="a 16-bit checkpoint that is quantized while `from_pretrained` loads it",
    claims=(ACCUMULATE, INT8_TOO),
    conditions=(
        loading("nf4", NF4_PEAK, "nf4", "smollm2-135m-1l", affected=(READS_AHEAD,), remedies=(SWITCH,), **NF4),
        loading("int8", INT8_PEAK, "int8", "smollm2-135m-2l", affected=(READS_AHEAD, INT8_BEFORE_4_57), **INT8),
        on_card("nf4-350m-cuda", NF4_ALLOCATED, "nf4", proxy="nf4", **NF4),
        on_card("int8-350m-cuda", INT8_ALLOCATED, "int8", proxy="int8", **INT8),
    ),
    numbers=NF4_ERROR,
    proposes=PROPOSES,
    proposed_needs=POOL,
    gate=GATE,
)


def oracle(c, checkpoint):
    return published(c, checkpoint)


def subject(c, checkpoint):
    return load_installed(c, checkpoint)


def reference(c, checkpoint):
    return load_reference(c, checkpoint)


def planted(c, checkpoint):
    """Keep every third source for good."""
    return load_reference(c, checkpoint, load=lambda loader: keep_every(3, loader))


def proposed(c, checkpoint):
    return load_with_proposed_fix(c, checkpoint)
