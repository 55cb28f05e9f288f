# /// script
# dependencies = ["torch", "transformers>=4.57", "bitsandbytes>=0.46", "accelerate"]
# ///
"""transformers#44387: from_pretrained reads the whole 16-bit model before it quantizes any of it to 4 bits.

    uv run minimal.py      15 s, no GPU, no download; exit code 0 good, 1 bad, 125 skip (could not tell)

From 5.0 on a pool of threads reads ahead; HF_DEACTIVATE_ASYNC_LOAD=1 in the environment switches it off, and the bug
with it. How far it gets is a race: here each quantization waits until the threads have read all that they may.

Figure: most bytes of bfloat16 tensors alive as a quantization ends. Limit: what stays 16-bit (not "_proj"), one weight.
"""

import concurrent.futures as cf
import gc
import sys
import tempfile

SIZE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}


def main():
    import bitsandbytes as bnb
    import torch
    import transformers as tf

    tf.utils.logging.disable_progress_bar()
    assert tf.__version__ >= "4.57", "older loaders map the file, and its pages would count as alive"
    waiting, submit, quantize = set(), cf.ThreadPoolExecutor.submit, bnb.functional.quantize_4bit

    def submit_and_note(*args, **kwargs):
        waiting.add(future := submit(*args, **kwargs))
        future.add_done_callback(waiting.discard)  # a future holds what was read
        return future

    def alive():
        tensors = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor) and o.device.type == "cpu"]
        return sum({t.data_ptr(): t.nbytes for t in tensors if t.dtype == torch.bfloat16}.values())

    def peak(folder, keep=lambda source: None):
        """Load a model in NF4; return the most bytes alive when a quantization ends."""
        gc.collect()
        peaks = []

        def wait_and_quantize(source, *args, **kwargs):
            assert not cf.wait(set(waiting), timeout=60).not_done, "the loader's threads wait for something else"
            result = quantize(source, *args, **kwargs)
            keep(source)
            peaks.append(alive())
            return result

        nf4 = tf.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
        bnb.functional.quantize_4bit = wait_and_quantize
        tf.AutoModelForCausalLM.from_pretrained(folder, quantization_config=nf4, dtype=torch.bfloat16, device_map="cpu")
        return max(peaks)

    cf.ThreadPoolExecutor.submit = submit_and_note
    with tempfile.TemporaryDirectory() as folder:
        model = tf.LlamaForCausalLM(tf.LlamaConfig(vocab_size=256, **SIZE)).to(torch.bfloat16)
        model.save_pretrained(folder)
        weights = [p.nbytes for name, p in model.named_parameters() if "_proj" in name]
        limit = sum(p.nbytes for p in model.parameters()) - sum(weights) + max(weights)
        del model
        figure, over = peak(folder), peak(folder, keep=[].append)
    versions = f"torch {torch.__version__}, transformers {tf.__version__}, bitsandbytes {bnb.__version__}"
    print(f"{versions}: {figure:,} bytes alive, limit {limit:,}; control: {over:,} where each weight is kept")
    if over <= limit:
        return "skip", "the control failed: a load that keeps each 16-bit weight must be over the limit"
    if figure <= limit:
        return "good", "one 16-bit weight is alive at a time"
    return "bad", "16-bit weights are read ahead and wait"


if __name__ == "__main__":
    try:
        vote, why = main()
    except Exception as error:
        vote, why = "skip", " ".join(f"{type(error).__name__}: {error}".split())
    print(f"{vote}: {why}")
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote])
