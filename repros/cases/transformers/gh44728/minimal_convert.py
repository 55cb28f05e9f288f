# /// script
# dependencies = ["torch", "transformers>=5", "bitsandbytes>=0.46.1", "accelerate"]
# ///
"""transformers#44728: references in Bnb4bitQuantize.convert() are said to keep each 16-bit weight; they keep none.

    uv run minimal_convert.py      15 s, on a GPU if there is one; exit code 0 good, 1 bad, 125 skip (could not tell)

The report blames `value`, `input_dict` and the new Params4bit for 16-bit weights that pile up. Here the threads that
read ahead (minimal.py) are switched off, by HF_DEACTIVATE_ASYNC_LOAD=1, so that what piles up is held by references.

Figure: the most bytes of bfloat16 tensors that are alive when a quantization ends.
Limit: what stays in 16 bits (embedding, head, norms) and one weight on its way, the largest.
"""

import gc
import os
import sys
import tempfile

# The report's model, facebook/opt-350m, on a GPU; on a CPU one small layer of the kind.
OPT = {"hidden_size": 1024, "ffn_dim": 4096, "num_hidden_layers": 24, "word_embed_proj_dim": 512}
SMALL = {"hidden_size": 256, "ffn_dim": 512, "num_hidden_layers": 1, "word_embed_proj_dim": 256, "vocab_size": 256}


def main():
    import bitsandbytes as bnb
    import torch
    import transformers as tf

    if not hasattr(tf.integrations.bitsandbytes, "Bnb4bitQuantize"):
        return "skip", f"transformers {tf.__version__} has no Bnb4bitQuantize.convert(); it came with 5.0"
    tf.utils.logging.disable_progress_bar()
    device, size = ("cuda", OPT) if torch.cuda.is_available() else ("cpu", SMALL)
    quantize = bnb.functional.quantize_4bit

    def alive():
        tensors = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor) and o.device.type == device]
        return sum({t.data_ptr(): t.nbytes for t in tensors if t.dtype == torch.bfloat16}.values())

    def peak(folder, keep=lambda source: None):
        """Load a model in NF4; return the most bytes alive when a quantization ends."""
        gc.collect()
        peaks = []

        def quantize_and_count(source, *args, **kwargs):
            result = quantize(source, *args, **kwargs)
            keep(source)
            peaks.append(alive())
            return result

        nf4 = tf.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
        bnb.functional.quantize_4bit = quantize_and_count
        tf.OPTForCausalLM.from_pretrained(folder, quantization_config=nf4, dtype=torch.bfloat16, device_map=device)
        return max(peaks)

    with tempfile.TemporaryDirectory() as folder:
        model = tf.OPTForCausalLM(tf.OPTConfig(num_attention_heads=size["hidden_size"] // 64, **size)).bfloat16()
        model.save_pretrained(folder)
        weights = [m.weight.nbytes for m in model.model.modules() if isinstance(m, torch.nn.Linear)]
        limit = sum(p.nbytes for p in model.parameters()) - sum(weights) + max(weights)
        del model
        figure, over = peak(folder), peak(folder, keep=[].append)
    versions = f"torch {torch.__version__} ({device}), transformers {tf.__version__}, bitsandbytes {bnb.__version__}"
    print(f"{versions}: {figure:,} bytes alive while it loads, limit {limit:,}")
    print(f"control: {over:,} where each 16-bit weight is kept on purpose")
    if over <= limit:
        return "skip", "the control failed: a load that keeps each 16-bit weight must be over the limit"
    if figure <= limit:
        return "good", "convert() keeps no 16-bit weight"
    return "bad", "convert() keeps 16-bit weights that were quantized"


if __name__ == "__main__":
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
    try:
        vote, why = main()
    except Exception as error:
        vote, why = "skip", " ".join(f"{type(error).__name__}: {error}".split())
    print(f"{vote}: {why}")
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote])
