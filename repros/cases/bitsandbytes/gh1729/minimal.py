# /// script
# dependencies = ["torch", "bitsandbytes>=0.46", "numpy"]
# ///
"""bitsandbytes#1729: QuantState.from_dict raises for the dictionary that as_dict() returns.

    uv run minimal.py      5 s, on a GPU if there is one; exit code 0 good, 1 bad, 125 skip (could not tell)

`from_dict` looks for one packed tensor, which only `as_dict(packed=True)` writes.

Figure: how many states, of 4-bit weights with and without quantized scales, raise as they are read back. Limit: 0.
"""

import sys

SYMPTOM = "There should be exactly one `quant_state` item"


def main():
    import bitsandbytes as bnb
    import torch
    from bitsandbytes.functional import QuantState, quantize_4bit

    device = "cuda" if torch.cuda.is_available() else "cpu"
    weight = torch.randn(64, 128, device=device)
    states = [quantize_4bit(weight, quant_type="nf4", compress_statistics=double)[1] for double in (0, 1)]

    def raising(dictionaries):
        """Read dictionaries back; return for how many that raises what the report quotes."""
        found = 0
        for each in dictionaries:
            try:
                QuantState.from_dict(each, device=torch.device(device))
            except ValueError as error:
                if SYMPTOM not in str(error):
                    raise
                found += 1
        return found

    figure = raising(state.as_dict() for state in states)
    inside = raising(state.as_dict(packed=True) for state in states)
    over = raising({**state.as_dict(packed=True), "quant_state.bitsandbytes__fp4": state.absmax} for state in states)
    versions = f"torch {torch.__version__} ({device}), bitsandbytes {bnb.__version__}"
    print(f"{versions}: {figure} of 2 unpacked states raise, limit 0")
    print(f"controls: {inside} of 2 packed ones, {over} of 2 with a second packed item put in on purpose")
    if inside or over != 2:
        return "skip", "a control failed: a packed state must be read, one with two packed items must raise"
    if not figure:
        return "good", "from_dict reads what as_dict() returns"
    return "bad", "from_dict raises for what as_dict() returns"


if __name__ == "__main__":
    try:
        vote, why = main()
    except Exception as error:
        vote, why = "skip", " ".join(f"{type(error).__name__}: {error}".split())
    print(f"{vote}: {why}")
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote])
