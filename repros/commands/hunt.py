"""``hunt``: look for departures of the installed package from the reference."""

from __future__ import annotations

import argparse
import re
import sys

from rich.console import Console

from repros import ROOT
from repros.cells.matrix import chosen_cells, load_matrix
from repros.commands.arguments import (
    EXIT_AS_EXPECTED,
    EXIT_FAULT,
    MATRIX,
    Add,
    a_folder,
    add_force,
    number,
    whole,
)
from repros.run import results


def register(add: Add) -> None:
    """Add the command to the command line."""
    hunted = add("hunt", cmd_hunt, "hunt for departures of the installed package from the reference")
    hunted.add_argument("--cell", action="append", required=True, help="the cell to hunt in")
    hunted.add_argument("--minutes", type=number(0, 60 * 24 * 7), default=10.0)
    hunted.add_argument("--seed", type=whole(0, 2**63 - 1), default=0, help="of the lives that are made")
    hunted.add_argument("--hide-known", action="store_true", help="put the list of known departures away")
    hunted.add_argument("--tier", default="cpu", help="the cells of the table (default: cpu)")
    hunted.add_argument("--out", type=a_folder, help="folder of page, cases and scripts (default: below reports/runs/)")
    add_force(hunted)


def cmd_hunt(arguments: argparse.Namespace, console: Console) -> int:
    """Hunt, and write down what was found."""
    from repros.hunt.command import hunt

    matrix = load_matrix(MATRIX)
    (cell,) = chosen_cells(matrix, None, arguments.cell[-1:], [])
    stem = re.sub(r"\W", "_", f"hunt_{cell.label}")
    out = arguments.out or ROOT / "reports" / "runs" / stem
    options = {"seed": arguments.seed, "hide_known": arguments.hide_known, "force": arguments.force}
    others = matrix.tier(arguments.tier)
    found, faults = hunt(cell, others, arguments.minutes, out, say=lambda t: console.print(t, markup=False), **options)
    console.print(f"{len(found)} departures: {results.shown(out / 'README.md')}", markup=False)
    for life, text in faults.items():
        print(f"hunt: {life}: {text}\nhint: mend repros/reference, or the hunt's oracle", file=sys.stderr)
    return EXIT_FAULT if faults else EXIT_AS_EXPECTED
