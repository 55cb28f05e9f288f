# /// script
# dependencies = ["torch", "bitsandbytes>=0.46", "peft", "numpy"]
# ///
"""bitsandbytes#1935: PEFT's DoRA with dropout over a 4-bit layer saves the dequantized 16-bit weight for backward.

    uv run minimal_dora.py      15 s, no GPU; exit code 0 good, 1 bad, 125 skip (could not tell)

DoRA with dropout multiplies by the dequantized weight outside of bitsandbytes' autograd Function, so autograd saves it
like any other. Plain LoRA calls the 4-bit layer itself, and no weight is saved.

Figure: bytes saved for backward that are held when a forward has ended, each storage once, without codes and scales.
Limit, in 16 bits: dropout's mask and result, two factors as large as the output, their product with the adapter's A;
and 64 KiB for the adapter itself and the norms of rows. A weight is more than all of that.
"""

import sys
import weakref

TOKENS, WIDTH, RANK = 128, 768, 8
LIMIT = 2 * TOKENS * (4 * WIDTH + RANK) + (64 << 10)


def main():
    import bitsandbytes as bnb
    import peft
    import torch

    torch.manual_seed(0)
    weight = torch.randn(WIDTH, WIDTH, dtype=torch.bfloat16)
    x = torch.randn(TOKENS, WIDTH, dtype=torch.bfloat16, requires_grad=True)

    def held(run):
        """Run a second step's forward; return the bytes that are saved for its backward."""
        run(x).sum().backward()  # a first step; under 0.46.0 PEFT fails at the second
        noted = []

        def note(tensor):
            noted.append(weakref.ref(tensor))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            output = run(x)  # it holds the graph, and the graph what is saved
        tensors = [t for ref in noted if (t := ref()) is not None and t.is_floating_point()]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        output.sum().backward()
        return sum(storages.values())

    def adapted(dora):
        layer = bnb.nn.Linear4bit(WIDTH, WIDTH, False, torch.bfloat16, compress_statistics=False, quant_type="nf4")
        model = torch.nn.Sequential(layer).requires_grad_(False).to("cpu")
        config = peft.LoraConfig(target_modules=["0"], r=RANK, lora_dropout=0.1, use_dora=dora)
        return peft.inject_adapter_in_model(config, model).to("cpu").train()

    lora = adapted(dora=False)
    inside, figure = held(lora), held(adapted(dora=True))
    over = held(lambda x: lora(x) + torch.nn.functional.linear(x, weight * 2))  # a 16-bit weight of the step's own
    versions = f"torch {torch.__version__}, bitsandbytes {bnb.__version__}, peft {peft.__version__}"
    print(f"{versions}: {figure:,} bytes saved with DoRA, limit {LIMIT:,}")
    print(f"controls: {inside:,} with LoRA, {over:,} with LoRA where a 16-bit weight is saved on purpose")
    if not inside <= LIMIT < over:
        return "skip", "a control failed: LoRA must be inside the limit, a 16-bit weight over it"
    if figure <= LIMIT:
        return "good", "with DoRA no weight is saved"
    return "bad", "with DoRA the dequantized weight is saved for backward"


if __name__ == "__main__":
    try:
        vote, why = main()
    except Exception as error:
        vote, why = "skip", " ".join(f"{type(error).__name__}: {error}".split())
    print(f"{vote}: {why}")
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote])
