# /// script
# dependencies = ["torch", "bitsandbytes>=0.46", "accelerate", "numpy"]
# ///
"""bitsandbytes#1927: an int8 layer that accelerate offloads loses its scale when checkpointing recomputes it.

    uv run minimal.py      5 s, on a GPU if there is one; exit code 0 good, 1 bad, 125 skip (could not tell)

The first forward moves the scale, SCB, from the weight to layer.state. The hooks of accelerate take the weight away
after a forward and bring it again before the next one; they know nothing of layer.state, so the scale is gone. The
recompute alone, which the report blames, passes.

Figure: AttributeErrors about a lost scale in a training step. Limit: 0. The exact words differ from release to release.
"""

import re
import sys

TOKENS, IN, OUT = 64, 256, 512
SYMPTOM = (
    r"'(Int8Params|Parameter)' object has no attribute 'S?CB'|'NoneType' object has no attribute '(unsqueeze|dtype)'"
)


def main():
    import accelerate
    import bitsandbytes as bnb
    import torch
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def layer():
        return bnb.nn.Linear8bitLt(IN, OUT, has_fp16_weights=False).requires_grad_(False).to(device).train()

    def lost(layer):
        """Train a step under gradient checkpointing; return what it raises about a lost scale, or an empty text."""
        x = torch.randn(TOKENS, IN, dtype=torch.bfloat16, device=device, requires_grad=True)
        # The gradient of the gate takes the recomputed output.
        gate = torch.ones(OUT, dtype=torch.bfloat16, device=device, requires_grad=True)
        try:
            checkpoint(lambda x: layer(x) * gate, x, use_reentrant=True).sum().backward()
        except AttributeError as error:
            if not re.fullmatch(SYMPTOM, str(error)):
                raise
            return f"AttributeError: {error}"
        return ""

    plain, broken = layer(), layer()
    broken.weight.SCB = None  # lose the scale on purpose
    inside, over = lost(plain), lost(broken)
    figure = lost(accelerate.cpu_offload(layer(), execution_device=torch.device(device)))
    versions = f"torch {torch.__version__} ({device}), bitsandbytes {bnb.__version__}"
    print(
        f"{versions}, accelerate {accelerate.__version__}: {bool(figure):d} lost scales in a step with offload, limit 0"
    )
    print(f"controls: {bool(inside):d} in a step without offload, {bool(over):d} where the scale is lost on purpose")
    if inside or not over:
        return "skip", "a control failed: a plain step must pass, a scale that is lost on purpose must raise"
    if figure:
        return "bad", f"a step with offload loses the scale: {figure}"
    return "good", "a step with offload keeps the scale"


if __name__ == "__main__":
    try:
        vote, why = main()
    except Exception as error:
        vote, why = "skip", " ".join(f"{type(error).__name__}: {error}".split())
    print(f"{vote}: {why}")
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote])
