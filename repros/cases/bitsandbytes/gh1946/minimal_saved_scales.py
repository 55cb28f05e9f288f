# /// script
# dependencies = ["torch", "bitsandbytes>=0.46", "numpy"]
# ///
"""bitsandbytes#1946: on a CPU a Linear4bit that was evaluated is saved with its scales in the wrong order.

    uv run minimal_saved_scales.py      5 s, no GPU; exit code 0 good, 1 bad, 125 skip (could not tell)

The first forward in eval mode packs the weight for AVX512-BF16 and transposes its scales. state_dict() unpacks the
codes, but turns the scales back only where they are quantized too (compress_statistics=True).

Figure: the largest error of the weight that was saved after the evaluation, relative to the largest weight.
Limit: packing rounds the scales to bfloat16, by half an epsilon; a weight is its code times its scale.
"""

import sys
from pathlib import Path

ROWS, IN, OUT, BLOCK = 16, 256, 128, 64  # each block of 64 weights has a scale
EPSILON = 2**-7  # of bfloat16
LIMIT = EPSILON / 2


def main():
    import bitsandbytes as bnb
    import torch
    from bitsandbytes.functional import QuantState, dequantize_4bit

    if "avx512_bf16" not in Path("/proc/cpuinfo").read_text():
        return "skip", "this CPU lacks AVX512-BF16; bitsandbytes does not pack a weight here"
    torch.manual_seed(0)
    layer = bnb.nn.Linear4bit(IN, OUT, bias=False, quant_type="nf4", compress_statistics=False).to("cpu")
    right = dequantize_4bit(layer.weight.data, layer.weight.quant_state).double()

    def saved():
        """Return what a checkpoint of the layer holds: its codes and their scales."""
        parts = {name.removeprefix("weight."): part.clone() for name, part in layer.state_dict().items()}
        return parts.pop("weight"), QuantState.from_dict(parts, torch.device("cpu"))

    def error(codes, scales):
        return ((dequantize_4bit(codes, scales).double() - right).abs().max() / right.abs().max()).item()

    codes, scales = saved()
    inside = error(codes, scales)
    scales.absmax = scales.absmax.reshape(OUT, IN // BLOCK).t().flatten()  # the wrong order, on purpose
    over = error(codes, scales)
    with torch.no_grad():
        layer.eval()(torch.randn(ROWS, IN))
    figure = error(*saved())
    versions = f"torch {torch.__version__}, bitsandbytes {bnb.__version__}"
    print(f"{versions}: error {figure:.4f} of the weight saved after an evaluation, limit {LIMIT:.4f}")
    print(f"controls: {inside:.4f} saved before it, {over:.4f} with scales in the wrong order on purpose")
    if not inside <= LIMIT < over:
        return (
            "skip",
            "a control failed: saved before it must be inside the limit, scales in a wrong order over it",
        )
    if figure <= LIMIT:
        return "good", "what is saved after an evaluation is the weight"
    return "bad", "what is saved after an evaluation is another weight, and nothing says so"


if __name__ == "__main__":
    try:
        vote, why = main()
    except Exception as error:
        vote, why = "skip", " ".join(f"{type(error).__name__}: {error}".split())
    print(f"{vote}: {why}")
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote])
