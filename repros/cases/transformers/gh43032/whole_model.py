"""The whole 16-bit model stands on the device before a load in 4 bits has quantized it (transformers#43032).

Report: a model of about 14B takes 9 GB with transformers 4.48. With 5.0.0.dev0 it runs out of memory at 15 GB, on a
card of 16 GB. The loader knows what is to be quantized, and puts every tensor on the device in 16 bits all the same.

Mechanism: each tensor goes there in 16 bits in every release, one at a time. From 5.0 on a pool of threads reads them
ahead of the quantization, without a bound: that is transformers#44387, seen as a peak in place of what is reserved.
The ``-sync`` conditions have no pool. Nothing leaks (transformers#44728), and the model is dense, so no expert is left
out (bitsandbytes#1849). How far the pool gets is a race: on a CPU the first quantization waits for it (``gate``).

Limit: 16-bit bytes alive at once: what stays (embedding, norms) and one weight, the largest. On a GPU, of all bytes,
half the 16-bit size, which transformers may allocate and free before it reads: more than what stays, NF4 and a weight.

Planted (must break the limit): the reference, but it reads every tensor before it quantizes the first.
"""

from dataclasses import replace

from repros.case import Affected, Budget, Case, Claim, Condition, Needs
from repros.cases._loading import GATE, POOL, SWITCH, SYNC, load_installed, load_reference, published
from repros.worker.sizes import sizes

LAYER, OPT = sizes("smollm2-135m-1l"), sizes("opt-350m")
PEAK = Budget("peak_live_16bit_bytes", LAYER.staying + LAYER.largest_quantized)
PEAK_ON_CARD = Budget("cuda_peak_allocated_bytes", OPT.whole // 2)

ON_A_CARD = Affected({"transformers": ">=5.0,<5.4"}, "reports/h100")
READS_AHEAD = Affected({"transformers": ">=5.0,<5.4"}, "reports/bisect/gh43032-transformers")
WHOLE = Claim(
    "a load in 4 bits has the whole model on the device in 16 bits, and runs out of memory",
    reported={"4.48, about 14B": "~9 GB", "5.0.0.dev0, about 14B": "15 GB+"},
)


def loading(name, **more):
    params = {"scheme": "nf4", "dtype": "bfloat16"}
    return Condition(name, PEAK, params, claims=(WHOLE,), checkpoint="smollm2-135m-1l", **more)


def on_card(condition, **more):
    return condition.on_card("350m", PEAK_ON_CARD, {"dtype": "float16"}, checkpoint="opt-350m", **more)


ROOM = 2 * OPT.whole  # the planted bug holds the model and what it becomes
NF4 = loading("nf4", affected=(READS_AHEAD,), remedies=(SWITCH,), witness="minimal.py")
NF4_SYNC = loading("nf4-sync", needs=POOL, env=SYNC, affected=())
ON_CARD = (
    on_card(NF4, needs=Needs(card_bytes=ROOM), affected=(ON_A_CARD,)),
    on_card(NF4_SYNC, needs=replace(POOL, card_bytes=ROOM), affected=()),
)

CASE = Case(
    report="transformers#43032",
    title="[v5 Regression] BitsAndBytes 4-bit quantization OOM"
    " - core_model_loading bypasses quantizer device placement",
    kind="issue",
    status="open",
    fix="transformers#44576",
    also=("transformers#44387", "transformers#44728", "bitsandbytes#1849"),
    severity="memory",
    trigger="a 16-bit checkpoint that `from_pretrained` quantizes to 4 bits on a card too small for its 16 bits",
    claims=(WHOLE,),
    conditions=(NF4, NF4_SYNC, *ON_CARD),
    gate=GATE,
    timeout_s=180.0,
)

oracle, subject, reference = published, load_installed, load_reference  # the oracle: some weights, in float64


def planted(c, checkpoint):
    """Read every tensor before the first is quantized."""

    def load(loader):
        loader.read = {entry: loader.read(entry) for entry in loader.entries}.pop
        return loader.load()

    return load_reference(c, checkpoint, load=load)
