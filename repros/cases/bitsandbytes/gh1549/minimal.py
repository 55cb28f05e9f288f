# /// script
# dependencies = ["torch", "bitsandbytes>=0.42", "numpy"]
# ///
"""bitsandbytes#1549: on a CPU dequantize_blockwise reads the codes of quantized scales as if they were the scales.

    uv run minimal.py      5 s, on the CPU; exit code 0 good, 1 bad, 125 skip (could not tell)

Figure: relative error of a tensor, quantized and back. Limit: a step of the code table, and one for the scales.
"""

import sys

LIMIT = 2 * 0.9 / 64


def main():
    import bitsandbytes as bnb
    import torch
    from bitsandbytes.functional import dequantize_blockwise, quantize_blockwise

    tensor = torch.randn(128, 128)
    (codes, state), plain = (quantize_blockwise(tensor, blocksize=64, nested=nested) for nested in (True, False))
    raw = {"absmax": state.absmax.view(torch.float32).repeat(4), "code": state.code, "blocksize": 64}
    backs = dequantize_blockwise(codes, state), dequantize_blockwise(*plain), dequantize_blockwise(codes, **raw)
    figure, inside, over = (float((back - tensor).abs().max() / tensor.abs().max()) for back in backs)
    print(f"torch {torch.__version__}, bitsandbytes {bnb.__version__}: {figure:.4g}, limit {LIMIT:.4f}")
    print(f"controls: {inside:.4g} with plain scales, {over:.4g} with the bytes of the codes for scales")
    if not inside <= LIMIT or over <= LIMIT:  # not a number is bad
        return "skip: a control failed"
    return "good: the scales are dequantized" if figure <= LIMIT else "bad: the codes of the scales are read as scales"


if __name__ == "__main__":
    try:
        vote = main()
    except Exception as error:
        vote = " ".join(f"skip: {type(error).__name__}: {error}".split())
    print(vote)
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote.partition(":")[0]])
