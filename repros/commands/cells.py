"""``cells``, ``doctor``, ``env``, ``lock``, ``wheelhouse``: where trials run, and what they run on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from rich.console import Console

from repros import ROOT, cases
from repros.cells.matrix import load_matrix
from repros.commands.arguments import (
    EXIT_AS_EXPECTED,
    MATRIX,
    Add,
    a_folder,
    add_cell_options,
    add_force,
    cells_of,
    need_checkout,
    python_version,
)
from repros.machine.host import probe_host
from repros.report import terminal
from repros.report.terminal import layout
from repros.report.terminal.layout import Column
from repros.requirements import demand
from repros.run import results
from repros.run.trial import Trial

#: Why no trial of a cell with a card can run.
NO_GPU = "it needs a GPU and this machine has none"


def register(add: Add) -> None:
    """Add the commands to the command line."""
    cells = add("cells", cmd_cells, "list cells, tiers and excludes with their reasons")
    cells.add_argument("--tier")
    cells.add_argument("--names", action="store_true", help="print their names and nothing else")
    doctor = add("doctor", cmd_doctor, "say what can run on this machine, and why the rest cannot")
    doctor.add_argument("--tier", help="only the cells of this tier")
    env = add("env", cmd_env, "build the environments of cells and print their interpreters")
    add_cell_options(env)
    env.add_argument("--quiet", action="store_true", help="print the interpreters and nothing else")
    house = add("wheelhouse", cmd_wheelhouse, "gather the wheels of a tier for a machine without a network")
    house.add_argument("--tier", default="gpu")
    house.add_argument("--out", type=a_folder, required=True, metavar="DIR")
    house.add_argument(
        "--python", type=python_version, default=f"{sys.version_info[0]}.{sys.version_info[1]}", help="of that machine"
    )
    house.add_argument(
        "--slim", default="", metavar="CUDA", help="keep one CUDA's library of bitsandbytes, e.g. cuda130"
    )
    locks = add("lock", cmd_lock, "make the committed locks of a tier anew")
    locks.add_argument("--tier", default="cpu")
    add_force(house)


def cmd_cells(arguments: argparse.Namespace, console: Console) -> int:
    """List cells and excludes."""
    matrix = load_matrix(MATRIX)
    if arguments.names:
        for cell in matrix.tier(arguments.tier) if arguments.tier else matrix.cells:
            print(cell.name)
        return EXIT_AS_EXPECTED
    columns = [Column(name) for name in ("cell", "tiers", "torch", "transformers", "bitsandbytes")]
    rows = [
        [cell.name, " ".join(cell.tiers), *(cell.pins[column.name] for column in columns[2:]), cell.note]
        for cell in (matrix.tier(arguments.tier) if arguments.tier else matrix.cells)
    ]
    layout.table(console, [*columns, Column("note", text=True)], rows)
    for exclude in matrix.excludes:
        layout.paragraph(console, f"excluded: {exclude}: {exclude.reason}", hanging=2, most=console.width)
    return EXIT_AS_EXPECTED


def cmd_doctor(arguments: argparse.Namespace, console: Console) -> int:
    """Say what this machine can run: a line a cell, and a line a reason for what it cannot."""
    facts = probe_host()
    for name, value in facts.as_json().items():
        text = (
            f"{value / (1 << 30):.1f} GiB"
            if name.endswith("_bytes")
            else (", ".join(value) if isinstance(value, list) else str(value))
        )
        told = f"{name.removesuffix('_bytes').replace('_', ' '):>15}: {text or 'none'}"
        layout.paragraph(console, told, hanging=17, most=console.width)
    matrix = load_matrix(MATRIX)
    cells = matrix.tier(arguments.tier) if arguments.tier else matrix.cells
    trials = [(e, c) for e in cases.find() for c in e.case.conditions]
    table, reasons = [], dict[str, dict[str, int]]()
    for cell in cells:
        mine = [Trial(e, c, cell.name) for e, c in trials if c.device == cell.device]
        no_card = cell.device == "cuda" and not facts.gpu_kind
        lacking = [NO_GPU] if no_card else [why for trial in mine if (why := trial.missing(dict(cell.pins)))]
        for why in lacking:
            counts = reasons.setdefault(demand(why), {})
            counts[cell.name] = counts.get(cell.name, 0) + (len(mine) if no_card else 1)
        able = 0 if no_card else len(mine) - len(lacking)
        table.append([cell.name, f"{able} of {len(mine)}"])
    layout.table(console, [Column("cell"), Column("trials that can run here")], table)
    for why, counts in sorted(reasons.items(), key=lambda one: -sum(one[1].values())):
        layout.paragraph(console, f"{_trials(counts)} cannot run: {why}", hanging=2, most=console.width)
        if len(counts) < len(cells):
            layout.names(console, "in ", list(counts), indent=4)
    return EXIT_AS_EXPECTED


def _trials(counts: Mapping[str, int]) -> str:
    """Return in words how many trials of how many cells cannot run."""
    several = sorted(set(counts.values()))
    each = "1 trial" if several == [1] else f"{several[0]} trials"
    if len(several) > 1:
        each = f"{several[0]} to {several[-1]} trials"
    return f"{each} of {len(counts)} cell{'s' * (len(counts) > 1)}"


def cmd_env(arguments: argparse.Namespace, console: Console) -> int:
    """Build environments."""
    from repros.cells.envs import ensure

    say = terminal.console(stderr=True).print
    for cell in cells_of(arguments):
        found = ensure(cell, root=ROOT, progress=lambda text: say(text, markup=False, soft_wrap=True))
        how = f"{'warm' if found.warm else 'built'}, {found.seconds:.1f} s, torch build: {found.build}"
        told = str(found.python) if arguments.quiet else f"{cell.label}: {found.python} ({how})"
        console.print(told, markup=False, soft_wrap=True)
    return EXIT_AS_EXPECTED


def cmd_wheelhouse(arguments: argparse.Namespace, console: Console) -> int:
    """Gather wheels."""
    from repros.cells.wheelhouse import gather

    cells = load_matrix(MATRIX).tier(arguments.tier)
    wheels = gather(cells, arguments.out, python=arguments.python, slim=arguments.slim, force=arguments.force,
                    say=lambda text: console.print(text, markup=False, soft_wrap=True))  # fmt: skip
    size = sum(wheel.stat().st_size for wheel in wheels)
    console.print(f"{len(wheels)} wheels, {size / 2**20:.1f} MiB, in {results.shown(arguments.out)}", markup=False)
    return EXIT_AS_EXPECTED


def cmd_lock(arguments: argparse.Namespace, console: Console) -> int:
    """Make locks anew."""
    from repros.cells.locks import write_locks

    need_checkout("lock")
    matrix = load_matrix(MATRIX)
    for path, changed in write_locks(matrix.tier(arguments.tier), root=ROOT).items():
        console.print(f"{results.shown(path)}{' (changed)' if changed else ''}", markup=False)
    return EXIT_AS_EXPECTED
