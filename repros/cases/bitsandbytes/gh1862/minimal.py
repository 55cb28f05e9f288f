# /// script
# dependencies = ["torch", "bitsandbytes>=0.46", "numpy"]
# ///
"""bitsandbytes#1862: matmul_4bit of one row takes a weight that was quantized as [in, out] for [out, in].

    uv run minimal.py      5 s, on a GPU if there is one; exit code 0 good, 1 bad, 125 skip (could not tell)
Figure: relative error of one row. Limit: a rounding for each product. Shapes that do not fit are infinitely wrong.
"""

import sys
from contextlib import suppress


def main():
    import bitsandbytes as bnb
    import torch

    torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
    x, weight, limit = torch.randn(1, 128), torch.randn(128, 64).sign(), 128 * 2.0**-23  # 4 bits hold ones exactly
    packed, right = bnb.functional.quantize_4bit(weight, quant_type="nf4"), x @ weight

    def error(rows):
        with suppress(RuntimeError):
            return float((bnb.matmul_4bit(rows, *packed) - right).abs().max() / right.abs().max())
        return float("inf")

    figure, inside, over = error(x), error(x.repeat(2, 1)), error(x.flip(1).repeat(2, 1))
    print(f"torch {torch.__version__} ({x.device}), bitsandbytes {bnb.__version__}: {figure:.2g}, limit {limit:.2g}")
    print(f"controls: {inside:.2g} of two rows, {over:.2g} of two in the wrong order")
    vote = "good: it is taken for [in, out]" if figure <= limit else "bad: it is taken for [out, in]"
    return vote if inside <= limit < over else "skip: a control failed"


if __name__ == "__main__":
    try:
        vote = main()
    except Exception as error:
        vote = " ".join(f"skip: {type(error).__name__}: {error}".split())
    print(vote)
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote.partition(":")[0]])
