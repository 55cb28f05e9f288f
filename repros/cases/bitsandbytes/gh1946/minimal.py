# /// script
# dependencies = ["torch", "bitsandbytes>=0.46", "numpy"]
# ///
"""bitsandbytes#1946: a 4-bit layer does not read its own state dict; not strict, it is silently wrong.

    uv run minimal.py      5 s, on a GPU if there is one; exit code 0 good, 1 bad, 125 skip (could not tell)

`Linear4bit` writes its scales beside the weight, and nothing reads them: `load_state_dict` raises for unexpected keys
or, with `strict=False`, leaves them out. The layer then has the new codes and its old scales.

Figure: the error of the loaded layer's output, relative to the largest number of the saved layer's own output.
Limit: 1e-5, a rounding in float32: both layers are to compute the same.
"""

import sys

IN, OUT, LIMIT = 128, 64, 1e-5


def main():
    import bitsandbytes as bnb
    import torch

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def layer():
        made = bnb.nn.Linear4bit(IN, OUT, bias=False, compute_dtype=torch.float32, quant_type="nf4")
        made.weight = bnb.nn.Params4bit(torch.randn(OUT, IN), requires_grad=False, quant_type="nf4")
        return made.to(device)

    saved, other, x = layer(), layer(), torch.randn(4, IN, device=device)
    right = saved(x)

    def error(output):
        return float((output - right).abs().max() / right.abs().max())

    inside, over = error(saved(x)), error(other(x))  # before it loads, the other layer is another layer
    try:
        other.load_state_dict(saved.state_dict(), strict=True)
        said = "raises nothing"
    except RuntimeError as refusal:
        said = f"raises {type(refusal).__name__}"
    other.load_state_dict(saved.state_dict(), strict=False)
    figure = error(other(x))
    versions = f"torch {torch.__version__} ({device}), bitsandbytes {bnb.__version__}"
    print(f"{versions}: error {figure:.2g} once loaded, limit {LIMIT:g}")
    print(f"controls: {inside:.2g} by the layer itself, {over:.2g} by another layer; strict=True {said}")
    if not inside <= LIMIT < over:
        return "skip", "a control failed: a layer must equal itself and no other"
    if figure <= LIMIT:
        return "good", "a layer that loads a state dict computes as the one that saved it"
    return "bad", "a layer that loads a state dict with strict=False has the new codes and its old scales"


if __name__ == "__main__":
    try:
        vote, why = main()
    except Exception as error:
        vote, why = "skip", " ".join(f"{type(error).__name__}: {error}".split())
    print(f"{vote}: {why}")
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote])
