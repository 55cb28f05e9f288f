# /// script
# dependencies = ["torch", "bitsandbytes>=0.46", "numpy"]
# ///
"""bitsandbytes: on a CPU, an evaluated 4-bit layer gives its input no gradient, and nothing fails.

    uv run minimal.py      5 s, on a CPU; exit code 0 good, 1 bad, 125 skip (could not tell)

Figure: largest error of the gradient of the input. Limit: 0.05 of its largest value.
"""

import sys

LIMIT = 0.05


def main():
    import bitsandbytes as bnb
    import torch

    torch.manual_seed(0)
    layer = bnb.nn.Linear4bit(128, 128, bias=False, quant_type="nf4", compute_dtype=torch.bfloat16).to("cpu")
    weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    layer.eval()

    def error(drop=False):
        value = torch.ones(4, 128, dtype=torch.bfloat16, requires_grad=True)
        (layer(value).sum() + value.sum() * 0).backward()
        true, grad = weight.sum(0), value.grad[0].float() * (not drop)
        return float((grad - true).abs().max() / true.abs().max())

    inside, over = error(), error(drop=True)
    layer(torch.ones(4, 128, dtype=torch.bfloat16))
    figure = error()
    print(f"torch {torch.__version__}, bitsandbytes {bnb.__version__}: {figure:.4f}, limit {LIMIT}")
    print(f"controls: {inside:.4f} without an evaluation, {over:.4f} of no gradient")
    if not inside <= LIMIT < over:
        return "skip: a control failed"
    return "good: there is a gradient" if figure <= LIMIT else "bad: there is no gradient"


if __name__ == "__main__":
    try:
        vote = main()
    except Exception as error:
        vote = " ".join(f"skip: {type(error).__name__}: {error}".split())
    print(vote)
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote.partition(":")[0]])
