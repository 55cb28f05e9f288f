"""`QuantState.from_dict(state.as_dict())` raises.

Report: the dictionary that `as_dict()` returns cannot be read by `from_dict`. With `as_dict(packed=True)` it can.

Mechanism: `from_dict` looks for one packed tensor whose name ends in the format, `quant_state.bitsandbytes__nf4`, and
raises where there is none; `as_dict()` without `packed` writes what that tensor holds as items of their own.

Limit: the error of what the restored state dequantizes to, against float64, relative to the largest number: a code
times a scale, rounded. A scale that is quantized too may take either of two codes, a step of their table apart: 0.9/64.

Planted (must break the limit): the reference, but it looks in its dictionary for one packed item: there is none.
"""

from repros.case import Affected, Case, Claim, Condition, Remedy, Symptom, error

LIMIT = 2.0**-23  # float32's epsilon
DOUBLE = LIMIT + 0.9 / 64
UNTIL_0_50 = (Affected({"bitsandbytes": "<0.50"}, "reports/bisect/gh1729-bitsandbytes"),)
UNTIL_0_50_CUDA = (Affected({"bitsandbytes": "<0.50"}, "reports/h100"),)
RAISES = Claim("QuantState.from_dict(as_dict()) raises")
PACKED = Remedy("write `as_dict(packed=True)`", params={"packed": True}, recommended="the report")


def state(name, limit=LIMIT, *, packed, double=False, **more):
    return Condition(name, error(limit), {"packed": packed, "double": double}, claims=(RAISES,), **more)


UNPACKED = state("unpacked", packed=False, affected=UNTIL_0_50, witness="minimal.py", remedies=(PACKED,))


CASE = Case(
    report="bitsandbytes#1729",
    title="Fix QuantState and dict conversions",
    kind="pull request",
    status="merged",
    fix="bitsandbytes#1729",
    severity="raises",
    trigger="`QuantState.from_dict` of what `as_dict()` returned, as a 4-bit weight is saved and restored by hand",
    claims=(RAISES,),
    conditions=(
        UNPACKED,
        UNPACKED.on_card("", error(LIMIT), affected=UNTIL_0_50_CUDA, witness="minimal.py"),
        state("unpacked-double", DOUBLE, packed=False, double=True, affected=UNTIL_0_50),
        state("packed", packed=True, control=True),
        state("packed-double", DOUBLE, packed=True, double=True, control=True),
    ),
    # The second is the planted bug's way to say it.
    symptoms=(Symptom("ValueError", "exactly one `quant_state` item"), Symptom("ValueError", "not enough values")),
)


def inputs(c):
    import torch

    return {"weight": torch.randn(64, 128, device=c.device)}


def oracle(c, weight):
    from repros.reference.blockwise import dequantize_4bit, quantize_4bit

    return {"weight": dequantize_4bit(quantize_4bit(weight, double=c.double)).double()}


def subject(c, weight):
    from bitsandbytes.functional import QuantState, dequantize_4bit, quantize_4bit

    codes, kept = quantize_4bit(weight, quant_type="nf4", compress_statistics=c.double)
    yield "restore"
    restored = QuantState.from_dict(kept.as_dict(packed=c.packed), device=weight.device)
    return {"weight": dequantize_4bit(codes, restored)}


def reference(c, weight, read=lambda kept: kept):
    from repros.reference.blockwise import Quantized4bit, dequantize_4bit, quantize_4bit

    kept = vars(quantize_4bit(weight, double=c.double))
    yield "restore"
    return {"weight": dequantize_4bit(Quantized4bit(**read(kept)))}


def planted(c, weight):
    return reference(c, weight, the_packed_one)


def the_packed_one(kept):
    (packed,) = [item for name, item in kept.items() if name.startswith("quant_state.")]
    return packed
