"""What fits on which card: tables made of records alone, and the arithmetic behind them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from repros.cases.bitsandbytes.gh1849 import fused_experts
from repros.cases.bitsandbytes.gh1849._whole_model import bytes_of
from repros.commands import cli
from repros.evidence import fits
from repros.run import results
from repros.run.results import Record
from repros.verdict import Observation
from repros.worker.checkpoints import recipe_of, tensors
from tests.factories import done, record

GIB = 1 << 30


def peaks_of(gib: float) -> dict[str, float]:
    """Return the figures of an arm that reserved half a GiB more than it allocated."""
    reserved = (gib + 0.5) * GIB
    return {
        "cuda_peak_allocated_bytes": gib * GIB,
        "cuda_peak_reserved_bytes": reserved,
        "predicted_bytes": 10.0 * GIB,
    }


def step(**peaks: float) -> Record:
    """Return a trial of a training step whose arms had these peaks in GiB; 0 is out of memory."""
    arms = tuple(
        done(name, **peaks_of(peak))
        if peak
        else Observation(name, "raised", reason="out of memory in phase step: CUDA out of memory")
        for name, peak in peaks.items()
    )
    made = record(case="gh1935_card_table", condition="9b-on-12gb-cuda", cell="gpu-x")
    return replace(made, arms=arms, budget={**made.budget, "limit": 11.25 * GIB})


def test_a_step_is_foreseen_and_measured() -> None:
    text = fits.page([step(subject=9.5, reference=9.6, planted=0)], [Path("reports/x")])
    assert (
        "| 9b-on-12gb-cuda | gpu-x | 11.25 GiB | 10.00 GiB | 9.50 GiB | - | 9.60 GiB | out of memory | 10.00 GiB | "
        "0.950 | 0.960 | absent |" in text
    )


def climbed(arm: str, *peaks: float, too_large: int) -> Observation:
    """Return an arm that tried models of 1B and up, foreseen at 10 GiB and up; ``peaks`` in GiB until then."""
    names = [f"{n}b" for n in range(1, 1 + len(peaks))]
    figures = {f"foreseen_{name}_bytes": 10.0 * n * GIB for n, name in enumerate(names, 1)}
    marks = [{"phase": name, "peak_allocated_bytes": int(p * GIB)} for name, p in zip(names, (0, *peaks), strict=False)]
    marks.append({"phase": "end", "peak_allocated_bytes": int(peaks[-1] * GIB)})
    return Observation(arm, "done", {**figures, "too_large": too_large}, evidence={"cuda_phases": marks})


def test_what_a_card_took_upward_is_told_by_model() -> None:
    made = record(case="gh1935_largest", condition="up-to-32gb-cuda", cell="gpu-x")
    arms = (
        climbed("subject", 9.5, 19, 31, too_large=1),
        climbed("reference", 9.7, 19.2, 28, too_large=0),
        climbed("planted", 31, too_large=3),
        climbed("proposed", 9.5, 19, 31, too_large=1),
    )
    text = fits.page([replace(made, arms=arms)], [Path("reports/x")])
    start = "| up-to-32gb-cuda | gpu-x |"
    rows = [row.removeprefix(start) for row in text.splitlines() if row.startswith(start)]
    assert rows == [
        " 1B | 10.00 GiB | 9.50 GiB | 9.50 GiB | 9.70 GiB | out of memory | 0.950 | 0.970 | absent |",
        " 2B | 20.00 GiB | 19.00 GiB | 19.00 GiB | 19.20 GiB | - | 0.950 | 0.960 | absent |",
        " 3B | 30.00 GiB | out of memory | out of memory | 28.00 GiB | - | - | 0.933 | absent |",
    ]


def test_an_arm_that_did_not_climb_to_its_end_says_how_it_ended() -> None:
    made = record(case="gh1935_largest", condition="up-to-32gb-cuda", cell="gpu-x")
    raised = Observation("subject", "raised", reason="RuntimeError in phase 1b")
    text = fits.page([replace(made, arms=(raised, climbed("reference", 9.7, too_large=0)))], [Path("reports/x")])
    assert "| 1B | 10.00 GiB | raised | - | 9.70 GiB | - | - | 0.970 |" in text


def test_a_model_that_took_less_than_the_one_before_is_not_given_its_peak() -> None:
    made = record(case="gh1935_largest", condition="up-to-32gb-cuda", cell="gpu-x")
    text = fits.page([replace(made, arms=(climbed("subject", 12, 12, too_large=0),))], [Path("reports/x")])
    assert "| 1B | 10.00 GiB | 12.00 GiB | - | - | - | 1.200 |" in text
    assert "| 2B | 20.00 GiB | ≤ 12.00 GiB | - | - | - | - |" in text


def test_runs_that_say_nothing_of_it_say_so() -> None:
    assert "No trial of these runs says what its model needs." in fits.page([record()], [Path("reports/x")])


@pytest.mark.parametrize(
    ("run", "row"),
    [("cpu", "nf4-experts-fused | tf5.23.0-bnb0.50.2 | subject"), ("h200", "9b-on-12gb-cuda | gpu-tf5.23.0-bnb0.49.2")],
)
def test_the_committed_page_is_what_its_results_make(tmp_path: Path, run: str, row: str) -> None:
    kept = results.REPORTS / run
    assert cli.main(["fits", str(kept), "--markdown", str(tmp_path / "fits.md")]) == 0
    made = (tmp_path / "fits.md").read_text()
    assert made == (kept / "fits.md").read_text(), f"make it again: python -m repros fits reports/{run} --markdown …"
    assert f"| {row} |" in made


def test_the_arithmetic_to_the_whole_model_is_that_of_its_true_shapes() -> None:
    """One layer with two experts, taken to the whole in 16 bits, is the published model but for rows of the router."""
    condition = fused_experts.CASE.condition("nf4-experts")
    specs = tensors(recipe_of(condition.checkpoint))
    cut = [(s.name, torch.empty(s.shape, dtype=torch.bfloat16, device="meta")) for s in specs]
    whole = bytes_of(condition, cut)
    true = recipe_of("qwen3-30b-a3b-8l")
    listed = tensors(replace(true, layers=None))
    experts = sum(s.nbytes for s in listed if ".experts." in s.name)
    router = sum(s.nbytes for s in listed if "mlp.gate." in s.name)  # a row an expert: the cut one has two of them
    assert whole["whole_experts_bytes"] == experts
    assert abs(whole["whole_bytes"] - sum(s.nbytes for s in listed)) < router
    assert whole["whole_16bit_bytes"] == whole["whole_bytes"]
