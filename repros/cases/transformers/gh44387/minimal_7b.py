# /// script
# dependencies = ["torch", "transformers>=4.56", "bitsandbytes>=0.46", "accelerate"]
# ///
"""transformers#44387: loading Qwen2.5-7B in 4 bits reserves twice the GPU memory that the model needs at the end.

    uv run minimal_7b.py      30 s, a GPU with 32 GB, no download; exit code 0 good, 1 bad, 125 skip (could not tell)

From 5.0 on a pool of threads reads ahead, so 16-bit weights wait on the GPU for their quantization and the allocator
reserves memory for them. HF_DEACTIVATE_ASYNC_LOAD=1 in the environment switches it off. The checkpoint has the sizes of
the report's model and zeros for weights, in a sparse file that takes no disk: sizes decide, numbers do not.

Figure: bytes that torch has reserved on the GPU after the load. Limit: half the 16-bit size, which transformers may
reserve ahead (caching_allocator_warmup), and 512 MiB of rounding: 2 MiB for each of 196 weights, and segments.
"""

import json
import pathlib
import struct
import sys
import tempfile

SIZE = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 152064}
HEADS = {"num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False}


def main():
    import bitsandbytes as bnb
    import torch
    import transformers as tf

    if not torch.cuda.is_available():
        return "skip", "no GPU; minimal.py shows the same on a CPU"
    tf.utils.logging.disable_progress_bar()

    def write(folder):
        """Write a checkpoint of zeros in bfloat16; return its bytes."""
        config = tf.Qwen2Config(**SIZE, **HEADS, architectures=["Qwen2ForCausalLM"])
        config.save_pretrained(folder)
        with torch.device("meta"):
            model = tf.Qwen2ForCausalLM(config)
        header, end = {}, 0
        for name, tensor in model.state_dict().items():
            begin, end = end, end + 2 * tensor.numel()
            header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [begin, end]}
        head = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
        with pathlib.Path(folder, "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(head)) + head)
            file.truncate(file.tell() + end)
        return end

    nf4 = tf.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    with tempfile.TemporaryDirectory() as folder:
        whole = write(folder)
        more = {"quantization_config": nf4, "dtype": torch.bfloat16, "device_map": {"": 0}}
        model = tf.AutoModelForCausalLM.from_pretrained(folder, **more)
    limit = whole // 2 + (512 << 20)
    figure, inside = torch.cuda.memory_reserved(), model.get_memory_footprint()
    torch.empty(whole, dtype=torch.uint8, device="cuda")  # what the bug does, on purpose: allocate, and drop
    over = torch.cuda.memory_reserved()
    versions = f"torch {torch.__version__}, transformers {tf.__version__}, bitsandbytes {bnb.__version__}"
    print(f"{versions}: {figure:,} bytes reserved, limit {limit:,}")
    print(f"controls: {inside:,} are of the model, {over:,} reserved where its 16-bit size was allocated and dropped")
    if not inside <= limit < over:
        return "skip", "a control failed: the model must be inside the limit, its 16-bit size over it"
    if figure <= limit:
        return "good", "the load reserves little more than the model"
    return "bad", "the load reserves the 16-bit weights that it reads ahead"


if __name__ == "__main__":
    try:
        vote, why = main()
    except Exception as error:
        vote, why = "skip", " ".join(f"{type(error).__name__}: {error}".split())
    print(f"{vote}: {why}")
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote])
