"""A saved 4-bit model does not load where a weight and its quantization state lie in different shards.

Report: a pre-quantized model of 72B raises a ValueError with transformers 4.54.0; 4.51.3 loads it.

Mechanism: a 4-bit weight is saved as several tensors, and a border between shards may fall between them. Until 4.57 the
loader makes the weight as it meets its packed numbers, of what the shard at hand holds; later ones keep what they have
until they have all. Transformers before 4.53 quantizes on a CPU with IPEX alone, which no cell has. Tried there by hand
(torch 2.8), `minimal.py` votes bad of 4.51.3 too: the report's own change of release has another cause.

Limit: the error of each weight against float64, relative to its largest number. A code times a scale is rounded to
float32 by half an epsilon; a scale that is quantized too, and its offset, by as much again.

Planted (must break the limit): the reference, but it looks for the state in the shard of the weight alone.
"""

from repros.case import Affected, Case, Claim, Condition, Remedy, Symptom, error
from repros.cases.transformers.gh40327._checkpoint import apart, merge, read_shards, restored, together, write

LIMIT = 2.0**-23  # float32's epsilon
RAISES = Claim("a pre-quantized 4-bit model raises a ValueError where a parameter's tensors lie in several shards")
IN_ONE_SHARD = Affected({"transformers": ">=4.53,<4.57"}, "reports/bisect/gh40327-transformers")
MERGED = Remedy("merge the shards into one file before you load", arm="remedy_merged")


def shards(name, shard, double=False, claims=(RAISES,), **more):
    return Condition(name, error(LIMIT * (1 + 2 * double)), {"shard": shard, "double": double}, claims=claims, **more)


CASE = Case(
    report="transformers#40327",
    title="ValueError when loading 4-bit quantized models with sharded weights on Transformers >=4.54.0",
    kind="issue",
    status="closed",
    severity="raises",
    trigger="a 4-bit model that was saved in shards, with a border inside a parameter",
    claims=(RAISES,),
    conditions=(
        shards("apart", apart, affected=(IN_ONE_SHARD,), witness="minimal.py", remedies=(MERGED,)),
        shards("apart-double", apart, double=True, affected=(IN_ONE_SHARD,)),
        shards("together", together, control=True, claims=()),
    ),  # the second symptom is the planted bug's way to say it
    symptoms=(Symptom("ValueError", r"does not contain `bitsandbytes__"), Symptom("ValueError", "not enough values")),
)


def inputs(c):
    return {"weights": write("saved", c)}


def oracle(c, weights):
    from repros.reference.blockwise import dequantize_4bit

    return {name: dequantize_4bit(q).double() for name, q in weights.items()}


def subject(c, weights):
    from bitsandbytes.functional import dequantize_4bit
    from transformers import LlamaForCausalLM

    yield "load"
    model = LlamaForCausalLM.from_pretrained("saved", device_map={"": c.device})
    loaded = {name: model.get_parameter(name) for name in weights}
    return {name: dequantize_4bit(weight.data, weight.quant_state) for name, weight in loaded.items()}


def remedy_merged(c, weights):
    merge("saved")
    return subject(c, weights)


def reference(c, weights):
    yield "load"
    whole = {name: tensor for shard in read_shards("saved") for name, tensor in shard.items()}
    return {name: restored(whole, name, q) for name, q in weights.items()}


def planted(c, weights):
    yield "load"
    shards = read_shards("saved")
    return {name: restored(shard, name, weights[name]) for shard in shards for name in weights.keys() & shard}
