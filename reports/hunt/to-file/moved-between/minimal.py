# /// script
# dependencies = ["torch", "bitsandbytes>=0.46", "numpy"]
# ///
"""bitsandbytes: `weight.to("meta")` takes the scales from the weight itself, and the gradient is unwritten memory.

    uv run minimal.py      5 s, on a CPU; exit code 0 good, 1 bad, 125 skip (could not tell)

Figure: largest error of the gradient of the input, new memory being NaN. Limit: 0.05 of its largest value.
"""

import sys

LIMIT = 0.05


def main():
    import bitsandbytes as bnb
    import torch

    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    torch.manual_seed(0)

    def error(move, sign=1):
        layer = bnb.nn.Linear4bit(128, 128, bias=False, quant_type="nf4", compute_dtype=torch.bfloat16).to("cpu")
        true = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float().sum(0)
        value = torch.ones(4, 128, dtype=torch.bfloat16, requires_grad=True)
        out = layer(value)
        if move:
            layer.weight.to("meta")  # a copy that nothing keeps
        out.sum().backward()
        return float((value.grad[0].float() * sign - true).abs().max() / true.abs().max())

    figure, inside, over = error(True), error(False), error(False, sign=-1)
    print(f"torch {torch.__version__}, bitsandbytes {bnb.__version__}: {figure:.4f}, limit {LIMIT}")
    print(f"controls: {inside:.4f} without the copy, {over:.4f} of the gradient negated")
    if not inside <= LIMIT < over:
        return "skip: a control failed"
    return "good: the gradient is that of the forward" if figure <= LIMIT else "bad: the gradient is unwritten memory"


if __name__ == "__main__":
    try:
        vote = main()
    except Exception as error:
        vote = " ".join(f"skip: {type(error).__name__}: {error}".split())
    print(vote)
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote.partition(":")[0]])
