"""A 4-bit weight that was quantized as [in, out] is multiplied as if it were [out, in].

Report: `matmul_4bit` of one row takes the shape for [out, in]: shape and values are wrong, without an error. Many rows
are right. No layer quantizes so, only own calls do.

Mechanism: one row goes to `gemv_4bit`; more are dequantized, by how the packed tensor lies. On a CPU 0.46 and 0.48 do,
and torch refuses what is not square; 0.47 and 0.49 dequantize all. 0.50 goes by the shapes: it warns and is right, but
takes what is square for [out, in], as a comment there says.

Limit: relative to the largest number: each product of a sum is rounded once, and so is each addition. The weight is of
ones and minus ones, which 4 bits hold to the last bit.

Planted (must break the limit): the reference takes the shape for [out, in].
"""

from repros.case import Affected, Case, Claim, Condition, Needs, Remedy, Symptom, error

ONE_ROW = Claim("`matmul_4bit` of one row takes a weight that was quantized as [in, out] for [out, in]")
SQUARE = Claim("not in the report: 0.50 takes a square one so for any number of rows, without a warning")
TURN = Remedy("quantize the transposed weight, `w.t().contiguous()`, and pass `packed.t()`", params={"out_in": True})
WALK = "reports/bisect/gh1862-bitsandbytes"
ROW_BAD = tuple(Affected({"bitsandbytes": window}, WALK) for window in (">=0.46,<0.47", ">=0.48,<0.49"))
SQUARE_BAD = (Affected({"bitsandbytes": ">=0.50"}, WALK),)
ON_CARD = Affected({"bitsandbytes": ">=0.48,<0.50"}, "reports/h100")  # one row
ON_CARD_SQUARE = Affected({"bitsandbytes": ">=0.50"}, "reports/h100")


def weight(name, rows, k, n, **declared):
    params = {"rows": rows, "k": k, "n": n, "out_in": name == "out-in"}
    return Condition(name, error(k * 2.0**-23), params, **declared)


def card(one, n, *affected):
    room = Needs(card_bytes=1 << 30)
    return one.on_card("4096", error(2.0**-11), {"k": 4096, "n": n}, needs=room, affected=affected)


WIDE = weight("one-row", 1, 128, 64, claims=(ONE_ROW,), affected=ROW_BAD, witness="minimal.py")
EVEN = weight("one-row-square", 1, 128, 128, claims=(ONE_ROW, SQUARE), affected=ROW_BAD + SQUARE_BAD, remedies=(TURN,))
ROWS = weight("rows-square", 4, 128, 128, claims=(SQUARE,), affected=SQUARE_BAD)
CASE = Case(
    report="bitsandbytes#1862",
    title="gemv_4bit silently produces wrong results when weight is quantized in (in_features, out_features) layout",
    kind="issue",
    status="open",
    severity="wrong numbers",
    trigger="own calls of `matmul_4bit` with a weight that was quantized as [in, out]",
    fix="bitsandbytes#1949",
    also=("bitsandbytes#1906",),
    claims=(ONE_ROW, SQUARE),
    symptoms=(Symptom("RuntimeError", "shapes cannot be multiplied"),),
    conditions=(
        *(WIDE, card(WIDE, 1024, ON_CARD), EVEN, card(EVEN, 4096, ON_CARD, ON_CARD_SQUARE), ROWS),
        card(ROWS, 4096, ON_CARD_SQUARE),
        *(weight("rows", 4, 128, 64, control=True), weight("out-in", 1, 128, 64, control=True)),
    ),
)


def inputs(c):
    import torch

    return {"x": torch.randn(c.rows, c.k, device=c.device), "w": torch.randn(c.k, c.n, device=c.device).sign()}


def oracle(c, x, w):
    return {"output": x.double() @ w.double()}


def subject(c, x, w):
    from bitsandbytes import functional, matmul_4bit

    packed, state = functional.quantize_4bit(w.t().contiguous() if c.out_in else w, quant_type="nf4")
    yield "forward"
    return {"output": matmul_4bit(x, packed.t() if c.out_in else packed, state)}


def reference(c, x, w):
    yield "forward"
    return {"output": x @ w}


def planted(c, x, w):
    return reference(c, x, w.t())
