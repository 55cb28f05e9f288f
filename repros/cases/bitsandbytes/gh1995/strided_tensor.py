"""Blockwise quantization reads a strided tensor as if it were contiguous, on a CPU.

Report: `quantize_blockwise` and `dequantize_blockwise` do, without a word; of a contiguous tensor they are right.

Mechanism: the kernel walks as many numbers of the memory as the view has. A transposed tensor is both quantized and
dequantized in the order of its memory, and comes back right.

Limit: the error against float64, over the codes of the formula, relative to the largest number. Of a number between two
codes either may be taken: a step of the code table.

Planted (must break the limit): the formula over the memory that the view begins at.
"""

from repros.case import Affected, Case, Claim, Condition, Remedy, error

SIDE, BLOCK = 64, 64
LIMIT = 0.9 / 64  # the largest step of the dynamic code table: 0.1 to 1 in 64 steps
UNTIL_0_49_CUDA = (Affected({"bitsandbytes": "<0.49.2"}, "reports/h100"),)
COPY = Remedy("call `.contiguous()` on it before you quantize or dequantize it", "remedy", recommended="the report")
BAD = {"affected": (Affected({"bitsandbytes": "<0.50"}, "reports/bisect/gh1995-bitsandbytes"),), "remedies": (COPY,)}
READ = Claim("on a CPU blockwise quantization reads a non-contiguous tensor as if it were contiguous")


def view(name, takes, codes_too=False, **declared):
    """Declare a view of a square of twice the side; with ``codes_too`` its codes lie transposed in memory."""
    return Condition(name, error(LIMIT), {"takes": takes, "codes_too": codes_too}, claims=(READ,), **declared)


EVERY_OTHER = view("every-other-row", lambda x: x[:, :SIDE].contiguous()[::2], witness="minimal.py", **BAD)
CASE = Case(
    report="bitsandbytes#1995",
    title="quantize_blockwise / dequantize_blockwise produce incorrect results for non-contiguous CPU inputs",
    kind="issue",
    status="closed, fixed by #1996",
    severity="wrong numbers",
    trigger="`quantize_blockwise` or `dequantize_blockwise` of a sliced or transposed tensor",
    fix="bitsandbytes#1996",
    also=("bitsandbytes#1690", "bitsandbytes#1342"),
    claims=(READ,),
    conditions=(
        EVERY_OTHER,
        EVERY_OTHER.on_card("", error(LIMIT), affected=UNTIL_0_49_CUDA, witness="minimal.py"),
        view("every-other-column", lambda x: x[:SIDE, ::2], **BAD),
        view("transposed", lambda x: x[:SIDE, :SIDE].contiguous().t(), affected=()),
        view("transposed-codes", lambda x: x[:SIDE, :SIDE].contiguous(), codes_too=True, **BAD),
        view("contiguous", lambda x: x[:SIDE, :SIDE].contiguous(), control=True),
    ),
)


def inputs(c):
    import torch

    return {"x": c.takes(torch.randn(2 * SIDE, 2 * SIDE, device=c.device))}


def formula(c, x, read=lambda tensor: tensor):
    """Quantize and dequantize by the code table; ``read`` takes a tensor's numbers, row by row."""
    from repros.reference.codebook import table_dynamic

    blocks, table = read(x).reshape(-1, BLOCK), table_dynamic(x.device)
    absmax = blocks.abs().amax(dim=1, keepdim=True)
    codes = (blocks.div(absmax).unsqueeze(-1) - table).abs().argmin(-1).view(SIDE, SIDE)
    codes = read(codes.t().contiguous().t() if c.codes_too else codes)
    return (table[codes.reshape(-1, BLOCK)] * absmax).view(SIDE, SIDE)


def oracle(c, x):
    return {"numbers": formula(c, x.double())}


def subject(c, x, given=lambda tensor: tensor):
    from bitsandbytes.functional import dequantize_blockwise, quantize_blockwise

    yield "quantize"
    codes, state = quantize_blockwise(given(x), blocksize=BLOCK)
    return {"numbers": dequantize_blockwise(given(codes.t().contiguous().t() if c.codes_too else codes), state)}


def remedy(c, x):
    return subject(c, x, lambda tensor: tensor.contiguous())


def reference(c, x, read=lambda tensor: tensor):
    yield "quantize"
    return {"numbers": formula(c, x, read)}


def planted(c, x):
    return reference(c, x, lambda t: t.as_strided((SIDE, SIDE), (SIDE, 1), t.storage_offset()))
