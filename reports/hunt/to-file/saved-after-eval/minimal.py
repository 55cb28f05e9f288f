# /// script
# dependencies = ["torch", "bitsandbytes>=0.46", "numpy"]
# ///
"""bitsandbytes: on a CPU, a 4-bit layer that was evaluated is saved with its scales in another order.

    uv run minimal.py      5 s, on a CPU; exit code 0 good, 1 bad, 125 skip (could not tell)

Figure: largest error of the weight loaded from the state dict. Limit: 0.05 of its largest value.
"""

import sys

LIMIT = 0.05


def main():
    import bitsandbytes as bnb
    import torch

    def error(evaluate, spoil=False):
        torch.manual_seed(0)
        kind = {"bias": False, "quant_type": "nf4", "compress_statistics": False}
        layer = bnb.nn.Linear4bit(128, 128, compute_dtype=torch.bfloat16, **kind)
        layer.weight.data *= torch.logspace(-2, 0, 128)[:, None]
        layer.to("cpu").eval()
        true = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        if evaluate:
            layer(torch.ones(4, 128, dtype=torch.bfloat16))
        stats = {name.removeprefix("weight."): value for name, value in layer.state_dict().items()}
        if spoil:
            stats["absmax"] = stats["absmax"].flip(0)
        weight = bnb.nn.Params4bit.from_prequantized(stats.pop("weight"), stats, device="cpu")
        back = bnb.functional.dequantize_4bit(weight.data, weight.quant_state)
        return float((back - true).abs().max() / true.abs().max())

    figure, inside, over = error(True), error(False), error(False, spoil=True)
    print(f"torch {torch.__version__}, bitsandbytes {bnb.__version__}: {figure:.4f}, limit {LIMIT}")
    print(f"controls: {inside:.4f} without an evaluation, {over:.4f} with its scales in reverse")
    if not inside <= LIMIT < over:
        return "skip: a control failed"
    return "good: it is loaded as it was" if figure <= LIMIT else "bad: what is loaded is another weight"


if __name__ == "__main__":
    try:
        vote = main()
    except Exception as error:
        vote = " ".join(f"skip: {type(error).__name__}: {error}".split())
    print(vote)
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote.partition(":")[0]])
