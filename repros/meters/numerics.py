"""How wrong numbers are: relative error against a float64 oracle, and the count of non-finite values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch


def relative_error(value: torch.Tensor, oracle: torch.Tensor) -> float:
    """Return max|value - oracle| / max|oracle|, computed in float64; inf for another shape or a non-finite value."""
    if tuple(value.shape) != tuple(oracle.shape):
        return math.inf
    got, want = value.detach().cpu().double(), oracle.detach().cpu().double()
    if not bool(torch.isfinite(got).all()):
        return math.inf
    if not want.numel():
        return 0.0
    scale = float(want.abs().max())
    worst = float((got - want).abs().max())
    return worst / scale if scale else (0.0 if worst == 0 else math.inf)


def compare(result: Mapping[str, Any], oracle: Mapping[str, torch.Tensor]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the figures (``error``, ``output_error``, ``grad_error``, ``nonfinite``) and the error of each tensor.

    A tensor that the oracle has and the result lacks (or holds as None) counts as infinitely wrong: a gradient that
    never came is a wrong gradient.
    """
    errors: dict[str, float] = {}
    nonfinite = 0
    for name, want in oracle.items():
        got = result.get(name)
        if not isinstance(got, torch.Tensor):
            errors[name] = math.inf
            continue
        nonfinite += int((~torch.isfinite(got.detach())).sum()) if got.is_floating_point() else 0
        errors[name] = relative_error(got, want)
    figures: dict[str, float] = {"nonfinite": nonfinite}
    groups = {
        "error": list(errors.values()),
        "grad_error": [e for name, e in errors.items() if name.startswith("grad")],
        "output_error": [e for name, e in errors.items() if not name.startswith("grad")],
    }
    figures.update({name: max(values) for name, values in groups.items() if values})
    return figures, errors
