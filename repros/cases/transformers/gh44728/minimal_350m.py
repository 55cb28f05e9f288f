# /// script
# dependencies = ["torch", "transformers>=4.56", "bitsandbytes>=0.46", "accelerate"]
# ///
"""transformers#44728: the report's own test. Loading opt-350m in 4 bits is said to take more than its 16-bit size.

    uv run minimal_350m.py      30 s, a GPU, no download; exit code 0 good, 1 bad, 125 skip (could not tell)

The report has 889 MB at the peak and 662 MB for the model in 16 bits. From 5.0 on a pool of threads reads ahead of the
quantization (minimal.py); with this model on a GPU it does not get that far. Weights are random, of the model's shapes.

Figure: the most bytes that torch has allocated on the GPU during the load. Limit: the model's 16-bit size.
"""

import gc
import sys
import tempfile

OPT = {"hidden_size": 1024, "ffn_dim": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
MORE = {"word_embed_proj_dim": 512, "do_layer_norm_before": False}


def main():
    import bitsandbytes as bnb
    import torch
    import transformers as tf

    if not torch.cuda.is_available():
        return "skip", "no GPU; minimal.py shows the worst case on a CPU"
    tf.utils.logging.disable_progress_bar()
    quantize = bnb.functional.quantize_4bit
    config = tf.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float16)

    def peak(folder, keep=lambda source: None):
        """Load the model in NF4 and drop it; return the most bytes allocated."""

        def quantize_and_keep(source, *args, **kwargs):
            keep(source)
            return quantize(source, *args, **kwargs)

        bnb.functional.quantize_4bit = quantize_and_keep
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        more = {"quantization_config": config, "dtype": torch.float16, "device_map": {"": 0}}
        tf.AutoModelForCausalLM.from_pretrained(folder, **more)
        return torch.cuda.max_memory_allocated()

    with tempfile.TemporaryDirectory() as folder:
        model = tf.OPTForCausalLM(tf.OPTConfig(**OPT, **MORE)).half()
        model.save_pretrained(folder)
        limit = sum(p.nbytes for p in model.parameters())
        figure, over = peak(folder), peak(folder, keep=[].append)
    versions = f"torch {torch.__version__}, transformers {tf.__version__}, bitsandbytes {bnb.__version__}"
    print(f"{versions}: {figure:,} bytes allocated at the peak, limit {limit:,}")
    print(f"control: {over:,} where each 16-bit weight is kept on purpose")
    if over <= limit:
        return "skip", "the control failed: a load that keeps each 16-bit weight must be over the limit"
    if figure <= limit:
        return "good", "the load stays below the 16-bit size"
    return "bad", "the load takes more than the 16-bit size"


if __name__ == "__main__":
    try:
        vote, why = main()
    except Exception as error:
        vote, why = "skip", " ".join(f"{type(error).__name__}: {error}".split())
    print(f"{vote}: {why}")
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote])
