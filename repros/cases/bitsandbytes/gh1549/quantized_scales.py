"""On a CPU 8-bit codes whose scales are quantized too come back with garbage for scales.

Report: on a CPU the scales that were just dequantized are forgotten, where they were quantized in turn, as in QLoRA.

Mechanism: `dequantize_blockwise` gives the kernel `quant_state.absmax`, codes then, whose bytes it reads as float32.
`dequantize_4bit` is not hit, as the state of its scales has plain ones; it has a kernel for a CPU only from 0.46 on.

Limit: relative to the largest number. A number between two codes of the formula may get either, one step of its table;
so may a scale less the mean of all, one step of the 8-bit table.

Planted (must break the limit): the bytes of the scales' codes are read as float32.
"""

from repros.case import Affected, Case, Claim, Condition, Needs, Remedy, error

SIDE, BLOCK, STEP_8, STEP_4 = 128, 64, 0.9 / 64, 0.304  # the largest steps of the dynamic table and of NF4's
WISE = Claim("on a CPU `dequantize_blockwise` does not use the scales that it dequantized")
FOUR = Claim("on a CPU `dequantize_4bit` of a weight with quantized scales does not either")
PLAIN = (Remedy("leave `nested` at False, its default, in `quantize_blockwise`", params={"nested": False}),)
KERNEL = Needs({"bitsandbytes": ">=0.46"}, reason="4-bit weights have a CPU kernel from 0.46 on")
OLD = (Affected({"bitsandbytes": ">=0.42,<0.45.4"}, "reports/bisect/gh1549-bitsandbytes"),)  # 0.45.1 on: upstream
NEST, SCRIPT = {"bits": 8, "nested": True}, "minimal.py"
CASE = Case(
    report="bitsandbytes#1549",
    title="Fix CPU dequantization to use nested dequantized scaling constant",
    kind="pull request",
    status="merged",
    severity="wrong numbers",
    trigger="`quantize_blockwise(…, nested=True)` and `dequantize_blockwise` on a CPU",
    fix="bitsandbytes#1549",
    claims=(WISE, FOUR),
    conditions=(
        Condition("blockwise", error(2 * STEP_8), NEST, claims=(WISE,), affected=OLD, remedies=PLAIN, witness=SCRIPT),
        Condition("four-bit", error(STEP_4 + STEP_8), {"bits": 4, "nested": True}, KERNEL, claims=(FOUR,), affected=()),
        Condition("plain-scales", error(STEP_8), {"bits": 8, "nested": False}, control=True),
    ),
)


def inputs(c):
    import torch

    return {"x": torch.randn(SIDE, SIDE)}


def formula(c, x, read=None):  # quantizes and dequantizes; `read` makes scales of the codes of quantized ones
    from repros.reference.codebook import table_4bit, table_dynamic

    def encode(numbers, table):
        scales = (blocks := numbers.reshape(-1, BLOCK)).abs().amax(dim=1, keepdim=True)
        return (blocks.div(scales).unsqueeze(-1) - table).abs().argmin(-1), scales

    codes, scales = encode(x, table := table_4bit("nf4") if c.bits == 4 else table_dynamic())
    if c.nested:
        inner, largest = encode(scales - scales.mean(), outer := table_dynamic())
        scales = read(inner) if read else (outer[inner] * largest).view(-1, 1) + scales.mean()
    return {"numbers": (table[codes] * scales).view(SIDE, SIDE)}


def oracle(c, x):
    return formula(c, x.double())


def subject(c, x):
    from bitsandbytes import functional as F

    yield "quantize"
    if c.bits == 4:
        return {"numbers": F.dequantize_4bit(*F.quantize_4bit(x, quant_type="nf4", compress_statistics=True))}
    return {"numbers": F.dequantize_blockwise(*F.quantize_blockwise(x, blocksize=BLOCK, nested=c.nested))}


def reference(c, x, read=None):
    yield "quantize"
    return formula(c, x, read)


def planted(c, x):
    return reference(c, x, lambda codes: codes.byte().view(x.dtype).view(-1, 1).repeat(4, 1))
