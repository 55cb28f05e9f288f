"""QLoRA steps on transformers' Llama: published shapes, what a step should take, and the model itself.

All arms of a condition have the same model and adapters on a card made as small as the report's; what multiplies by a
quantized weight is the arm's own.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

from repros.case import CONTEXT_BYTES, Claim, Condition, Params, Reading, Requires
from repros.cases._saved_weight import BACKENDS, installed_layer, without_grad
from repros.cases._small_card import allowed, shrink

Make = Callable[[Any], Any]
Steps = Generator[str, None, dict[str, Any]]
#: What is done with a kind of layer: inputs, how a weight becomes a module, an optimizer or none -> figures.
Do = Callable[..., Steps]

#: Published shapes: hidden, inner, layers, heads, heads of keys and values, width of a head, vocabulary, tied head.
MODELS = {
    "tiny": (64, 160, 4, 4, 2, 16, 256, False),
    "4b": (2560, 9728, 36, 32, 8, 128, 151936, True),  # Qwen3-4B
    "7b": (4096, 11008, 32, 32, 32, 128, 32000, False),  # Llama-2-7B
    "9b": (4096, 11008, 48, 32, 4, 128, 64000, False),  # Yi-1.5-9B
    "13b": (5120, 13824, 40, 40, 40, 128, 32000, False),  # Llama-2-13B
    "20b": (6144, 16384, 48, 48, 8, 128, 92544, False),  # InternLM2-20B
    "34b": (7168, 20480, 60, 56, 8, 128, 64000, False),  # Yi-34B
    "50b": (8192, 28672, 58, 64, 8, 128, 32000, False),  # 58 of the 80 layers of Llama-2-70B; none has 50B
    "70b": (8192, 28672, 80, 64, 8, 128, 32000, False),  # Llama-2-70B
    "123b": (12288, 28672, 88, 96, 8, 128, 32768, False),  # Mistral-Large-2407
}
RANK, BLOCKSIZE = 16, 64
#: What a step is where a condition's name says nothing else; the report says nothing of it.
LENGTH = 512
STEP = f"a step: one sequence of {LENGTH} tokens"


def on(model: str, card_gb: int, mode: str = "eager", length: int = LENGTH, without: tuple[str, ...] = ()) -> Condition:
    """Declare that a model trains on a card."""
    how = {"eager": "", "checkpoint": "-checkpoint"}.get(mode, "-compile")
    name = f"{model}-on-{card_gb}gb{how}" + (f"-{length}" if length != LENGTH else "")
    why = "transformers' release does not matter to a step; the newest is enough"
    return _on_card(name, card_gb, Requires(reason=why), without, model=model, mode=mode, length=length)


def upward(card_gb: int, models: str, without: tuple[str, ...] = ("proposed",)) -> Condition:
    """Declare that a card is tried with these models, the smallest first."""
    why = "transformers' release does not matter to a step, and older bitsandbytes is tried row by row"
    needs = Requires({"bitsandbytes": ">=0.50"}, reason=why)
    return _on_card(f"up-to-{card_gb}gb", card_gb, needs, without, models=models, mode="eager", length=LENGTH)


def _on_card(name: str, card_gb: int, needs: Requires, without: tuple[str, ...], **params: object) -> Condition:
    packages = {"transformers": ">=5.20", **needs.packages}
    needs = replace(needs, packages=packages, card_bytes=(card_gb << 30) + CONTEXT_BYTES)
    return Condition(f"{name}-cuda", {**params, "card_gb": card_gb, "device": "cuda"}, needs, without)


def limit(p: Params) -> int:
    """Return what the allocator may take of a card of this size."""
    return allowed(int(str(p["card_gb"])))


def table(text: str, rows: Mapping[tuple[str, int], str], longer: Mapping[tuple[str, int], str] | None = None) -> Claim:
    """Return the claim of a table: (model, GB of the card) -> condition in which what the step took is read.

    ``longer`` names conditions of a longer sequence, to be read beside those.
    """
    usual = "beside the card's size stands what a step reserved of it as installed, without the fix"
    more = "`-2048` is a step of as many tokens, on a larger card"
    taken: dict[str, list[Reading]] = {}
    reported = {}
    for names, note in ((rows, usual), (longer or {}, more)):
        for (model, card), name in names.items():
            row = f"{model.upper()} on {card} GB, after the fix"
            reported[row] = f"{card} GB"
            taken.setdefault(row, []).append(Reading("cuda_peak_reserved_bytes", name, 1 << 30, note=note))
    readings = {row: tuple(several) for row, several in taken.items()}
    return Claim(f"{text} ({STEP})", reported, " ".join(rows.values()), readings)


def ladders(rows: Mapping[int, tuple[str, str]]) -> Claim:
    """Return the claim of the largest models: GB of a card -> the report's model before its fix, and after it."""

    def largest(card_gb: int, *arms: str) -> tuple[Reading, ...]:
        return tuple(Reading("largest_parameters", f"up-to-{card_gb}gb-cuda", 10**9, arm, note=note) for arm in arms)

    note = (
        "`planted` is what the report says of the installed layers (0B: not even the smallest tried), `reference` a "
        "fix that works, `proposed` the report's own"
    )
    before, after = "the largest on {} GB, before the fix", "the largest on {} GB, after it"
    return Claim(
        f"without the fix the largest model that trains on a card of {min(rows)} to {max(rows)} GB is a smaller one "
        f"({STEP}; bitsandbytes from 0.50 on)",
        {before.format(card): model.upper() for card, (model, _) in rows.items()}
        | {after.format(card): model.upper() for card, (_, model) in rows.items()},
        readings={before.format(card): largest(card, "subject", "planted") for card in rows}
        | {after.format(card): largest(card, "reference", "proposed") for card in rows},
    )


