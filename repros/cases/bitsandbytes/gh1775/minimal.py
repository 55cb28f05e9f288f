# /// script
# dependencies = ["torch", "bitsandbytes>=0.46", "numpy"]
# ///
"""bitsandbytes#1775: an int8 weight that was saved quantized loses its scale where it is moved, and nothing warns.

    uv run minimal.py      5 s, on a GPU if there is one; exit code 0 good, 1 bad, 125 skip (could not tell)

Figure: largest error of a layer's output, relative to the largest number. Limit: two epsilons of float16.
"""

import sys


def main():
    import bitsandbytes as bnb
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    codes, scale = torch.randint(-127, 128, (32, 64), dtype=torch.int8), torch.rand(32) + 1
    x = torch.randint(-126, 127, (16, 64)).half()
    codes[:, 0] = x[:, 0] = 127  # so that quantizing anew, and rounding the input to int8, change nothing
    right = x.double() @ (codes.double() * scale.double().unsqueeze(1) / 127).t()

    def error(weight, scale=None):
        layer = bnb.nn.Linear8bitLt(64, 32, bias=False, has_fp16_weights=False)
        layer.weight = bnb.nn.Int8Params(weight, requires_grad=False).to(device)
        if scale is not None:
            layer.weight.SCB = scale.to(device)  # as transformers 4 does
        return float((layer(x.to(device)).cpu().double() - right).abs().max() / right.abs().max())

    limit, anew = 2 * 2.0**-10, codes * (scale / 127).unsqueeze(1)
    figure, inside, over = error(codes, scale), error(anew.half()), error(codes.half())
    print(f"torch {torch.__version__} ({device}), bitsandbytes {bnb.__version__}: {figure:.3g}, limit {limit:.3g}")
    print(f"controls: {inside:.3g} quantized anew, {over:.3g} where the codes are the weight")
    if not inside <= limit < over:
        return "skip: a control failed"
    return "good: the saved weight keeps its scale" if figure <= limit else "bad: the saved weight lost its scale"


if __name__ == "__main__":
    try:
        vote = main()
    except Exception as error:
        vote = " ".join(f"skip: {type(error).__name__}: {error}".split())
    print(vote)
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote.partition(":")[0]])
