"""``gradient_checkpointing_enable()`` is called before ``model.train()`` (bitsandbytes#1927).

Report: checkpointing then silently does nothing.

Run: a Llama of transformers with quantized layers, with the two calls in both orders, and without ``train()``. A block
of transformers recomputes when its flags ``gradient_checkpointing`` and ``training`` are set. It reads both at each
call, so the order cannot matter. Whether ``train()`` is called does: ``from_pretrained`` ends with ``eval()``.
Conditions that end in ``bare`` leave out ``enable_input_require_grads()``, which PEFT calls, and transformers itself
from 5.0. Then no input of a block needs a gradient.

Limit: a block that is checkpointed is called twice in a training step, for the output and for the gradients. None of
these calls may be missing (``skipped_calls`` is 0).

Planted (must break the limit): the reference, plain torch blocks under ``torch.utils.checkpoint``, runs without it.
"""

from repros.case import Affected, Budget, Case, Claim, Condition, Remedy
from repros.cases.bitsandbytes.gh1927 import _llama
from repros.cases.bitsandbytes.gh1927._llama import enable_only, enable_then_train, train_then_enable
from repros.cases.bitsandbytes.gh1927._plain_llama import PlainLlama, checkpointed, uncheckpointed

LENGTH = 64  # tokens
NONE_SKIPPED = Budget("skipped_calls", 0)

ALL_TRIED = Affected({"transformers": ">=4.57"}, "reports/cpu")
BEFORE_5 = Affected({"transformers": "<5"}, "reports/cpu")

ENABLE_FIRST = Claim("enable() before train() silently does nothing")
NO_TRAIN = Claim("not in the report: without train(), enable() silently does nothing")
BARE = Claim("not in the report: in either order, where no input needs a gradient")


TRAIN = Remedy("call `train()`, before `gradient_checkpointing_enable()` or after", params={"order": enable_then_train})
INPUT_GRADS = Remedy("call `enable_input_require_grads()`", params={"bare": False})
NO_GRADS = {"bare": True, "affected": (BEFORE_5,), "remedies": (INPUT_GRADS,)}


def order(name, calls, *claims, bits=8, bare=False, **more):
    note = "without enable_input_require_grads(), which PEFT calls, and transformers itself from 5.0" if bare else ""
    params = {"order": calls, "bits": bits, "bare": bare}
    return Condition(name, NONE_SKIPPED, params, claims=claims, note=note, **more)


CASE = Case(
    report="bitsandbytes#1927",
    title="INT8 training: gradient_checkpointing_enable() before model.train()",
    kind="issue",
    status="open",
    severity="memory",
    trigger="gradient_checkpointing_enable() without train(), or without enable_input_require_grads()",
    claims=(ENABLE_FIRST, NO_TRAIN, BARE),
    conditions=(
        order("order-enable-train-default-8bit", enable_then_train, ENABLE_FIRST, affected=()),
        # The report calls this order fine.
        order("order-train-enable-default-8bit", train_then_enable, control=True, affected=()),
        order("order-enable-only-default-8bit", enable_only, NO_TRAIN, affected=(ALL_TRIED,), remedies=(TRAIN,)),
        order("order-enable-train-default-8bit-bare", enable_then_train, BARE, **NO_GRADS),
        order("order-train-enable-default-8bit-bare", train_then_enable, BARE, **NO_GRADS),
        order("order-enable-train-default-4bit", enable_then_train, ENABLE_FIRST, bits=4, affected=()),
    ),
)


def inputs(c):
    return _llama.inputs(c, LENGTH)


def subject(c, ids, grad):
    model = _llama.quantized_llama(c.bits, c.device)
    calls = _llama.calls_of_blocks(model)
    c.order(model)
    if not c.bare:
        model.enable_input_require_grads()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return (yield from _llama.train(lambda: model(input_ids=ids)[0], calls, trained, grad))


def reference(c, ids, grad):
    return (yield from plain(c, ids, grad, checkpointed(use_reentrant=False)))


def planted(c, ids, grad):
    """Switch checkpointing off and say nothing."""
    return (yield from plain(c, ids, grad, uncheckpointed))


def plain(c, ids, grad, run):
    model = PlainLlama(c.bits, c.device)
    return (yield from _llama.train(lambda: model.forward(ids, run), model.calls, model.norms, grad))
