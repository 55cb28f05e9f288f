"""transformers 5 reads the whole 16-bit model before it has quantized a part of it (transformers#44387).

The report: loading Qwen2.5-7B-Instruct in NF4 reserves 13.83 GB under 5.2.0 and 6.70 GB under 4.57.5. The same 5.46 GB
are allocated at the end.

Mechanism: from 5.0 on a pool of threads reads tensors to the device while the main thread quantizes one after another.
A 16-bit tensor that waits for its quantization (a *source*) is alive, so the allocator has to reserve memory for it.
`HF_DEACTIVATE_ASYNC_LOAD=1` takes the pool away: the ``-sync`` conditions.

On a GPU the trial loads the report's model and judges what is reserved at the end. On a CPU nothing is reserved, so
there it judges the peak of 16-bit bytes alive. How far the pool gets ahead is a race; therefore the meter makes the
first quantization wait until the pool is idle (``gate``), and the peak is the worst case.

Limit: what stays 16-bit (embedding, norms), and one source on its way, the largest. The GPU's is derived below.

Planted (must break the limit): the reference, but it reads every source before it quantizes the first.
"""

from functools import partial

from repros.case import SEGMENT_BYTES, Affected, Budget, Case, Claim, Condition, Needs, Reading
from repros.cases._loading import GATE, POOL, RACE, SWITCH, SYNC, load_installed, load_reference, published
from repros.cases.transformers.gh44387._planted import read_everything_first
from repros.cases.transformers.gh44387._report import COLLECT, REPORT, remedy_collect  # noqa: F401 - an arm
from repros.worker.sizes import sizes

MIB, GIB = 1 << 20, 1 << 30

LAYER = sizes("smollm2-135m-1l")  # bytes of one layer of SmolLM2-135M and a short embedding
LIMIT = LAYER.staying + LAYER.largest_quantized

MODEL = sizes("qwen2.5-7b")
# Before it reads, transformers may allocate half of the 16-bit size and free it, so that the allocator has it reserved
# (`caching_allocator_warmup`). That is more than the loading takes: what stays, codes, scales and one source.
# The allocator takes memory in steps of 2 MiB, one for each quantized weight. Blocks below 10 MiB share segments of
# 20 MiB; codes, scales and sources may each have begun one (c10/cuda/CUDACachingAllocator.h).
RESERVED = MODEL.whole // 2 + 2 * MIB * MODEL.quantized + 3 * SEGMENT_BYTES

READS_AHEAD = Affected({"transformers": ">=5.0,<5.4"}, "reports/bisect/gh44387-gh44728-transformers")
ON_CARD = (Affected({"transformers": ">=5.0,<5.4"}, "reports/h200"),)


def at_end(figure, version, note=""):  # as the report measured it; its GB is 2**30 bytes
    return (Reading(figure, "nf4-7b-cuda", GIB, versions={"transformers": version}, note=note),)


RESERVES = Claim(
    "5.x reserves twice as much as 4.57.5 while it loads in 4 bits",
    reported={
        "reserved, 5.2.0": "13.83 GB",
        "reserved, 4.57.5": "6.70 GB",
        "allocated, 5.2.0": "5.46 GB",
        "allocated, 4.57.5": "5.46 GB",
    },
    readings={
        "reserved, 5.2.0": at_end("cuda_end_reserved_bytes", "==5.2.0", RACE),
        "reserved, 4.57.5": at_end("cuda_end_reserved_bytes", "==4.57.5"),
        "allocated, 5.2.0": at_end("cuda_end_allocated_bytes", "==5.2.0"),
        "allocated, 4.57.5": at_end("cuda_end_allocated_bytes", "==4.57.5"),
    },
)

PEAK = Budget("peak_live_16bit_bytes", LIMIT)
AT_END = Budget("cuda_end_reserved_bytes", RESERVED, second="cuda_end_driver_bytes")
NF4 = {"scheme": "nf4", "dtype": "bfloat16"}
on_cpu = partial(Condition, budget=PEAK, params=NF4, claims=(RESERVES,), checkpoint="smollm2-135m-1l")
on_card = partial(Condition, budget=AT_END, params=NF4, claims=(RESERVES,), checkpoint="qwen2.5-7b", device="cuda")
#: The planted bug holds the whole model, and what one source becomes before that source goes.
PLANTED = MODEL.whole + MODEL.largest
ROOM = Needs(card_bytes=PLANTED)
INSIDE = Needs({"transformers": ">=5,<5.4"}, card_bytes=PLANTED, reason="the switch matters where the bug is")

CASE = Case(
    **REPORT,
    trigger="a 16-bit checkpoint that is quantized to 4 bits while `from_pretrained` loads it",
    claims=(RESERVES,),
    conditions=(
        on_cpu("nf4", affected=(READS_AHEAD,), witness="minimal.py", remedies=(SWITCH, COLLECT)),
        on_cpu("nf4-sync", affected=(), needs=POOL, env=SYNC),
        on_card("nf4-7b-cuda", needs=ROOM, affected=ON_CARD, proxy="nf4", witness="minimal_7b.py", remedies=(SWITCH,)),
        on_card("nf4-sync-7b-cuda", needs=INSIDE, affected=(), proxy="nf4-sync", env=SYNC),
    ),
    gate=GATE,
    timeout_s=180.0,
)

oracle, subject, reference = published, load_installed, load_reference  # the oracle: some weights, in float64


def planted(c, checkpoint):
    """Read every source before the first is quantized."""
    return load_reference(c, checkpoint, load=read_everything_first)
