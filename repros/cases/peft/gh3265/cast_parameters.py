"""prepare_model_for_kbit_training casts more to float32 than it says: the input embedding too (peft#3265).

Report: the call adds memory to Mistral-7B in 4 bits, by casting its layer norms; the cost is not documented.

Mechanism: a loop casts every parameter in 16 bits that is not quantized (`peft/utils/other.py`). The documentation
names layer norms and the head. The embedding is as large as the head; the norms are 0.2 percent of it.

Limit: what head and norms grow by, two bytes a number, and 64 KiB for what the heap rounds up. The heap alone is asked
on a CPU: it knows of what was freed, where the ledger of tensors counts none that was there before.

Planted (must break the limit): each parameter that is not quantized is made twice as wide, the embedding too.
"""

from repros.case import Affected, Budget, Case, Claim, Condition, Needs, Remedy, held_on_card
from repros.cases.peft.gh3265._model import REPORT, ROWS_7B, growth, model_of_ones, of, widen

ROWS, KIB = 1024, 1 << 10

MORE = Claim("the cost is not documented: it casts more than the norms and the head, which its documentation names")
NORMS_TAKE_IT = Claim("it is the upcast of the layer norms that takes the memory")

WITHOUT = Remedy("call `model.gradient_checkpointing_enable()` and `model.enable_input_require_grads()` in its place",
                 arm="remedy_without", recommended="peft#1149")  # fmt: skip
BACK = Remedy("cast the embedding back: `model.get_input_embeddings().bfloat16()`", arm="remedy_back")
HEAD, NORMS = (Budget("heap_held_bytes", growth(rows) + 64 * KIB) for rows in (ROWS, 0))
EVER, CARD = (Affected({"peft": ">=0.6"}, "reports/bisect/gh3265-peft"),), Needs(card_bytes=4 << 30)
UNTIED = Condition("untied", HEAD, of(ROWS), claims=(MORE,), witness="minimal.py", remedies=(WITHOUT, BACK),
                   affected=EVER)  # fmt: skip
CASE = Case(
    **REPORT,
    trigger="`prepare_model_for_kbit_training` on a model whose input embedding is not its head",
    claims=(MORE, NORMS_TAKE_IT),
    conditions=(
        UNTIED,
        UNTIED.on_card("7b", held_on_card(growth(ROWS_7B) + 64 * KIB), of(ROWS_7B), affected=EVER, needs=CARD),
        Condition("norms-alone", NORMS, of(ROWS, norms_alone=True), claims=(NORMS_TAKE_IT,), affected=()),
        Condition("tied", HEAD, of(ROWS, tied=True), control=True),
    ),
)

inputs = model_of_ones


def some(model):
    return {"head": model.get_output_embeddings().weight[:64], "norm": model.model.norm.weight}


def oracle(c, model):
    return {name: weight.double() for name, weight in some(model).items()}


def changed(model, *calls):
    yield "forward"
    for call in calls:
        call(model)
    yield "backward"
    return some(model)


def subject(c, model, *calls):
    from peft import prepare_model_for_kbit_training

    return changed(model, prepare_model_for_kbit_training, *calls)


def reference(c, model):
    head = model.get_output_embeddings().weight
    return changed(model, lambda m: widen(p for name, p in m.named_parameters() if "norm" in name or p is head))


def planted(c, model):
    return changed(model, lambda m: widen(m.parameters(), most=8))


def remedy_without(c, model):
    return changed(model, lambda m: m.gradient_checkpointing_enable(), lambda m: m.enable_input_require_grads())


def remedy_back(c, model):
    return subject(c, model, lambda m: m.get_input_embeddings().bfloat16())
