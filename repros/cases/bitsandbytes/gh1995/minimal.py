# /// script
# dependencies = ["torch", "bitsandbytes>=0.46", "numpy"]
# ///
"""bitsandbytes#1995: quantize_blockwise reads a strided tensor as if it were contiguous, and nothing warns.

    uv run minimal.py      5 s, on a GPU if there is one; exit code 0 good, 1 bad, 125 skip (could not tell)

Figure: largest relative error of every other row of a tensor, quantized and back. Limit: a step of the code table.
"""

import sys

LIMIT = 0.9 / 64


def main():
    import bitsandbytes as bnb
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = torch.randn(128, 128, device=device)
    view = base[::2]

    def error(tensor):
        back = bnb.functional.dequantize_blockwise(*bnb.functional.quantize_blockwise(tensor, blocksize=64))
        return float((back - view).abs().max() / view.abs().max())

    figure, inside, over = error(view), error(view.contiguous()), error(base[:64].contiguous())
    print(f"torch {torch.__version__} ({device}), bitsandbytes {bnb.__version__}: {figure:.4f}, limit {LIMIT:.4f}")
    print(f"controls: {inside:.4f} of a contiguous copy, {over:.4f} of the rows that lie in its memory")
    if not inside <= LIMIT < over:
        return "skip: a control failed"
    return "good: it is read as it is" if figure <= LIMIT else "bad: it is read as if it were contiguous"


if __name__ == "__main__":
    try:
        vote = main()
    except Exception as error:
        vote = " ".join(f"skip: {type(error).__name__}: {error}".split())
    print(vote)
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote.partition(":")[0]])
