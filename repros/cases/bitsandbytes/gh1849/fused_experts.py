"""A mixture of experts that is loaded "in 4 bits" keeps its experts in 16 bits (bitsandbytes#1849).

The report: transformers 5 holds the experts of a layer in one parameter of three dimensions ("fused"). transformers 4
has a linear layer for each expert. The integration replaces ``nn.Linear`` by a quantized layer, so fused experts are
passed over without a word. (Upstream proposes a module for fused experts in bitsandbytes#1965.)

Run: true layers of two models are loaded, and what is left in 16 bits at the end is counted. Qwen3-30B-A3B is published
with a tensor for each expert: transformers 4 loads it as it is, 5 fuses it. Qwen3.5-35B-A3B is published fused, and
transformers knows it from 5.2 on; it is the 67 GB model of transformers#44728. On a CPU one layer is loaded, cut to two
experts; on a GPU eight with all of theirs. Figures named ``whole_*`` scale that to the true model.

Limit on a CPU: the 16-bit bytes that stay by their nature (embedding, head, norms, convolutions, router). The ledger
counts what is alive; the sizes of the model's own tensors are the second instrument. On a GPU all that is allocated
counts: what stays, codes and scales, and what the allocator rounds up.

Planted (must break the limit): the reference, but it leaves the experts as they are.
"""

from dataclasses import replace
from math import prod

from repros.case import Affected, Budget, Case, Claim, Condition, Needs, Remedy
from repros.cases._loading import load_installed, load_reference, published
from repros.cases.bitsandbytes.gh1849._report import REPORT
from repros.cases.bitsandbytes.gh1849._whole_model import bytes_of, installed_tensors, reference_tensors
from repros.worker.checkpoints import recipe_of, tensors
from repros.worker.sizes import is_quantized, sizes

MIB = 1 << 20

APART, FUSED = "qwen3-30b-a3b-1l-2e", "qwen3.5-35b-a3b-1l-2e"  # a layer with two experts
APART_8, FUSED_8 = "qwen3-30b-a3b-8l", "qwen3.5-35b-a3b-8l"  # eight layers with all of theirs


def left_in_16_bits(checkpoint):
    """Limit the 16-bit bytes at the end to what stays by its nature."""
    return Budget("live_end_16bit_bytes", sizes(checkpoint).staying, second="model_16bit_bytes")


def allocated(checkpoint):
    """Allow a GPU to have allocated at the end what stays, codes and scales, and the allocator's rounding.

    It rounds codes and scales up to 512 bytes each, and leaves up to 1 MiB of a larger block unsplit.
    """
    model = sizes(checkpoint)
    rounding = 2 * 512 * model.tensors + MIB * large_tensors(checkpoint)
    return Budget("cuda_end_allocated_bytes", model.staying + model.nf4 + rounding, second="model_bytes")


def large_tensors(checkpoint):
    """Return how many tensors of the loaded model have 1 MiB or more; NF4 takes half a byte an element."""
    specs = tensors(recipe_of(checkpoint))
    return sum((prod(s.shape) // 2 if is_quantized(s.name, s.shape) else s.nbytes) >= MIB for s in specs)


def loading(checkpoint):
    """Return what a card must have: the sources, which the planted bug reads first, what they become, and one more."""
    model = sizes(checkpoint)
    return model.whole + model.staying + model.nf4 + model.largest


KNOWN = Needs({"transformers": ">=5.2"}, reason="Qwen3.5 with experts came to transformers with 5.2")
KNOWN_ON_CARD = replace(KNOWN, card_bytes=loading(FUSED_8))
RECENT_ON_CARD = Needs(
    {"bitsandbytes": ">=0.49"},
    card_bytes=loading(APART_8),
    reason="which modules become quantized is not bitsandbytes' to say",
)

FROM_5 = Affected({"transformers": ">=5"}, "reports/bisect/gh1849-transformers")
FROM_5_ON_CARD = Affected({"transformers": ">=5"}, "reports/h200")

NOT_TO_4_BITS = Claim("from transformers 5 on the experts of a mixture are not quantized to 4 bits")
NOT_TO_8_BITS = Claim("not in the report: nor to 8 bits")


PARAMETRIZED = Remedy(
    "after loading, call `bitsandbytes.nn.parametrize.replace_parameter_4bit` on each parameter of the experts",
    arm="remedy_parametrized",
    recommended="bitsandbytes#2005",
    needs=Needs({"bitsandbytes": ">=0.48", "transformers": ">=5"}, reason="fused experts, and what quantizes them"),
)


def on_cpu(name, checkpoint, scheme="nf4", claim=NOT_TO_4_BITS, **more):
    budget, params = left_in_16_bits(checkpoint), {"scheme": scheme, "dtype": "bfloat16"}
    return Condition(name, budget, params, affected=(FROM_5,), claims=(claim,), checkpoint=checkpoint, **more)


def on_card(name, checkpoint, **more):
    budget, params = allocated(checkpoint), {"scheme": "nf4", "dtype": "bfloat16"}
    known = {"affected": (FROM_5_ON_CARD,), "claims": (NOT_TO_4_BITS,)}
    return Condition(name, budget, params, checkpoint=checkpoint, device="cuda", **known, **more)


CASE = Case(
    **REPORT,
    trigger="a mixture of experts that is loaded in 4 or 8 bits",
    claims=(NOT_TO_4_BITS, NOT_TO_8_BITS),
    conditions=(
        on_cpu("nf4-experts", APART, witness="minimal.py", remedies=(PARAMETRIZED,)),
        on_cpu("nf4-experts-fused", FUSED, needs=KNOWN),
        on_cpu("int8-experts", APART, scheme="int8", claim=NOT_TO_8_BITS),
        on_card("nf4-experts-30b-cuda", APART_8, needs=RECENT_ON_CARD, proxy="nf4-experts", witness="minimal.py"),
        on_card("nf4-experts-fused-35b-cuda", FUSED_8, needs=KNOWN_ON_CARD, proxy="nf4-experts-fused"),
    ),
    timeout_s=300.0,
)

oracle = published  # some weights, in float64


def subject(c, checkpoint):
    found = yield from load_installed(c, checkpoint)
    return {**found, **bytes_of(c, installed_tensors(found["model"]))}


def remedy_parametrized(c, checkpoint):
    """Quantize the experts of the loaded model, and see that it still runs."""
    import torch
    from bitsandbytes.nn.parametrize import replace_parameter_4bit

    found = yield from load_installed(c, checkpoint)
    for module in list(found["model"].modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.dim() == 3:
                replace_parameter_4bit(module, name, quant_type="nf4", compress_statistics=False)
    with torch.no_grad():
        found["model"].train()(torch.tensor([[1, 2, 3]]))  # in eval mode a CPU packs 4-bit layers for good
    return {**found, **bytes_of(c, installed_tensors(found["model"]))}


def reference(c, checkpoint):
    found = yield from load_reference(c, checkpoint)
    return {**found, **bytes_of(c, reference_tensors(found["model"]))}


def planted(c, checkpoint):
    """Leave the experts as they are."""
    found = yield from load_reference(c, checkpoint, quantizes=all_but_experts)
    return {**found, **bytes_of(c, reference_tensors(found["model"]))}


def all_but_experts(name, shape):
    return is_quantized(name, shape) and ".experts." not in name