def linears(p: Params) -> list[tuple[int, int]]:
    """Return (out, in) of a decoder layer's linear weights."""
    hidden, inner, _, heads, kv, width, _, _ = MODELS[str(p["model"])]
    q, k = heads * width, kv * width
    return [(q, hidden), (k, hidden), (k, hidden), (hidden, q), (inner, hidden), (inner, hidden), (hidden, inner)]


def predicted(p: Params) -> dict[str, int]:
    """Return the bytes that a training step should take at its peak, by what they are for.

    *activations* of a layer for S tokens, saved for its backward: both norms' inputs in float32 (8 h), the inputs of
    q, k and v, of o and of gate and up (6 h), what attention saves (4 h and 4 kv), gate, its activation, up and their
    product (8 i), the adapters' 16-bit products; with checkpointing those of one layer, and the input of every layer.
    *logits* in bfloat16 and float32, their logarithmic softmax and both gradients; *workspace*: two dequantized
    weights, the largest.
    """
    hidden, inner, layers, heads, kv, width, vocab, tied = MODELS[str(p["model"])]
    length = int(str(p["length"]))
    elements = sum(n * k for n, k in linears(p))
    adapters = layers * RANK * sum(n + k for n, k in linears(p))
    of_a_layer = length * (14 * hidden + 4 * heads * width + 4 * kv * width + 8 * inner + 2 * RANK * 7 + 4 * heads)
    return {
        "base": layers * (elements // 2 + 4 * elements // BLOCKSIZE),
        "embedding": 2 * vocab * hidden * (1 if tied else 2) + 2 * hidden * (2 * layers + 1),
        "adapters": adapters * (2 + 2 + 4),
        "activations": of_a_layer + layers * 2 * length * hidden if p["mode"] == "checkpoint" else layers * of_a_layer,
        "logits": length * vocab * (2 + 4 + 4 + 4 + 2),
        "workspace": 2 * 2 * max(n * k for n, k in linears(p)),
    }


def foreseen(p: Params) -> int:
    """Return the bytes of all that is `predicted`."""
    return sum(predicted(p).values())


def inputs(p: Any) -> SimpleNamespace:
    """Make the card small; return configuration and token ids ``[1, length]``, int64."""
    import torch
    from transformers import LlamaConfig

    if p["device"] == "cuda":
        shrink(p["card_gb"])

    hidden, inner, layers, heads, kv, width, vocab, tied = MODELS[p["model"]]
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv, head_dim=width, vocab_size=vocab, tie_word_embeddings=tied, use_cache=False,
        attn_implementation="sdpa",
    )  # fmt: skip
    return SimpleNamespace(p=p, config=config, ids=torch.randint(vocab, (1, p["length"]), device=p["device"]))


def train(i: Any, make: Make, optimizer: Any = None) -> Steps:
    """Do a training step with the optimizer's state in place; ``make`` turns a weight ``[out, in]`` into a module."""
    import torch

    yield "build"
    model = build(i, make)
    adapters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    chosen = (optimizer or torch.optim.AdamW)(adapters, lr=1e-4)
    if i.p["mode"] == "checkpoint":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    elif i.p["mode"] in BACKENDS:
        model.enable_input_require_grads()  # or the first layer, of whose input no gradient is taken, is a graph alone
        torch._dynamo.config.cache_size_limit = 4 * len(model.model.layers)
        for layer in model.model.layers:
            layer.compile(backend=BACKENDS[i.p["mode"]])
    for parameter in adapters:
        parameter.grad = torch.zeros_like(parameter)
    chosen.step()  # makes the state that every step but the first one finds
    chosen.zero_grad()
    yield "step"
    loss = model(input_ids=i.ids, labels=i.ids).loss
    loss.backward()
    chosen.step()
    chosen.zero_grad()
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    parts_of = {f"predicted_{name}_bytes": float(value) for name, value in predicted(i.p).items()}
    return {
        "loss": float(loss.detach()),
        "graph_calls": graphs,
        "predicted_bytes": float(foreseen(i.p)),
        **parts_of,
    }


