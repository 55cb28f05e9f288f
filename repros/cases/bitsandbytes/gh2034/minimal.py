# /// script
# dependencies = ["torch", "bitsandbytes>=0.46", "numpy"]
# ///
"""bitsandbytes#2034: MatMul4Bit keeps its weight on `ctx`, where checkpointing does not see it; a reused one is wrong.

    uv run minimal.py      5 s, on a GPU if there is one; exit code 0 good, 1 bad, 125 skip (could not tell)
Figure: a gradient's relative error through four layers in one buffer. Limit: roundings of four sums of 128 products.
"""

import sys


def main(limit=4 * 128 * 2.0**-23):
    import bitsandbytes as bnb
    import torch.utils.checkpoint

    x = torch.ones(2, 128, device="cuda" if torch.cuda.is_available() else "cpu", requires_grad=True)

    def error(layer, y=x):
        for codes, state in layers:
            y = torch.utils.checkpoint.checkpoint(layer, y, codes, state, use_reentrant=False)
        return float((torch.autograd.grad(y.sum(), x)[0] - right).abs().max() / right.abs().max())

    layers = [bnb.functional.quantize_4bit(torch.randn(128, 128).to(x), quant_type="nf4") for _ in range(4)]
    weights = [bnb.functional.dequantize_4bit(*layer) for layer in layers]
    right, buffer = torch.linalg.multi_dot([x.detach(), *weights[::-1]]), layers[0][0].clone()
    figure = error(lambda y, codes, state: bnb.matmul_4bit(y, buffer.copy_(codes).t(), state))
    inside = error(lambda y, *of: torch.nn.functional.linear(y, weights[0].copy_(bnb.functional.dequantize_4bit(*of))))
    over = error(lambda y, codes, state: bnb.matmul_4bit(y, layers[-1][0].t(), state))
    print(f"bitsandbytes {bnb.__version__}: {figure:.2g}, limit {limit:.2g}; controls {inside:.2g} (plain), {over:.2g}")
    return "skip: control" if not inside <= limit < over else "good: right" if figure <= limit else "bad: wrong"


if __name__ == "__main__":
    try:
        vote = main()
    except Exception as error:
        vote = " ".join(f"skip: {type(error).__name__}: {error}".split())
    print(vote)
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote.partition(":")[0]])
