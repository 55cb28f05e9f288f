# /// script
# dependencies = ["torch", "bitsandbytes>=0.46", "numpy"]
# ///
"""bitsandbytes#1927: state_dict() of an int8 layer raises where transformers' loader has taken SCB off its weight.

    uv run minimal_loader_pops_scb.py      5 s, no GPU; exit code 0 good, 1 bad, 125 skip (could not tell)

While a model is loaded, its layers are on the meta device, without data. For each weight the loader of transformers
does `options = vars(weight); options.pop("SCB")`, then makes a new weight with the options. If state_dict() is called
in between, bitsandbytes reads weight.SCB without asking whether it is there.

Figure: calls of state_dict() that raise AttributeError: 'Int8Params' object has no attribute 'SCB'. Limit: 0.
"""

import sys

IN, OUT = 256, 512
SYMPTOM = "'Int8Params' object has no attribute 'SCB'"


def main():
    import bitsandbytes as bnb
    import torch

    def layer():
        with torch.device("meta"):
            return bnb.nn.Linear8bitLt(IN, OUT, has_fp16_weights=False)

    def raised(call):
        """Return 1 if a call raises the symptom, 0 if it returns."""
        try:
            call()
        except AttributeError as error:
            if str(error) != SYMPTOM:
                raise
            return 1
        return 0

    untouched, popped = layer(), layer()
    vars(popped.weight).pop("SCB")  # as the loader does
    inside, over = raised(untouched.state_dict), raised(lambda: popped.weight.SCB)
    figure = raised(popped.state_dict)
    print(f"torch {torch.__version__}, bitsandbytes {bnb.__version__}: {figure} calls of state_dict() raise, limit 0")
    print(f"controls: {inside} with SCB in its place, {over} where the attribute is read without asking on purpose")
    if inside or not over:
        return "skip", "a control failed: a layer with SCB must not raise, reading SCB without asking must"
    if figure:
        return "bad", f"state_dict() raises AttributeError: {SYMPTOM}"
    return "good", "state_dict() does without SCB"


if __name__ == "__main__":
    try:
        vote, why = main()
    except Exception as error:
        vote, why = "skip", " ".join(f"{type(error).__name__}: {error}".split())
    print(f"{vote}: {why}")
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote])
