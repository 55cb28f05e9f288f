# /// script
# dependencies = ["torch", "bitsandbytes>=0.46", "numpy"]
# ///
"""bitsandbytes#1946: on a CPU a Linear4bit passes no gradient on once it was evaluated, and nothing says so.

    uv run minimal.py      5 s, no GPU; exit code 0 good, 1 bad, 125 skip (could not tell)

The first forward in eval mode packs the weight for AVX512-BF16. train() does not unpack it, and the product with a
packed weight has no backward. In x + layer(x), as in a residual network, the gradient of x alone is left.

Figure: the largest error of the gradient of x against float64, relative to the largest gradient.
Limit: scale, weight, product and sum are each rounded to bfloat16, by half an epsilon. The errors of OUT products add
up to OUT of them at most, and their sum is at least the root of OUT.
"""

import sys
from pathlib import Path

ROWS, IN, OUT = 16, 256, 128
EPSILON = 2**-7  # of bfloat16
LIMIT = 4 * EPSILON / 2 * OUT**0.5


def main():
    import bitsandbytes as bnb
    import torch

    if "avx512_bf16" not in Path("/proc/cpuinfo").read_text():
        return "skip", "this CPU lacks AVX512-BF16; bitsandbytes does not pack a weight here"
    torch.manual_seed(0)
    weight = torch.randn(OUT, IN)

    def new():
        layer = bnb.nn.Linear4bit(IN, OUT, bias=False, quant_type="nf4")
        layer.weight.data.copy_(weight)
        return layer.to("cpu")

    fresh, evaluated = new(), new()
    with torch.no_grad():
        evaluated.eval()(torch.randn(ROWS, IN))
    codes = fresh.weight
    right = 1 + bnb.functional.dequantize_4bit(codes.data, codes.quant_state).double().sum(0)

    def error(layer):
        x = torch.randn(ROWS, IN, requires_grad=True)
        (x.sum() + layer(x).sum()).backward()
        return ((x.grad.double() - right).abs().max() / right.abs().max()).item()

    figure, inside = error(evaluated.train()), error(fresh.train())
    over = error(lambda x: fresh(x.detach()))  # lose the layer's gradient on purpose
    versions = f"torch {torch.__version__}, bitsandbytes {bnb.__version__}"
    print(f"{versions}: error {figure:.3f} of the gradient after an evaluation, limit {LIMIT:.3f}")
    print(f"controls: {inside:.3f} in a layer never evaluated, {over:.3f} where its gradient is lost on purpose")
    if not inside <= LIMIT < over:
        return "skip", "a control failed: a layer never evaluated must be inside the limit, a lost gradient over it"
    if figure <= LIMIT:
        return "good", "a layer that was evaluated passes the gradient on"
    return "bad", "a layer that was evaluated passes no gradient on, and nothing says so"


if __name__ == "__main__":
    try:
        vote, why = main()
    except Exception as error:
        vote, why = "skip", " ".join(f"{type(error).__name__}: {error}".split())
    print(f"{vote}: {why}")
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote])
