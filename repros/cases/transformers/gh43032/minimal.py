# /// script
# dependencies = ["torch", "transformers>=4.57", "bitsandbytes>=0.46", "accelerate"]
# ///
"""transformers#43032: from_pretrained has the whole 16-bit model on the device before it quantizes it to 4 bits.

    uv run minimal.py      20 s, on a GPU if there is one; exit code 0 good, 1 bad, 125 skip (could not tell)

Threads read ahead, as far as time lets them: here the first quantization waits for a second.
Figure: most bytes of bfloat16 there as a weight is quantized. Limit: what stays in 16 bits, and the largest weight.
"""

import gc
import os
import sys
import tempfile
import time


def main():
    import bitsandbytes as bnb
    import torch
    import transformers as tf

    device, quantize = "cuda" if torch.cuda.is_available() else "cpu", bnb.functional.quantize_4bit
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}

    def peak(folder, keep=lambda source: None, wait_s=1, **switch):
        peaks = []

        def wait_and_quantize(source, *args, **kwargs):
            time.sleep(0 if peaks else wait_s)
            keep(source)
            tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
            tensors = [each for each in tensors if (each.dtype, each.device.type) == (torch.bfloat16, device)]
            peaks.append(sum({each.data_ptr(): each.nbytes for each in tensors}.values()))
            return quantize(source, *args, **kwargs)

        os.environ.update(switch)
        bnb.functional.quantize_4bit = wait_and_quantize
        nf4 = tf.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
        load = tf.LlamaForCausalLM.from_pretrained
        load(folder, quantization_config=nf4, dtype=torch.bfloat16, device_map={"": device})
        return max(peaks)

    with tempfile.TemporaryDirectory() as folder:
        model = tf.LlamaForCausalLM(tf.LlamaConfig(vocab_size=256, **sizes)).to(torch.bfloat16)
        model.save_pretrained(folder)
        weights = [p.nbytes for name, p in model.named_parameters() if "_proj" in name]
        limit = sum(p.nbytes for p in model.parameters()) - sum(weights) + max(weights)
        del model
        figure, over = peak(folder), peak(folder, keep=[].append, wait_s=0)
        inside = peak(folder, HF_DEACTIVATE_ASYNC_LOAD="1")
    print(f"torch {torch.__version__} ({device}), transformers {tf.__version__}: {figure:,} bytes, limit {limit:,}")
    print(f"controls: {inside:,} without threads, {over:,} where each weight is kept")
    if not inside <= limit < over:
        return "skip: a control failed"
    return "good: a weight at a time" if figure <= limit else "bad: weights stand in 16 bits before they are quantized"


if __name__ == "__main__":
    try:
        vote = main()
    except Exception as error:
        vote = " ".join(f"skip: {type(error).__name__}: {error}".split())
    print(vote)
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote.partition(":")[0]])
