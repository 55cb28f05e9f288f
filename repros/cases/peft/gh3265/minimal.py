# /// script
# dependencies = ["torch", "transformers>=4.57", "peft", "bitsandbytes>=0.46"]
# ///
"""peft#3265: prepare_model_for_kbit_training casts the input embedding to float32 too, which its documentation omits.

    uv run minimal.py      10 s, on a GPU if there is one; exit code 0 good, 1 bad, 125 skip (could not tell)

Figure: bytes that the parameters grow by. Limit: two for each number of head and norm; a quantized layer keeps its own.
"""

import sys


def main():
    import bitsandbytes as bnb
    import peft
    from transformers import LlamaConfig, LlamaForCausalLM

    def grows(call, tied=False):
        config = LlamaConfig(vocab_size=1024, hidden_size=256, num_hidden_layers=0, tie_word_embeddings=tied)
        model = LlamaForCausalLM(config).bfloat16()
        model.model.layers.append(bnb.nn.Linear4bit(256, 256, bias=False, quant_type="nf4"))
        before = sum(p.nbytes for p in model.to(peft.utils.infer_device()).parameters())
        return sum(p.nbytes for p in call(model).parameters()) - before

    prepare, limit = peft.prepare_model_for_kbit_training, 2 * (1024 + 1) * 256
    figure, inside, over = grows(prepare), grows(prepare, tied=True), grows(lambda model: model.float())
    print(f"peft {peft.__version__}: {figure:,} bytes, limit {limit:,}; controls: {inside:,} tied, {over:,} all cast")
    if inside <= limit < over:
        return "good: head and norm are cast" if figure <= limit else "bad: the embedding is cast too"
    return "skip: a control failed"


if __name__ == "__main__":
    try:
        vote = main()
    except Exception as error:
        vote = " ".join(f"skip: {type(error).__name__}: {error}".split())
    print(vote)
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote.partition(":")[0]])
