"""The same Llama in plain torch over the reference's layers: what two cases of bitsandbytes#1927 share."""

from repros.cases.bitsandbytes.gh1927._llama import HEADS, HIDDEN, INNER, LAYERS, VOCABULARY


class PlainLlama:
    """Blocks whose norms are trained; ``calls`` grows with each call of a block."""

    def __init__(self, bits, device):
        import torch

        from repros.reference.modules import FrozenLinear4bit, FrozenLinear8bit

        torch.set_default_device(device)  # this process makes nothing else
        linear = FrozenLinear4bit if bits == 4 else FrozenLinear8bit
        shapes = dict.fromkeys("qkvo", (HIDDEN, HIDDEN)) | dict.fromkeys(("gate", "up"), (INNER, HIDDEN))
        shapes["down"] = (HIDDEN, INNER)
        self.blocks = [
            {name: linear.from_weight(torch.randn(shape) * 0.02) for name, shape in shapes.items()}
            for _ in range(LAYERS)
        ]
        self.norms = [torch.ones(HIDDEN, requires_grad=True) for _ in range(2 * LAYERS + 1)]
        self.embedding = torch.randn(VOCABULARY, HIDDEN)
        self.calls = []

    def forward(self, ids, run):
        """Return the last hidden states ``[1, length, HIDDEN]``; ``run(block, *inputs)`` calls a block."""
        import torch
        from torch.nn import functional as F

        angles = torch.outer(torch.arange(ids.shape[1]), 10000 ** -torch.linspace(0, 1, HIDDEN // HEADS)).float()
        x, cos, sin = F.embedding(ids, self.embedding).requires_grad_(), angles.cos(), angles.sin()
        for number in range(LAYERS):
            x = run(self.block, x, cos, sin, number)
        return norm(x, self.norms[-1])

    def block(self, x, cos, sin, number):
        from torch.nn import functional as F

        self.calls.append(number)
        w, h = self.blocks[number], norm(x, self.norms[2 * number])
        q, k, v = (w[name](h).view(1, x.shape[1], HEADS, -1).transpose(1, 2) for name in "qkv")
        h = F.scaled_dot_product_attention(turn(q, cos, sin), turn(k, cos, sin), v, is_causal=True)
        x = x + w["o"](h.transpose(1, 2).reshape(x.shape))
        h = norm(x, self.norms[2 * number + 1])
        return x + w["down"](F.silu(w["gate"](h)) * w["up"](h))


def norm(x, weight):
    import torch

    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def turn(x, cos, sin):
    import torch

    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


def checkpointed(use_reentrant):
    """Return a way to call a block that recomputes it in the backward."""
    from torch.utils.checkpoint import checkpoint

    return lambda block, *inputs: checkpoint(block, *inputs, use_reentrant=use_reentrant)


def uncheckpointed(block, *inputs):
    return block(*inputs)
