"""The memory that a QLoRA step of a Llama should take at its peak, by arithmetic."""

from __future__ import annotations

from typing import Any

RANK = 16  # of an adapter
BLOCKSIZE = 64  # weights that share a scale


def weight_shapes(config: Any) -> list[tuple[int, int]]:
    """Return (out, in) of a Llama decoder layer's weights: q, k, v and o of attention; gate, up and down."""
    hidden, inner = config.hidden_size, config.intermediate_size
    q, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    return [(q, hidden), (kv, hidden), (kv, hidden), (hidden, q), (inner, hidden), (inner, hidden), (hidden, inner)]


def predicted(config: Any, length: int, checkpointed: bool = False) -> dict[str, int]:
    """Return the bytes that a step should take at its peak, by what they are for; no compiler is foreseen."""
    layers, hidden, inner = config.num_hidden_layers, config.hidden_size, config.intermediate_size
    vocab, shapes = config.vocab_size, weight_shapes(config)
    (q, _), (kv, _), *_ = shapes
    elements = sum(n * k for n, k in shapes)
    # What a decoder layer saves of each token for its backward:
    norms = 2 * 4 * hidden  # the inputs of both, in float32
    linears = 3 * 2 * hidden + 7 * 2 * RANK  # inputs: of q, k and v; of o; of gate and up; of half of each adapter
    attention = 2 * (2 * q + 2 * kv) + 4 * config.num_attention_heads  # q, k, v and output; a float32 for each head
    products = 4 * 2 * inner  # gate, its activation, up, their product
    saved = length * (norms + linears + attention + products)
    return {
        "base": layers * (elements // 2 + 4 * elements // BLOCKSIZE),  # 4 bits a weight, a float32 scale a block
        # In bfloat16: the embedding, the head unless it is the embedding, the norms.
        "embedding": 2 * vocab * hidden * (1 if config.tie_word_embeddings else 2) + 2 * hidden * (2 * layers + 1),
        "adapters": layers * RANK * sum(n + k for n, k in shapes) * (2 + 2 + 4),  # value, gradient, AdamW's two states
        # Checkpointed, a step saves the input of each layer, and the rest of one layer at a time.
        "activations": saved + layers * 2 * length * hidden if checkpointed else layers * saved,
        "logits": length * vocab * (2 + 4 + 4 + 4 + 2),  # bfloat16, float32, log-softmax, both gradients
        "workspace": 2 * 2 * max(n * k for n, k in shapes),  # two dequantized weights, the largest
    }
