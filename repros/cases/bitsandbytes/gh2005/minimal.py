# /// script
# dependencies = ["torch", "bitsandbytes>=0.48", "numpy"]
# ///
"""bitsandbytes#2005: 4-bit experts in one parameter stay alive in 16 bits after a step of non-reentrant checkpointing.

    uv run minimal.py      5 s, on a GPU if there is one; exit code 0 good, 1 bad, 125 skip (could not tell)

replace_parameter_4bit opens the cache of torch.nn.utils.parametrize before a forward and closes it in a forward hook.
Non-reentrant checkpointing leaves its recomputation by an exception, so the hook does not run, and the cache stays.

Figure: bytes of bfloat16 tensors that are alive after a whole training step and were not before it.
Limit: 0; the output and the gradients are gone, and the frozen experts have their 4-bit codes.
"""

import gc
import sys

TOKENS, WIDTH, EXPERTS = 128, 256, 2


def main():
    import bitsandbytes as bnb
    import torch
    from torch.utils.checkpoint import checkpoint

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        from bitsandbytes.nn.parametrize import replace_parameter_4bit
    except ImportError:
        return "skip", f"bitsandbytes {bnb.__version__} has no replace_parameter_4bit; it came with 0.48"

    class Experts(torch.nn.Module):
        def __init__(self):
            super().__init__()
            weight = torch.randn(EXPERTS, WIDTH, WIDTH, dtype=torch.bfloat16, device=device)
            self.weight = torch.nn.Parameter(weight, requires_grad=False)

        def forward(self, x):
            weight = self.weight
            return torch.cat([part @ weight[e].t() for e, part in enumerate(x.chunk(EXPERTS))])

    def alive():
        gc.collect()
        tensors = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor) and o.dtype == torch.bfloat16]
        return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())

    def left(run):
        """Train a step through `run`; return the 16-bit bytes that it leaves alive."""
        x = torch.randn(TOKENS, WIDTH, dtype=torch.bfloat16, device=device, requires_grad=True)
        before = alive()
        run(x).sum().backward()
        x.grad = None
        return alive() - before

    experts, kept = Experts(), []
    replace_parameter_4bit(experts, "weight", quant_type="nf4")
    inside = left(experts)
    over = left(lambda x: kept.append(experts.weight) or experts(x))  # keep the 16-bit experts on purpose
    figure = left(lambda x: checkpoint(experts, x, use_reentrant=False))
    versions = f"torch {torch.__version__} ({device}), bitsandbytes {bnb.__version__}"
    print(f"{versions}: {figure:,} bytes left by a step, limit 0")
    print(f"controls: {inside:,} without checkpointing, {over:,} where the 16-bit experts are kept on purpose")
    if inside or over != EXPERTS * WIDTH * WIDTH * 2:
        return "skip", "a control failed: a plain step must leave nothing, experts kept on purpose must be counted"
    if figure > 0:
        return "bad", "the 16-bit experts stay alive after a checkpointed step"
    return "good", "a checkpointed step leaves nothing"


if __name__ == "__main__":
    try:
        vote, why = main()
    except Exception as error:
        vote, why = "skip", " ".join(f"{type(error).__name__}: {error}".split())
    print(f"{vote}: {why}")
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote])
