# /// script
# dependencies = ["torch", "transformers>=4.51", "bitsandbytes>=0.46", "accelerate"]
# ///
"""bitsandbytes#1849: the experts of a mixture stay in 16 bits when transformers 5 loads the model in 4 bits.

    uv run minimal.py      15 s, on a GPU if there is one; exit code 0 good, 1 bad, 125 skip (could not tell)

transformers 5 holds all experts of a layer in one parameter of three dimensions. Its integration of bitsandbytes
quantizes nn.Linear alone and silently skips such a parameter. transformers 4 has a Linear for each expert: good.

Figure: bytes of the experts' parameters that are still floating-point after loading a small Qwen3-MoE in 4 bits.
Limit: 0, since every expert is to be quantized, to codes in uint8. A small model shows it: sizes decide nothing here.
"""

import sys
import tempfile

SIZE = {"hidden_size": 128, "moe_intermediate_size": 64, "num_hidden_layers": 2, "num_experts": 4, "vocab_size": 256}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32, "num_experts_per_tok": 2}


def floating(model, part):
    """Return the bytes of floating-point parameters in a part of a model."""
    found = [p for name, p in model.named_parameters() if part in name and p.is_floating_point()]
    return sum(p.nbytes for p in found)


def main():
    import bitsandbytes as bnb
    import torch
    import transformers as tf

    tf.utils.logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = tf.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    with tempfile.TemporaryDirectory() as folder:
        model = tf.Qwen3MoeForCausalLM(tf.Qwen3MoeConfig(**SIZE, **HEADS)).to(torch.bfloat16)
        over = [floating(model, part) for part in (".experts.", ".self_attn.q_proj.")]
        model.save_pretrained(folder)
        model = tf.AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, device_map={"": device})
    figure, inside = floating(model, ".experts."), floating(model, ".self_attn.q_proj.")
    versions = f"torch {torch.__version__} ({device}), transformers {tf.__version__}, bitsandbytes {bnb.__version__}"
    print(f"{versions}: {figure:,} bytes of experts are floating-point, limit 0")
    print(f"controls: {inside:,} bytes of an attention projection, {over} of experts and projection before saving")
    if inside or not all(over):
        return "skip", "a control failed: the attention must be quantized, and a 16-bit model's parts counted"
    if figure:
        return "bad", "the experts are not quantized"
    return "good", "the experts are quantized"


if __name__ == "__main__":
    try:
        vote, why = main()
    except Exception as error:
        vote, why = "skip", " ".join(f"{type(error).__name__}: {error}".split())
    print(f"{vote}: {why}")
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote])
