# /// script
# dependencies = ["torch", "bitsandbytes>=0.46", "transformers>=4.57", "accelerate", "peft"]
# ///
"""bitsandbytes#1569: after PEFT's prepare_model_for_kbit_training a step needs more with a 4-bit model than with bf16.

    uv run minimal.py      30 s, on a GPU if there is one; exit code 0 good, 1 bad, 125 skip (could not tell)

Figure: bytes of the logits and of what autograd saves for backward. Limit: the same of a bfloat16 model (states in
float32, states in 16 bits, the adapter, 128 KiB), and by how much 4-bit weights are smaller.
"""

import tempfile

T, V, H, M, KV, N, R = 1024, 256, 576, 1536, 192, 9, 8  # tokens; one layer of SmolLM2-135M; rank of the adapter
SHAPE = {"hidden_size": H, "intermediate_size": M, "num_attention_heads": N, "num_key_value_heads": 3}
BF16 = T * (4 * (3 * H + R + 2 + N) + 2 * (2 * H + 2 * KV + 3 * M + V)) + 4 * R * (H + KV) + 128 * 1024
LIMIT = BF16 + int((2 - 1 / 2 - 4 / 64) * H * (2 * H + 2 * KV + 3 * M))
try:
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    def held(q=None, dtype=torch.bfloat16, call=lambda model, _: model):
        model = call(LlamaForCausalLM.from_pretrained(at, dtype=dtype, device_map=here, quantization_config=q), False)
        model, saved = get_peft_model(model, LoraConfig(target_modules=["v_proj"], r=R)).train(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
            saved.append(model(input_ids=torch.arange(T, device=here[""])[None] % V).logits)
        return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in saved}.values())

    here = {"": "cuda" if torch.cuda.is_available() else "cpu"}
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    with tempfile.TemporaryDirectory() as at:
        LlamaForCausalLM(LlamaConfig(**SHAPE, vocab_size=V, num_hidden_layers=1)).bfloat16().save_pretrained(at)
        figure, inside, over = held(nf4, call=prepare_model_for_kbit_training), held(nf4), held(dtype=torch.float32)
    assert inside <= LIMIT < over, f"a control failed: {inside:,} not prepared, {over:,} wholly in float32"
    vote = f"{'good' if figure <= LIMIT else 'bad'}: {figure:,} bytes, limit {LIMIT:,}, controls {inside:,}, {over:,}"
except Exception as error:
    vote = " ".join(f"skip: {type(error).__name__}: {error}".split())
print(vote)
raise SystemExit({"good": 0, "bad": 1, "skip": 125}[vote.partition(":")[0]])
