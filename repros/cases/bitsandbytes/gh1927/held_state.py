"""What quantized layers hold from forward to backward under gradient checkpointing (bitsandbytes#1927).

Report: every layer's state piles up under checkpointing. It blames ``gradient_checkpointing_enable()`` before
``train()``.

Run: a Llama of transformers with quantized layers, in both orders of the two calls and in both modes of
``torch.utils.checkpoint``. A checkpointed block should hold its input alone. An op that keeps its input on ``ctx``
instead of in ``save_for_backward`` hides it from non-reentrant checkpointing (bitsandbytes#2034), whatever the order.
Without ``train()`` nothing is checkpointed. The second step is measured, so that what kernels keep from their first
call does not count.

Limit: the bytes that are named below; without recomputation a block holds a dozen hidden states and more.

Planted (must break the limit): the reference, plain torch blocks under ``torch.utils.checkpoint``, runs without it.
"""

from repros.case import Affected, Budget, Case, Claim, Condition, Remedy, held
from repros.cases.bitsandbytes.gh1927 import _llama
from repros.cases.bitsandbytes.gh1927._llama import (
    HEADS,
    HIDDEN,
    LAYERS,
    enable_only,
    enable_then_train,
    train_then_enable,
)
from repros.cases.bitsandbytes.gh1927._plain_llama import PlainLlama, checkpointed, uncheckpointed

LENGTH = 256  # tokens; what is computed is float32, 4 bytes
STATE = LENGTH * HIDDEN * 4  # a hidden state
STATES = (LAYERS + 3) * STATE  # input of each block, output of the last; product and output of the final norm
COS_SIN = 2 * LENGTH * (HIDDEN // HEADS) * 4  # of the rotary embedding
MASK = LENGTH * LENGTH  # one boolean mask, which transformers 4.57 makes
POSITIONS = 20 * LENGTH  # position ids, cache positions (8 bytes each), and the norm's rsqrt (4 bytes)
RANDOM = LAYERS * 8 * 1024  # a state of the random generator for each block: 5,056 bytes, rounded up
GRAPH = 64 * 1024  # the graph's own objects, which the heap counts too
LIMIT = STATES + COS_SIN + MASK + POSITIONS + RANDOM + GRAPH  # 1.5 MiB

ALL_TRIED = Affected({"transformers": ">=4.57"}, "reports/cpu")
SINCE_5 = Affected({"transformers": ">=5"}, "reports/cpu")
ALL_TRIED_CUDA = Affected({"transformers": ">=4.57"}, "reports/h200")
SINCE_5_CUDA = Affected({"transformers": ">=5"}, "reports/h200")

PILES_UP = Claim("every layer's state piles up")

# Options of gradient_checkpointing_enable().
DEFAULT: dict[str, object] = {}
REENTRANT = {"gradient_checkpointing_kwargs": {"use_reentrant": True}}
NONREENTRANT = {"gradient_checkpointing_kwargs": {"use_reentrant": False}}

IN_REENTRANT = Remedy(
    'call `gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})`',
    params={"options": REENTRANT},
)
OTHER_ORDER = Remedy(
    "call `train()` before `gradient_checkpointing_enable()`",
    params={"order": train_then_enable},
    recommended="the report",
)


def on_cpu(name, order, options, bits, **more):
    params = {"order": order, "options": options, "bits": bits}
    return Condition(f"held-{name}", held(LIMIT), params, claims=(PILES_UP,), **more)


def on_card(name, order, options, bits, **more):
    params = {"order": order, "options": options, "bits": bits}
    more |= {"device": "cuda", "proxy": f"held-{name}", "claims": (PILES_UP,)}
    return Condition(f"held-{name}-cuda", Budget("cuda_held_bytes", LIMIT), params, **more)


CASE = Case(
    report="bitsandbytes#1927",
    title="INT8 training: every layer's state piles up under gradient checkpointing",
    kind="issue",
    status="open",
    severity="memory",
    trigger="gradient checkpointing of int8 layers in the non-reentrant mode, the default of transformers from 5.0",
    claims=(PILES_UP,),
    conditions=(
        on_cpu("enable-train-default-8bit", enable_then_train, DEFAULT, 8, affected=(SINCE_5,)),
        on_cpu("train-enable-default-8bit", train_then_enable, DEFAULT, 8, affected=(SINCE_5,)),
        on_cpu("enable-only-default-8bit", enable_only, DEFAULT, 8, affected=(ALL_TRIED,)),
        on_cpu("enable-train-reentrant-8bit", enable_then_train, REENTRANT, 8, affected=()),
        on_cpu(
            "enable-train-nonreentrant-8bit",
            enable_then_train,
            NONREENTRANT,
            8,
            affected=(ALL_TRIED,),
            witness="minimal_held_state.py",
            remedies=(IN_REENTRANT, OTHER_ORDER),
        ),
        on_cpu("enable-train-reentrant-4bit", enable_then_train, REENTRANT, 4, affected=()),
        on_cpu("enable-train-nonreentrant-4bit", enable_then_train, NONREENTRANT, 4, affected=()),
        on_card("enable-train-default-8bit", enable_then_train, DEFAULT, 8, affected=(SINCE_5_CUDA,)),
        on_card("train-enable-default-8bit", train_then_enable, DEFAULT, 8, affected=(SINCE_5_CUDA,)),
        on_card(
            "enable-train-nonreentrant-8bit",
            enable_then_train,
            NONREENTRANT,
            8,
            affected=(ALL_TRIED_CUDA,),
            witness="minimal_held_state.py",
            remedies=(IN_REENTRANT,),
        ),
        on_card("enable-train-reentrant-4bit", enable_then_train, REENTRANT, 4, affected=()),
    ),
)


def inputs(c):
    return _llama.inputs(c, LENGTH)


def subject(c, ids, grad):
    model = _llama.quantized_llama(c.bits, c.device)
    calls = _llama.calls_of_blocks(model)
    c.order(model, **c.options)
    model.enable_input_require_grads()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return (yield from second_step(lambda: model(input_ids=ids)[0], calls, trained, grad))


def reference(c, ids, grad):
    return (yield from plain(c, ids, grad, checkpointed(use_reentrant=c.options == REENTRANT)))


def planted(c, ids, grad):
    """Switch checkpointing off and say nothing."""
    return (yield from plain(c, ids, grad, uncheckpointed))


def plain(c, ids, grad, run):
    model = PlainLlama(c.bits, c.device)
    return (yield from second_step(lambda: model.forward(ids, run), model.calls, model.norms, grad))


def second_step(forward, calls, trained, grad):
    forward().backward(grad)
    calls.clear()
    return (yield from _llama.train(forward, calls, trained, grad))
