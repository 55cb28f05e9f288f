# /// script
# dependencies = ["torch", "bitsandbytes>=0.46", "numpy"]
# ///
"""bitsandbytes#1995: quantize_blockwise reads a strided tensor as if it were contiguous.

    uv run minimal.py      5 s, on a GPU if there is one; exit code 0 good, 1 bad, 125 skip (could not tell)

The kernel walks the memory from the view's first number on, so it reads rows that the view leaves out. Nothing warns.

Figure: the largest error of every other row of a tensor, quantized and dequantized, relative to its largest number.
Limit: a step of the code table, 0.9/64. A copy of the same rows in memory of their own is inside it.
"""

import sys

ROWS, WIDTH, LIMIT = 64, 128, 0.9 / 64


def main():
    import bitsandbytes as bnb
    import torch
    from bitsandbytes.functional import dequantize_blockwise, quantize_blockwise

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = torch.randn(2 * ROWS, WIDTH, device=device)
    view = base[::2]

    def error(tensor):
        """Quantize and dequantize a tensor; return its largest error as the rows of the view."""
        back = dequantize_blockwise(*quantize_blockwise(tensor, blocksize=64))
        return float((back - view).abs().max() / view.abs().max())

    figure, inside, over = error(view), error(view.contiguous()), error(base[:ROWS].contiguous())
    versions = f"torch {torch.__version__} ({device}), bitsandbytes {bnb.__version__}"
    print(f"{versions}: error {figure:.4f} of a strided view, limit {LIMIT:.4f}")
    print(f"controls: {inside:.4f} of a contiguous copy, {over:.4f} of the rows that lie in its memory")
    if not inside <= LIMIT < over:
        return "skip", "a control failed: a contiguous copy must be right, other rows wrong"
    if figure <= LIMIT:
        return "good", "a strided view is read as it is"
    return "bad", "a strided view is read as if it were contiguous"


if __name__ == "__main__":
    try:
        vote, why = main()
    except Exception as error:
        vote, why = "skip", " ".join(f"{type(error).__name__}: {error}".split())
    print(f"{vote}: {why}")
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote])
