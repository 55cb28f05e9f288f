# /// script
# dependencies = ["torch", "bitsandbytes>=0.46", "numpy"]
# ///
"""bitsandbytes#1927: under non-reentrant gradient checkpointing every int8 layer keeps its input alive until backward.

    uv run minimal_held_state.py      5 s, on a GPU if there is one; exit code 0 good, 1 bad, 125 skip (could not tell)

The autograd Function of an int8 layer keeps its input on `ctx`, not by save_for_backward, so this checkpointing, which
works by saved-tensor hooks, cannot drop it. It is the default of transformers from 5.0 on.

Figure: bytes of tensors that a checkpointed forward of a block of int8 layers leaves alive for its backward.
Limit: the block's output, in float32, and 64 KiB for the state of the random generator: the rest is recomputed.
"""

import gc
import sys

TOKENS, WIDTH, LAYERS = 256, 256, 4
LIMIT = 4 * TOKENS * WIDTH + (64 << 10)


def main():
    import bitsandbytes as bnb
    import torch
    from torch.utils.checkpoint import checkpoint

    device = "cuda" if torch.cuda.is_available() else "cpu"
    layers = [bnb.nn.Linear8bitLt(WIDTH, WIDTH, has_fp16_weights=False) for _ in range(LAYERS)]
    block = torch.nn.Sequential(*layers).requires_grad_(False).to(device)

    def alive():
        gc.collect()
        tensors = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor) and o.device.type == device]
        return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}

    def held(run):
        """Return the bytes that a forward leaves alive for its backward, in the second of two steps."""
        x = torch.randn(TOKENS, WIDTH, device=device, requires_grad=True)
        run(x).sum().backward()  # what a layer keeps from its first call on does not count
        before = alive()
        output = run(x)
        after = alive()
        output.sum().backward()
        return sum(size for storage, size in after.items() if storage not in before)

    inside, over = held(lambda x: checkpoint(block, x, use_reentrant=True)), held(block)
    figure = held(lambda x: checkpoint(block, x, use_reentrant=False))
    versions = f"torch {torch.__version__} ({device}), bitsandbytes {bnb.__version__}"
    print(f"{versions}: {figure:,} bytes held, limit {LIMIT:,}")
    print(f"controls: {inside:,} under reentrant checkpointing, {over:,} without checkpointing")
    if not inside <= LIMIT < over:
        return "skip", "a control failed: reentrant checkpointing must be inside the limit, none at all over it"
    if figure <= LIMIT:
        return "good", "a checkpointed block of int8 layers holds its output alone"
    return "bad", "a checkpointed block of int8 layers holds what it should compute again"


if __name__ == "__main__":
    try:
        vote, why = main()
    except Exception as error:
        vote, why = "skip", " ".join(f"{type(error).__name__}: {error}".split())
    print(f"{vote}: {why}")
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote])
