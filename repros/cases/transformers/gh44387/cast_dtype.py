"""transformers 5 reads ahead of the quantization too where it casts to another dtype (transformers#44387).

The report loads a bfloat16 model as bfloat16: transformers 5.2.0 reserves twice as much memory as 4.57.5. There a pool
of threads reads 16-bit tensors (*sources*) ahead of their quantization; see ``reserved_memory.py``. Here the checkpoint
is bfloat16 and the model is loaded as float16.

Without a cast a source is a view of the file, so no other instrument sees it. A cast copies it to the heap. Therefore
``nf4-cast-heap`` judges the same load by the C library's count of the heap, which knows nothing of tensors.

Limit of 16-bit bytes alive: what stays 16-bit (embedding, norms), the largest source on its way and its copy in the
other dtype, and the largest source of what stays: a loop may drop that only with its next round. The heap also holds
the quantized weights, and 1 MiB of Python's own.

The first quantization is made to wait until the pool is idle (``gate``), so the peak is the worst case. The ``-sync``
conditions have the pool switched off.

Planted (must break the limit): the reference, but it reads every source before it quantizes the first.
"""

from repros.case import Affected, Budget, Case, Claim, Condition
from repros.cases._loading import GATE, POOL, SWITCH, SYNC, load_installed, load_reference, published
from repros.cases.transformers.gh44387._planted import read_everything_first
from repros.cases.transformers.gh44387._report import REPORT
from repros.worker.sizes import sizes

MIB = 1 << 20

# Bytes of one and two layers of SmolLM2-135M and a short embedding.
ONE_LAYER, TWO_LAYERS = sizes("smollm2-135m-1l"), sizes("smollm2-135m-2l")
NF4_LIMIT = ONE_LAYER.staying + 2 * ONE_LAYER.largest_quantized + ONE_LAYER.largest_staying
INT8_LIMIT = TWO_LAYERS.staying + 2 * TWO_LAYERS.largest_quantized + TWO_LAYERS.largest_staying
HEAP_LIMIT = INT8_LIMIT + TWO_LAYERS.nf4 + 1 * MIB  # the sources of two layers are the same in NF4

READS_AHEAD = Affected({"transformers": ">=5.0,<5.4"}, "reports/bisect/gh44387-gh44728-transformers")
#: Without a pool: one source more is alive. 4.53.0 is the oldest release that quantizes on a CPU.
INT8_BEFORE_4_57 = Affected({"transformers": ">=4.53,<4.57"}, "reports/bisect/gh44387-gh44728-transformers")

CAST_TOO = Claim("not in the report: a load that casts goes the same way, in 4 bits and in int8")


def cast(name, budget, scheme, checkpoint, **more):
    params = {"scheme": scheme, "dtype": "float16"}
    note = "bfloat16 checkpoint, loaded as float16"
    return Condition(name, budget, params, claims=(CAST_TOO,), checkpoint=checkpoint, note=note, **more)


NF4_PEAK = Budget("peak_live_16bit_bytes", NF4_LIMIT)
INT8_PEAK = Budget("peak_live_16bit_bytes", INT8_LIMIT)
HEAP_PEAK = Budget("peak_heap_bytes", HEAP_LIMIT)

CASE = Case(
    **REPORT,
    trigger="a checkpoint that `from_pretrained` quantizes while it loads it in another dtype",
    claims=(CAST_TOO,),
    conditions=(
        cast("nf4-cast", NF4_PEAK, "nf4", "smollm2-135m-1l", affected=(READS_AHEAD,), remedies=(SWITCH,)),
        cast("nf4-cast-sync", NF4_PEAK, "nf4", "smollm2-135m-1l", affected=(), needs=POOL, env=SYNC),
        cast("nf4-cast-heap", HEAP_PEAK, "nf4", "smollm2-135m-2l", affected=(READS_AHEAD,)),
        cast("int8-cast", INT8_PEAK, "int8", "smollm2-135m-2l", affected=(READS_AHEAD, INT8_BEFORE_4_57)),
        cast("int8-cast-sync", INT8_PEAK, "int8", "smollm2-135m-2l", affected=(), needs=POOL, env=SYNC),
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