def climb(i: Any, make: Make, optimizer: Any = None) -> Steps:
    """Train one model after another, each larger than the one before, until one does not fit; a phase is a model.

    ``largest_parameters`` is the size, by its name, of the last that trained, ``too_large`` how many of those named
    did not.
    """
    import torch

    names = i.p["models"].split()
    figures: dict[str, Any] = {"too_large": len(names), "largest_parameters": 0.0}
    for name in names:
        yield name
        p = {**i.p, "model": name}
        figures[f"foreseen_{name}_bytes"] = float(foreseen(p))
        try:
            for _ in train(inputs(p), make, optimizer):
                pass
        except torch.OutOfMemoryError:
            break
        finally:
            gc.collect()
            torch.cuda.empty_cache()
        figures["too_large"] -= 1
        figures["largest_parameters"] = parameters(name)
    return figures


def parameters(name: str) -> float:
    """Return how many parameters a model has by the name that it goes by."""
    return float(name.removesuffix("b")) * 1e9


def too_large(p: Params) -> int:
    """Return how many of the models named should not fit."""
    return sum(foreseen({**p, "model": name}) > limit(p) for name in str(p["models"]).split())


def build(i: Any, make: Make) -> Any:
    """Return the model: structure from transformers, quantized base of one random weight a shape, adapters."""
    import torch
    from transformers import LlamaForCausalLM

    device, dtype = i.p["device"], torch.bfloat16
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(i.config).to(dtype)

    class Adapted(torch.nn.Module):
        """A frozen base and its low-rank update (arXiv:2106.09685)."""

        def __init__(self, weight: Any) -> None:
            super().__init__()
            n, k = weight.shape
            kind: Any = {"bias": False, "device": device, "dtype": dtype}
            self.base = make(weight)
            self.down, self.up = torch.nn.Linear(k, RANK, **kind), torch.nn.Linear(RANK, n, **kind)
            torch.nn.init.zeros_(self.up.weight)

        def forward(self, x: Any) -> Any:
            return self.base(x) + self.up(self.down(x))

    model.requires_grad_(False)
    made: dict[tuple[int, ...], Any] = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            shape = tuple(module.weight.shape)
            if shape not in made:  # quantized once a shape; what its values are does not matter to its bytes
                made[shape] = Adapted(torch.randn(shape, device=device, dtype=dtype) * 0.02)
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, copy.deepcopy(made[shape]))
    made.clear()
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                value = torch.ones if parameter.dim() == 1 else torch.randn
                drawn = value(parameter.shape, device=device, dtype=dtype)
                drawn *= 1 if drawn.dim() == 1 else 0.02
                setattr(module, name, torch.nn.Parameter(drawn, requires_grad=False))
    if i.config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    with torch.device(device):
        model.model.rotary_emb = type(model.model.rotary_emb)(i.config)  # its table is a buffer that nothing saves
    return model.train()


# -- what the arms train


def installed(i: Any, steps: Do = train) -> Steps:
    """Train with the installed layers and 8-bit AdamW."""
    import bitsandbytes

    make = partial(installed_layer, p={"quant": "nf4", "double": False, "device": i.p["device"]})
    optimizer: Any = bitsandbytes.optim.AdamW8bit
    return (yield from steps(i, make, optimizer))


def fixed(i: Any, steps: Do = train) -> Steps:
    """Train with the reference's layers."""
    from repros.reference.modules import FrozenLinear4bit

    return (yield from steps(i, FrozenLinear4bit.from_weight))


def saving(i: Any, steps: Do = train) -> Steps:
    """Save the dequantized weight of every layer; a compiler cannot open the operator that makes it."""
    import torch

    from repros.reference.blockwise import Quantized4bit, dequantize_4bit
    from repros.reference.modules import FrozenLinear4bit

    def dequantize(packed: Any, absmax: Any, n: int, k: int) -> Any:
        return dequantize_4bit(Quantized4bit(packed, absmax, (n, k), torch.bfloat16, "nf4", 64))

    op = torch.library.custom_op(
        "repros_planted::whole",
        dequantize,
        mutates_args=(),
        schema="(Tensor packed, Tensor absmax, int n, int k) -> Tensor",
    )
    op.register_fake(lambda packed, absmax, n, k: packed.new_empty((n, k), dtype=torch.bfloat16))

    class Saving(FrozenLinear4bit):
        """The reference's layer with the reported bug."""

        def forward(self, x: Any) -> Any:
            return torch.nn.functional.linear(x, op(self.packed, self.absmax, self.out_features, self.in_features))

    return (yield from steps(i, Saving.from_weight))


def caching(i: Any) -> Steps:
    """Keep the dequantized weight of every layer beside it, as a cache that nobody empties."""
    from repros.reference.blockwise import dequantize_4bit
    from repros.reference.modules import FrozenLinear4bit

    class Caching(FrozenLinear4bit):
        """The reference's layer with a cache."""

        def forward(self, x: Any) -> Any:
            self.cache = dequantize_4bit(self.quantized)
            return super().forward(x)

    return (yield from train(i, Caching.from_weight))


def patched(i: Any, steps: Do = train) -> Steps:
    """Train with the installed layers, patched as the report proposes."""
    without_grad()
    return (yield from installed(i, steps))
