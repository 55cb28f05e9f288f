# /// script
# dependencies = ["torch", "bitsandbytes>=0.46", "numpy"]
# ///
"""bitsandbytes#1729: QuantState.from_dict raises for the dictionary that as_dict() returns.

    uv run minimal.py      5 s, on a GPU if there is one; exit code 0 good, 1 bad, 125 skip (could not tell)

Figure: how many states of two, with and without quantized scales, raise as they are read back. Limit: 0.
"""

import sys

SYMPTOM = "There should be exactly one `quant_state` item"


def main():
    import bitsandbytes as bnb
    import torch
    from bitsandbytes.functional import QuantState, quantize_4bit

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    weight = torch.randn(64, 128, device=device)
    states = [quantize_4bit(weight, quant_type="nf4", compress_statistics=double)[1] for double in (0, 1)]

    def raises(dictionary):
        try:
            QuantState.from_dict(dictionary, device=device)
        except ValueError as error:
            if SYMPTOM not in str(error):
                raise
            return 1
        return 0

    packed = [state.as_dict(packed=True) for state in states]
    two = [{**each, "quant_state.bitsandbytes__fp4": states[0].absmax} for each in packed]
    figure, inside, over = (sum(map(raises, each)) for each in ((s.as_dict() for s in states), packed, two))
    print(f"torch {torch.__version__} ({device}), bitsandbytes {bnb.__version__}: {figure} of 2 raise, limit 0")
    print(f"controls: {inside} of 2 packed ones, {over} of 2 with a second packed item put in on purpose")
    if inside or over != 2:
        return "skip: a control failed"
    return "bad: from_dict raises for what as_dict() returns" if figure else "good: it reads what as_dict() returns"


if __name__ == "__main__":
    try:
        vote = main()
    except Exception as error:
        vote = " ".join(f"skip: {type(error).__name__}: {error}".split())
    print(vote)
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote.partition(":")[0]])
