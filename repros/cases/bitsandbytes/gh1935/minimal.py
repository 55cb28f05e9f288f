# /// script
# dependencies = ["torch>=2.4", "bitsandbytes>=0.46", "numpy"]
# ///
"""bitsandbytes#1935: under torch.compile a frozen 4-bit layer saves its dequantized 16-bit weight for backward.

    uv run minimal.py      15 s, on a GPU if there is one; exit code 0 good, 1 bad, 125 skip (could not tell)

Forward and backward dequantize the same codes. The compiler sees both in one graph, does it once and saves the result.
In eager mode, which the report blames, the layer saves no weight.

Figure: bytes of 16-bit tensors saved for backward that are held when a forward has ended, each storage once.
Limit: input and output; the backward of a frozen layer needs its codes and scales alone. A weight is over 3 times that.
"""

import sys
import weakref

TOKENS = 128
WIDTH = {"cpu": 768, "cuda": 4096}  # on a GPU that of the report's 9B model
BACKEND = "aot_eager_decomp_partition"  # splits the graph by min-cut as inductor does, and needs no C++ compiler


def main():
    import bitsandbytes as bnb
    import torch

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    width = WIDTH[device]
    limit = 2 * 2 * TOKENS * width
    layer = bnb.nn.Linear4bit(width, width, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
    layer = layer.requires_grad_(False).to(device)
    weight = torch.randn(width, width, dtype=torch.bfloat16, device=device)
    x = torch.randn(TOKENS, width, dtype=torch.bfloat16, device=device, requires_grad=True)

    def held(run):
        """Run a forward; return the bytes that are saved for its backward."""
        noted = []

        def note(tensor):
            noted.append(weakref.ref(tensor))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            output = run(x)  # it holds the graph, and the graph what is saved
        tensors = [t for ref in noted if (t := ref()) is not None and t.dtype == torch.bfloat16]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        output.sum().backward()
        return sum(storages.values())

    over = held(lambda x: torch.nn.functional.linear(x, weight * 2))  # a 16-bit weight of the step's own
    inside, figure = held(layer), held(torch.compile(layer, backend=BACKEND))
    versions = f"torch {torch.__version__} ({device}), bitsandbytes {bnb.__version__}"
    print(f"{versions}: {figure:,} bytes saved by the compiled layer, limit {limit:,}")
    print(f"controls: {inside:,} by the same layer in eager mode, {over:,} where a 16-bit weight is saved on purpose")
    if not inside <= limit < over:
        return "skip", "a control failed: the eager layer must be inside the limit, a 16-bit weight over it"
    if figure <= limit:
        return "good", "the compiled layer saves no weight"
    return "bad", "the compiled layer saves its dequantized weight for backward"


if __name__ == "__main__":
    try:
        vote, why = main()
    except Exception as error:
        vote, why = "skip", " ".join(f"{type(error).__name__}: {error}".split())
    print(f"{vote}: {why}")
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote])
