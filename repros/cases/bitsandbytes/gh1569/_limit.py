"""What a step of training has to hold in 16 bits, from the shapes of the model: for the case of bitsandbytes#1569."""

from repros.worker.sizes import sizes

RANK = 8
#: One layer each: a CPU's, and one of nearly the report's width. Hidden, inner, keys, heads, vocabulary.
SMOLLM, QWEN = "smollm2-135m-1l", "qwen2.5-7b-1l"
SHAPES = {SMOLLM: (576, 1536, 192, 9, 256), QWEN: (3584, 18944, 512, 28, 1024)}


def needed(checkpoint, tokens):
    """Return the bytes that a step has to hold, beside the model."""
    hidden, inner, keys, heads, vocabulary = SHAPES[checkpoint]
    float32 = 3 * hidden + RANK + 2 + heads  # inputs of the adapter and of two norms; product, scales, attention's sums
    bfloat16 = 2 * hidden + 2 * keys + 3 * inner + vocabulary  # attention, with its result; the inner layer; logits
    adapter = 4 * RANK * (hidden + keys)
    return tokens * (4 * float32 + 2 * bfloat16) + adapter + 128 * 1024


def of_bf16(checkpoint, tokens):
    """Return what the 16-bit model needs more than a 4-bit one's weights: that, and by how much its own are larger."""
    of = sizes(checkpoint)
    return needed(checkpoint, tokens) + of.whole - of.staying - of.nf4
