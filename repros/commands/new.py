"""``new``: a case file to start from."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from rich.console import Console

from repros import ROOT, files
from repros.commands.arguments import (
    EXIT_AS_EXPECTED,
    Add,
    whole,
)
from repros.errors import UserError
from repros.run import results

CASES = ROOT / "repros" / "cases"

TEMPLATE = '''"""{package}#{number}: CLAIM IN ONE SENTENCE.

Mechanism: what keeps the bytes alive, or makes the numbers wrong, and where upstream does it.

Budget: bytes of the output (ROWS x OUT of DTYPE) and SLACK; the planted bug adds the ROWS x IN copy of the input that
backward does not need. SLACK covers the pages that the heap rounds up to.
"""

from types import SimpleNamespace

from repros.case import ITEMSIZE, Budget, Case, Claim, Condition

ROWS, IN, OUT = 256, 1024, 512
SLACK = 32 << 10


def held(p):
    """Return the bytes that backward truly needs."""
    return ROWS * OUT * ITEMSIZE[p["dtype"]] + SLACK


CASE = Case(
    package="{package}",
    number={number},
    title="WHAT THE REPORT IS CALLED",
    kind="issue",
    status="open",
    claims=(Claim("what the report says", reported={{"held": "the report's own figure"}}),),
    conditions=(Condition("eager", {{"dtype": "float32"}}),),
    budget=Budget("held_bytes", held, second="heap_held_bytes"),
)


def prepare(p, checkpoint):
    import torch

    dtype = getattr(torch, p["dtype"])
    return SimpleNamespace(
        x=torch.randn(ROWS, IN, dtype=dtype, requires_grad=True), weight=torch.randn(OUT, IN, dtype=dtype)
    )


def oracle(i):
    x, weight = i.x.detach().double(), i.weight.double()
    return {{"output": x @ weight.t(), "grad_x": weight.sum(0).expand(ROWS, IN)}}


def step(i, product):
    yield "forward"
    out = product(i.x)
    yield "backward"
    out.sum().backward()
    return {{"output": out, "grad_x": i.x.grad}}


def subject(i):
    # Use the installed package here, untouched.
    return (yield from step(i, lambda x: x @ i.weight.t()))


def reference(i):
    # Use repros.reference here: the fixed implementation.
    return (yield from step(i, lambda x: x @ i.weight.t()))


def planted(i):
    # The reference with the reported bug put in on purpose.
    return (yield from step(i, lambda x: (x * 1.0).square().sqrt().copysign(x) @ i.weight.t()))
'''


def register(add: Add) -> None:
    """Add the command to the command line."""
    new = add("new", cmd_new, "start a case file: new PACKAGE NUMBER SLUG")
    new.add_argument("package", choices=["bitsandbytes", "transformers"])
    new.add_argument("number", type=whole(0, 10**9))
    new.add_argument("slug")


def cmd_new(arguments: argparse.Namespace, console: Console) -> int:
    """Write a case file to start from."""
    path = write_case(arguments.package, arguments.number, arguments.slug)
    console.print(
        f"wrote {results.shown(path)}; next: fill in the claim, then `python -m repros run {path.stem}`", markup=False
    )
    return EXIT_AS_EXPECTED


def write_case(package: str, number: int, slug: str, root: Path = CASES) -> Path:
    """Write the file and return its path; never over another."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,99}", slug):
        raise UserError(f"new: `{slug}` is no slug", "write lower-case words joined by underscores, e.g. `scale_lost`")
    if number < 1:
        raise UserError(f"new: `{number}` is no number of an issue", "write the number of the upstream report")
    path = root / package / f"gh{number}_{slug}.py"
    try:
        files.create(path, TEMPLATE.format(package=package, number=number))
    except FileExistsError:
        raise UserError(f"new: {path.name} is there already", "choose another slug, or edit that file") from None
    return path
