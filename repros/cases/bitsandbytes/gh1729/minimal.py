# /// script
# dependencies = ["torch", "bitsandbytes>=0.46", "numpy"]
# ///
"""bitsandbytes#1729: on a CPU an int8 layer with a threshold writes into its input, and the backward before it raises.

    uv run minimal.py      5 s, no GPU; exit code 0 good, 1 bad, 125 skip (could not tell)

int8_vectorwise_quant zeroes the outlier columns in the float16 input itself and puts them back afterwards. Autograd
counts the writes; whatever saved that input, such as a ReLU, then refuses its backward.

Figure: writes into the input during one forward of the layer, by autograd's own count (the tensor's version).
Limit: 0, since a layer may not write into its input. Bad is the exception that follows in the backward.
"""

import sys

ROWS, IN, OUT, THRESHOLD = 16, 256, 128, 6.0
SYMPTOM = "modified by an inplace operation"


def main():
    import bitsandbytes as bnb
    import torch

    torch.manual_seed(0)
    layer = bnb.nn.Linear8bitLt(IN, OUT, bias=False, has_fp16_weights=False, threshold=THRESHOLD).to("cpu").eval()
    calm = torch.randn(ROWS, IN).clamp(-5, 5).half()  # nothing reaches the threshold
    outliers = calm.clone()
    outliers[:, ::64] += 20

    def writes(run, x):
        """Train through a ReLU and `run`; return the writes into the input of `run`, and what the backward raises."""
        hidden = x.clone().requires_grad_().relu()
        loss = run(hidden).sum()
        try:
            loss.backward()
        except RuntimeError as error:
            if SYMPTOM not in str(error):
                raise
            return hidden._version, True
        return hidden._version, False

    def zeroes_and_restores(x):  # the bug on purpose
        kept = x.detach().clone()
        x.detach().masked_fill_(kept >= THRESHOLD, 0).copy_(kept)
        return x * 2

    (figure, raised), inside, over = writes(layer, outliers), writes(layer, calm), writes(zeroes_and_restores, outliers)
    versions = f"torch {torch.__version__}, bitsandbytes {bnb.__version__}"
    print(f"{versions}: {figure} writes into an input with outliers, limit 0")
    print(f"controls: {inside[0]} writes without outliers, {over[0]} by a function that writes on purpose")
    if inside != (0, False) or not over[0] or not over[1]:
        return "skip", "a control failed: an input without outliers must pass, one that is written to must be refused"
    if raised:
        return "bad", f"the backward raises RuntimeError: ... has been {SYMPTOM}"
    return ("skip", "the input was written to, and nothing raised") if figure else ("good", "the input is left alone")


if __name__ == "__main__":
    try:
        vote, why = main()
    except Exception as error:
        vote, why = "skip", " ".join(f"{type(error).__name__}: {error}".split())
    print(f"{vote}: {why}")
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote])
