"""A Llama of transformers with quantized layers and a training step: what two cases of bitsandbytes#1927 share."""

LAYERS, HIDDEN, INNER, HEADS, VOCABULARY = 2, 256, 512, 4, 64


def enable_then_train(model, **options):
    model.gradient_checkpointing_enable(**options)
    model.train()


def train_then_enable(model, **options):
    model.train()
    model.gradient_checkpointing_enable(**options)


def enable_only(model, **options):
    model.gradient_checkpointing_enable(**options)


def inputs(c, length):
    import torch

    ids = torch.arange(length, device=c.device)[None] % VOCABULARY
    grad = torch.randn(*ids.shape, HIDDEN, device=c.device) / HIDDEN
    return {"ids": ids, "grad": grad}


def quantized_llama(bits, device):
    """Return a Llama with quantized linears in eval mode, as ``from_pretrained`` leaves it; its norms are trained."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    heads = {"num_attention_heads": HEADS, "num_key_value_heads": HEADS, "attn_implementation": "sdpa"}
    shape = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY}
    model = LlamaModel(LlamaConfig(use_cache=False, **heads, **shape))
    for block in model.layers:
        for part in (block.self_attn, block.mlp):
            for name, child in list(part.named_children()):
                if isinstance(child, torch.nn.Linear):
                    setattr(part, name, quantized(child, bits, device))
    model.embed_tokens.requires_grad_(False)
    return model.eval().to(device)


def quantized(linear, bits, device):
    import torch
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    shape = linear.in_features, linear.out_features, False
    if bits == 4:
        layer = Linear4bit(*shape, compute_dtype=torch.float32, quant_type="nf4")
    else:
        layer = Linear8bitLt(*shape, has_fp16_weights=False)
    layer.load_state_dict(linear.state_dict())
    return layer.requires_grad_(False).to(device)


def calls_of_blocks(model):
    """Return a list that grows with each call of a block's attention, which every release recomputes with its block."""
    calls = []
    for block in model.layers:
        block.self_attn.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def train(forward, calls, trained, grad):
    """Train one step; a checkpointed block is called twice in it, for the output and for the gradients."""
    yield "forward"
    out = forward()
    yield "backward"
    out.backward(grad)
    lost = sum(parameter.grad is None for parameter in trained)
    return {"skipped_calls": 2 * LAYERS - len(calls), "block_calls": len(calls), "lost_gradients": lost}
