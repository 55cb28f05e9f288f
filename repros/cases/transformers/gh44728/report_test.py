"""The report's own test: a load in 4 bits must peak below the model's 16-bit size (transformers#44728).

The report: 16-bit weights pile up while ``from_pretrained`` quantizes them. Its test loads facebook/opt-350m in 4 bits:
about 889 MB at the peak before the fix, about 611 MB after it, and 662 MB in 16 bits.

Tried here: that test, with the report's limit and the report's fix. How far the loader's threads read ahead of the
quantization decides the peak. On a CPU the meter makes the first quantization wait until they are idle (``gate``): the
worst case. On a GPU nothing is held back, as in the report, and no release tried breaks the limit there.

Limit: all bytes alive at once must not exceed the model's 16-bit size. That is a wide limit: a loader that keeps every
third source (a 16-bit tensor as it was read) passes. The cases beside this one have a limit that is derived.

Planted (must break the limit): the reference, but it keeps *every* source of a quantized weight for good.
"""

from __future__ import annotations

from repros.case import Affected, Budget, Case, Claim, Condition, Reading
from repros.cases._loading import GATE, POOL, RACE, load_installed, load_reference, published
from repros.cases.transformers.gh44728._shared import NF4_ERROR, PROPOSES, keep_every, load_with_proposed_fix
from repros.worker.sizes import sizes

MB = 10**6

LIMIT = sizes("smollm2-135m-1l").whole  # one layer of SmolLM2-135M
OPT_LIMIT = sizes("opt-350m").whole

READS_AHEAD = Affected({"transformers": ">=5.0,<5.4"}, "reports/bisect/gh44387-gh44728-transformers")


def peak(arm, note=""):
    """Read the test's figure in the releases that the report speaks of."""
    versions = {"transformers": ">=5,<5.4"}
    return Reading("cuda_peak_allocated_bytes", "nf4-report-test-350m-cuda", MB, arm, versions, note=note)


def peak_elsewhere(arm):
    """Read it where another case loads alike, but plants another bug and allows less."""
    figure, versions = "cuda_peak_allocated_bytes", {"transformers": ">=5,<5.4"}
    return Reading(figure, "nf4-350m-cuda", MB, arm, versions, case="gh44728_reads_ahead", note=ALIKE)


ALIKE = f"{RACE}; the two conditions load alike"
OPT_PEAK = Claim(
    "facebook/opt-350m peaks above its 16-bit size, and below it with the fix",
    reported={"before": "about 889 MB", "after": "about 611 MB", "16-bit size": "662 MB"},
    readings={
        "before": (
            peak("subject", ALIKE),
            peak_elsewhere("subject"),
            peak("planted", "`planted` keeps every source"),
        ),
        "after": (peak("proposed", ALIKE), peak_elsewhere("proposed")),
        "16-bit size": (peak("budget"),),
    },
)
GIVEN_TIME = Claim("not in the report: where its threads are given their time, a load peaks above the 16-bit size")

CASE = Case(
    report="transformers#44728",
    title="Fix float16 memory leak during 4-bit quantized model loading",
    kind="pull request",
    status="closed in favour of #44576",
    fix="transformers#44576",
    severity="memory",
    trigger="a 16-bit checkpoint that is quantized while `from_pretrained` loads it",
    claims=(OPT_PEAK, GIVEN_TIME),
    conditions=(
        Condition(
            "nf4-report-test",
            Budget("peak_live_bytes", LIMIT),
            {"scheme": "nf4", "dtype": "bfloat16"},
            affected=(READS_AHEAD,),
            claims=(GIVEN_TIME,),
            checkpoint="smollm2-135m-1l",
            witness="minimal.py",
        ),
        Condition(
            "nf4-report-test-350m-cuda",
            Budget("cuda_peak_allocated_bytes", OPT_LIMIT),
            {"scheme": "nf4", "dtype": "float16"},
            affected=(),  # on a GPU the threads get less far ahead
            claims=(OPT_PEAK,),
            device="cuda",
            checkpoint="opt-350m",
            proxy="nf4-report-test",
            witness="minimal_350m.py",
        ),
    ),
    numbers=NF4_ERROR,
    proposes=PROPOSES,
    proposed_needs=POOL,
    gate=GATE,
)


def oracle(c, checkpoint):
    return published(c, checkpoint)


def subject(c, checkpoint):
    return load_installed(c, checkpoint)


def reference(c, checkpoint):
    return load_reference(c, checkpoint)


def planted(c, checkpoint):
    """Keep every source for good."""
    return load_reference(c, checkpoint, load=lambda loader: keep_every(1, loader))


def proposed(c, checkpoint):
    return load_with_proposed_fix(c, checkpoint)
