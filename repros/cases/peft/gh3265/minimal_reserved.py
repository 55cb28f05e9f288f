# /// script
# dependencies = ["torch", "transformers>=4.57", "peft"]
# ///
"""peft#3265: prepare_model_for_kbit_training leaves on a GPU as much again as it adds, reserved and unused.

    uv run minimal_reserved.py      10 s, on a GPU alone; exit code 0 good, 1 bad, 125 skip (could not tell)

Figure: bytes that reserved memory grows by. Limit: what the parameters grow by, and 20 MiB, a segment of small ones.
"""

import sys


def main():
    import peft
    from torch import cuda
    from transformers import LlamaConfig, LlamaForCausalLM

    def grows(call):
        cuda.empty_cache()
        model = LlamaForCausalLM(LlamaConfig(vocab_size=32768, hidden_size=1024, num_hidden_layers=0)).bfloat16().cuda()
        before = cuda.memory_reserved()
        call(model)
        return cuda.memory_reserved() - before

    prepare, limit = peft.prepare_model_for_kbit_training, 2 * (2 * 32768 + 1) * 1024 + (20 << 20)
    figure, over, inside = grows(prepare), grows(lambda m: m.float()), grows(lambda m: (prepare(m), cuda.empty_cache()))
    print(f"peft {peft.__version__}: {figure:,} bytes, limit {limit:,}; controls: {inside:,} emptied, {over:,} full")
    if inside <= limit < over:
        return "good: what was freed is given back" if figure <= limit else "bad: what was freed stays reserved"
    return "skip: a control failed"


if __name__ == "__main__":
    try:
        vote = main()
    except Exception as error:
        vote = " ".join(f"skip: {type(error).__name__}: {error}".split())
    print(vote)
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote.partition(":")[0]])
