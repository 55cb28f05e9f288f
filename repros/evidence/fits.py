"""What fits on which card: training steps on cards of a size, and models too large for one. Pure, from records alone.

A trial speaks to the first table where its arms say what they should need (``predicted_bytes``), to the second where
they say how far they came (``too_large``), and to the third where they say what their model comes to at its true depth
(``whole_bytes``).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from repros.report.escape import code, markdown, row
from repros.report.machine import machines
from repros.report.reported import ended
from repros.run.results import Record, shown
from repros.verdict import SETTLED, Observation, show
from repros.worker.small_card import allowed

#: The cards of transformers#44387 and #44728: two of these.
CARD_GB, CARDS = 32, 2
#: The arms in the order of the tables' columns, and those that are held against what was foreseen.
COLUMNS, HELD_AGAINST = ("subject", "proposed", "reference", "planted"), ("subject", "reference")
#: What every table of steps has in common; `repros/cases/bitsandbytes/gh1935` makes them.
SHAPES = (
    "One sequence, as long as the condition's name says, or else its claim; 8-bit AdamW as installed, torch's in the "
    "reference. What is foreseen is of torch's and knows no compiler. A model's name stands for the shapes that "
    "`fixtures/qlora_models.json` lists."
)

#: What an arm says that loaded a mixture of experts, in the order of the table.
WHOLE_IN_ORDER = ("model_bytes", "whole_bytes", "whole_experts_bytes", "whole_16bit_bytes")
WHOLE = frozenset(WHOLE_IN_ORDER)


def page(records: Sequence[Record], sources: Sequence[Path]) -> str:
    """Return the page as Markdown."""
    steps, ladders, models = (
        [record for record in records if any(figure in arm.figures for arm in record.arms)]
        for figure in ("predicted_bytes", "too_large", "whole_bytes")
    )
    where = ", ".join(code(shown(source)) for source in sources)
    rows = ["# What fits on which card", "", f"Made from {where} by `python -m repros fits`.", ""]
    rows += [*(f"- {markdown(line)}" for line in machines(steps + ladders + models)), ""]
    if steps:
        rows += _steps(steps)
    if ladders:
        rows += _ladders(ladders)
    if models:
        rows += _models(models)
    if not steps and not ladders and not models:
        rows += ["No trial of these runs says what its model needs."]
    return "\n".join(rows) + "\n"


def _steps(records: Sequence[Record]) -> list[str]:
    """Return a row a trial: does it train, and was that foreseen."""
    rows = [
        "## Training steps",
        "",
        "The allocator of one large card is given what a small card would have. *As installed*, *reference*, "
        "*planted*: the most that was allocated, or out of memory. *Foreseen*: the sum over weights, adapters, "
        "activations, logits and workspace that was made before the step; the ratio is measured over foreseen. "
        "*Reserved* is what the allocator had of the card for that as installed; *allowed* is a limit on it and on "
        "what it had before (workspaces).",
        "",
        SHAPES,
        "",
        "| model and card | cell | allowed | reserved | as installed | with the proposed fix | reference | planted | "
        "foreseen | installed/foreseen | reference/foreseen | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        limit = show(float(record.budget["limit"]), "bytes")
        arms = {name: record.arm(name) for name in COLUMNS}
        foreseen = next(a.figures["predicted_bytes"] for a in record.arms if "predicted_bytes" in a.figures)
        ratios = [_ratio(arms[name], foreseen) for name in HELD_AGAINST]
        reserved = _peak(arms["subject"], "cuda_peak_reserved_bytes")
        cells = [record.condition, record.cell, limit, reserved, *(_peak(arm) for arm in arms.values())]
        cells += [show(foreseen, "bytes"), *ratios, record.verdict.value]
        rows.append(row(*cells))
    return [*rows, ""]


def _peak(arm: Observation | None, figure: str = "cuda_peak_allocated_bytes") -> str:
    if arm is None:
        return "-"
    return ended(arm) or show(arm.figures.get(figure), "bytes")


def _ratio(arm: Observation | None, foreseen: float) -> str:
    peak = arm.reached("cuda_peak_allocated_bytes") if arm else None
    return "-" if peak is None or not foreseen else f"{peak / foreseen:.3f}"


def _ladders(records: Sequence[Record]) -> list[str]:
    """Return a row a trial and model: what it took, until one did not fit."""
    rows = [
        "## Upward, until one does not fit",
        "",
        "Each arm trains one model after another, the smallest first, and ends with the one that runs out of memory. "
        "What was allocated at most so far is read after each; `-`: not tried.",
        "",
        SHAPES,
        "",
        "| card | cell | model | foreseen | as installed | with the proposed fix | reference | planted | "
        "installed/foreseen | reference/foreseen | verdict on the card |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        arms = {name: record.arm(name) for name in COLUMNS}
        foreseen = {name: size for arm in arms.values() if arm for name, size in _foreseen(arm).items()}
        took = {name: _climbed(arm, list(foreseen)) for name, arm in arms.items()}
        for model, size in foreseen.items():
            cells = [record.condition, record.cell, model.upper(), show(size, "bytes")]
            cells += [one[model][0] for one in took.values()]
            cells += [f"{peak / size:.3f}" if (peak := took[name][model][1]) and size else "-" for name in HELD_AGAINST]
            rows.append(row(*cells, record.verdict.value))
    return [*rows, ""]


def _foreseen(arm: Observation) -> dict[str, float]:
    """Return the models that an arm tried, in their order, and what each should take."""
    sizes = {name: size for name, size in arm.figures.items() if name.startswith("foreseen_")}
    return {name.removeprefix("foreseen_").removesuffix("_bytes"): size for name, size in sizes.items()}


def _climbed(arm: Observation | None, models: Sequence[str]) -> dict[str, tuple[str, float]]:
    """Return for each model what it took, in print and in bytes (0 if it is not known), by the marks of an arm.

    An arm's peak is never set back: where a model leaves it as it was, it took that or less.
    """
    if arm is None or arm.state != "done":
        return dict.fromkeys(models, (ended(arm) or "-", 0.0))
    took = dict.fromkeys(models, ("-", 0.0))
    for mark, then in pairwise(arm.evidence.get("cuda_phases", [])):
        if mark["phase"] in took:
            before, peak = float(mark["peak_allocated_bytes"]), float(then["peak_allocated_bytes"])
            took[mark["phase"]] = (show(peak, "bytes"), peak) if peak > before else (f"≤ {show(peak, 'bytes')}", 0.0)
    tried = list(_foreseen(arm))
    if arm.figures.get("too_large") and tried:
        took[tried[-1]] = ("out of memory", 0.0)
    return took


def _models(records: Sequence[Record]) -> list[str]:
    """Return a row a trial and arm: what a mixture of experts comes to at its true depth."""
    limit = CARDS * allowed(CARD_GB)
    rows = [
        "## Mixtures of experts, loaded in 4 or 8 bits",
        "",
        "What was loaded is cut in depth (on a CPU in experts too). *Whole*: its layers' bytes times the layers of "
        "the model over those loaded, its experts' times the experts over those loaded, the embedding's and the head's "
        f"by the vocabulary. *Two cards*: how much that is of the {show(limit, 'bytes')} that {CARDS} cards of "
        f"{CARD_GB} GiB leave beside a context, before an activation or a source on its way.",
        "",
        "| condition | cell | arm | as loaded | whole | of it experts | of it 16-bit | two cards | verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        for arm in record.arms:
            if not arm.figures.keys() >= WHOLE or record.verdict not in SETTLED:
                continue
            figures = [arm.figures[name] for name in WHOLE_IN_ORDER]
            fits = f"{figures[1] / limit:.1%}"
            cells = [record.condition, record.cell, arm.arm, *(show(f, "bytes") for f in figures), fits]
            rows.append(row(*cells, record.verdict.value))
    return [*rows, ""]
