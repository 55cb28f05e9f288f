"""In int8 too transformers 5 reads the whole 16-bit model before it has quantized a part of it (transformers#44387).

The report speaks of 4 bits: transformers 5.2.0 reserves twice as much memory as 4.57.5 while it loads. There a pool of
threads reads 16-bit tensors (*sources*) ahead of their quantization; see ``reserved_memory.py``. The pool does not
depend on what a source is quantized to, so int8 should go the same way.

On a CPU the trial judges the peak of 16-bit bytes alive, with the first quantization made to wait until the pool is
idle (``gate``). On a GPU it loads the report's model and judges what is reserved at the end. ``int8-sync`` has the pool
switched off.

Limit: what stays 16-bit (embedding, norms), the largest source on its way, and a copy of it in float16, from which
bitsandbytes quantizes to int8. The GPU's limit adds the quantized weights and the allocator's rounding.

Planted (must break the limit): the reference, but it reads every source before it quantizes the first.
"""

from repros.case import SEGMENT_BYTES, Affected, Budget, Case, Claim, Condition, Needs
from repros.cases._loading import GATE, POOL, SWITCH, SYNC, load_installed, load_reference, published
from repros.cases.transformers.gh44387._planted import read_everything_first
from repros.cases.transformers.gh44387._report import REPORT
from repros.worker.sizes import sizes

MIB = 1 << 20

LAYERS = sizes("smollm2-135m-2l")  # bytes of two layers of SmolLM2-135M and a short embedding
LIMIT = LAYERS.staying + 2 * LAYERS.largest_quantized

MODEL = sizes("qwen2.5-7b")
LOADING = MODEL.staying + MODEL.int8 + MODEL.largest + MODEL.largest_quantized
SCRATCH = 40 * MIB  # what the reference quantizes by: 4 million elements in float32, with ranks and codes
ALLOCATED = LOADING + SCRATCH + 2 * 512 * MODEL.tensors  # codes and scales are each rounded up to 512 bytes
# The allocator takes memory in steps of 2 MiB, one for each quantized weight. Blocks below 10 MiB share segments of
# 20 MiB; codes, scales and sources may each have begun one (c10/cuda/CUDACachingAllocator.h).
RESERVED = ALLOCATED + 2 * MIB * MODEL.quantized + 3 * SEGMENT_BYTES

READS_AHEAD = Affected({"transformers": ">=5.0,<5.4"}, "reports/bisect/gh44387-gh44728-transformers")
READS_AHEAD_ON_CARD = Affected({"transformers": ">=5.0,<5.4"}, "reports/h200")
#: Without a pool: one source more is alive. 4.53.0 is the oldest release that quantizes on a CPU.
BEFORE_4_57 = Affected({"transformers": ">=4.53,<4.57"}, "reports/bisect/gh44387-gh44728-transformers")

INT8_TOO = Claim("not in the report: int8 goes the same way")

PEAK = Budget("peak_live_16bit_bytes", LIMIT)
AT_END = Budget("cuda_end_reserved_bytes", RESERVED, second="cuda_end_driver_bytes")
RECENT = Needs(
    {"bitsandbytes": ">=0.49"},
    card_bytes=MODEL.whole + MODEL.largest,  # the planted bug holds it all, and what one source becomes
    reason="bitsandbytes has no part in it; a recent one is enough",
)


def int8(name, budget, checkpoint, **more):
    params = {"scheme": "int8", "dtype": "bfloat16"}
    return Condition(name, budget, params, claims=(INT8_TOO,), checkpoint=checkpoint, **more)


ON_CARD = {"device": "cuda", "proxy": "int8", "needs": RECENT}

CASE = Case(
    **REPORT,
    trigger="a 16-bit checkpoint that is quantized to 8 bits while `from_pretrained` loads it",
    claims=(INT8_TOO,),
    conditions=(
        int8("int8", PEAK, "smollm2-135m-2l", affected=(READS_AHEAD, BEFORE_4_57), remedies=(SWITCH,)),
        int8("int8-sync", PEAK, "smollm2-135m-2l", affected=(), needs=POOL, env=SYNC),
        int8("int8-7b-cuda", AT_END, "qwen2.5-7b", affected=(READS_AHEAD_ON_CARD,), **ON_CARD),
    ),
    gate=GATE,
    timeout_s=180.0,
)

oracle = published  # some weights, in float64
subject = load_installed
reference = load_reference


def planted(c, checkpoint):
    """Read every source before the first is quantized."""
    return load_reference(c, checkpoint, load=read_everything_first)
