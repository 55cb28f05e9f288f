# /// script
# dependencies = ["torch", "bitsandbytes>=0.46", "peft", "numpy"]
# ///
"""bitsandbytes#1935: PEFT's DoRA with dropout over a 4-bit layer saves the dequantized 16-bit weight for backward.

    uv run minimal_dora.py      15 s, on a GPU if there is one; exit code 0 good, 1 bad, 125 skip (could not tell)

DoRA with dropout multiplies by the dequantized weight outside of bitsandbytes' autograd Function, so autograd saves it
like any other. Plain LoRA calls the 4-bit layer itself, and no weight is saved.

Figure: bytes saved for backward that are held when a forward has ended, each storage once, without codes.
Limit, in 16 bits: dropout's mask and result, two factors as large as the output, their product with the adapter's A;
the adapter itself in 32, with four norms a row. A weight is more than all of that.
"""

import sys
import weakref

TOKENS, RANK = 128, 8
WIDTH = {"cpu": 768, "cuda": 4096}  # on a GPU that of the report's 9B model


def main():
    import bitsandbytes as bnb
    import peft
    import torch

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    width = WIDTH[device]
    limit = 2 * TOKENS * (4 * width + RANK) + 4 * (2 * RANK + 4) * width
    weight = torch.randn(width, width, dtype=torch.bfloat16, device=device)
    x = torch.randn(TOKENS, width, dtype=torch.bfloat16, device=device, requires_grad=True)

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
        layer = bnb.nn.Linear4bit(width, width, False, torch.bfloat16, compress_statistics=False, quant_type="nf4")
        model = torch.nn.Sequential(layer).requires_grad_(False).to(device)
        config = peft.LoraConfig(target_modules=["0"], r=RANK, lora_dropout=0.1, use_dora=dora)
        return peft.inject_adapter_in_model(config, model).to(device).train()

    lora = adapted(dora=False)
    inside, figure = held(lora), held(adapted(dora=True))
    over = held(lambda x: lora(x) + torch.nn.functional.linear(x, weight * 2))  # a 16-bit weight of the step's own
    versions = f"torch {torch.__version__} ({device}), bitsandbytes {bnb.__version__}, peft {peft.__version__}"
    print(f"{versions}: {figure:,} bytes saved with DoRA, limit {limit:,}")
    print(f"controls: {inside:,} with LoRA, {over:,} with LoRA where a 16-bit weight is saved on purpose")
    if not inside <= limit < over:
        return "skip", "a control failed: LoRA must be inside the limit, a 16-bit weight over it"
    if figure <= limit:
        return "good", "with DoRA no weight is saved"
    return "bad", "with DoRA the dequantized weight is saved for backward"


if __name__ == "__main__":
    try:
        vote, why = main()
    except Exception as error:
        vote, why = "skip", " ".join(f"{type(error).__name__}: {error}".split())
    print(f"{vote}: {why}")
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote])
