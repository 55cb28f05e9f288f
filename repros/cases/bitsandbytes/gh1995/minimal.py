# /// script
# dependencies = ["torch", "bitsandbytes>=0.46", "numpy"]
# ///
"""bitsandbytes#1995: on a CPU an evaluated Linear4bit gives wrong numbers, silently, for a transposed input.

    uv run minimal.py      5 s, no GPU; exit code 0 good, 1 bad, 125 skip (could not tell)

The kernel for AVX512-BF16 is told the stride of the input's rows alone, and reads each row as if it were contiguous.

Figure: the largest error of the output against float64, relative to the largest output.
Limit: input, scale, weight and output are each rounded to bfloat16, by half an epsilon. The errors of IN products add
up to IN of them at most, and their sum is at least the root of IN.
"""

import sys
from pathlib import Path

ROWS, IN, OUT = 16, 256, 128
EPSILON = 2**-7  # of bfloat16
LIMIT = 4 * EPSILON / 2 * IN**0.5


def main():
    import bitsandbytes as bnb
    import torch

    if "avx512_bf16" not in Path("/proc/cpuinfo").read_text():
        return "skip", "this CPU lacks AVX512-BF16; bitsandbytes uses another kernel here"
    torch.manual_seed(0)
    layer = bnb.nn.Linear4bit(IN, OUT, bias=False, quant_type="nf4").to("cpu").eval()
    weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    contiguous = torch.randn(ROWS, IN).bfloat16()
    transposed = contiguous.t().contiguous().t()  # the same numbers; a column is contiguous, a row is not
    right = contiguous.double() @ weight.double().t()

    @torch.no_grad()
    def error(x):
        return ((layer(x).double() - right).abs().max() / right.abs().max()).item()

    figure, inside = error(transposed), error(contiguous)
    over = error(transposed.as_strided((ROWS, IN), (IN, 1)))  # read as if it were contiguous, on purpose
    versions = f"torch {torch.__version__}, bitsandbytes {bnb.__version__}"
    print(f"{versions}: error {figure:.3f} for a transposed input, limit {LIMIT:.3f}")
    print(f"controls: {inside:.3f} for the same numbers contiguous, {over:.3f} where memory is read wrongly on purpose")
    if not inside <= LIMIT < over:
        return "skip", "a control failed: contiguous input must be inside the limit, memory read wrongly over it"
    if figure <= LIMIT:
        return "good", "a transposed input gives the output that it should"
    return "bad", "a transposed input gives wrong output, and nothing says so"


if __name__ == "__main__":
    try:
        vote, why = main()
    except Exception as error:
        vote, why = "skip", " ".join(f"{type(error).__name__}: {error}".split())
    print(f"{vote}: {why}")
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote])
