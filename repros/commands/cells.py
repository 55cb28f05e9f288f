"""``cells``, ``doctor``, ``env``, ``lock``, ``wheelhouse``: where trials run, and what they run on."""

from __future__ import annotations

import argparse
import sys

from rich import box
from rich.console import Console
from rich.table import Table

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
from repros.run import results
from repros.run.trial import Trial


def register(add: Add) -> None:
    """Add the commands to the command line."""
    cells = add("cells", cmd_cells, "list cells, tiers and excludes with their reasons")
    cells.add_argument("--tier")
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
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("cell", "tiers", "device", "torch", "transformers", "bitsandbytes", "note"):
        table.add_column(name)
    for cell in matrix.tier(arguments.tier) if arguments.tier else matrix.cells:
        pins = (cell.pins[name] for name in ("torch", "transformers", "bitsandbytes"))
        table.add_row(cell.name, " ".join(cell.tiers), cell.device, *pins, cell.note)
    console.print(table)
    for exclude in matrix.excludes:
        console.print(f"excluded: {exclude}: {exclude.reason}", markup=False)
    return EXIT_AS_EXPECTED


def cmd_doctor(arguments: argparse.Namespace, console: Console) -> int:
    """Say what this machine can run."""
    facts = probe_host()
    for name, value in facts.as_json().items():
        text = (
            f"{value / (1 << 30):.1f} GiB"
            if name.endswith("_bytes")
            else (", ".join(value) if isinstance(value, list) else value)
        )
        console.print(
            f"{name.removesuffix('_bytes').replace('_', ' '):>15}: {text if text != '' else 'none'}", markup=False
        )
    matrix = load_matrix(MATRIX)
    trials = [(e, c) for e in cases.find() for c in e.case.conditions]
    for cell in matrix.tier(arguments.tier) if arguments.tier else matrix.cells:
        if cell.device == "cuda" and not facts.gpu_kind:
            console.print(f"{cell.name}: cannot run: it needs a GPU and this machine has none", markup=False)
            continue
        missing: dict[str, int] = {}
        for e, c in trials:
            why = Trial(e, c, cell.name).missing(dict(cell.pins))
            if why:
                missing[why] = missing.get(why, 0) + 1
        able = len(trials) - sum(missing.values())
        console.print(f"{cell.name}: {able} of {len(trials)} trials can run", markup=False)
        for why, count in missing.items():
            console.print(f"    {count} cannot: {why}", markup=False)
    return EXIT_AS_EXPECTED


def cmd_env(arguments: argparse.Namespace, console: Console) -> int:
    """Build environments."""
    from repros.cells.envs import ensure

    say = terminal.console(stderr=True).print
    for cell in cells_of(arguments):
        found = ensure(cell, root=ROOT, progress=lambda text: say(text, markup=False))
        how = f"{'warm' if found.warm else 'built'}, {found.seconds:.1f} s, torch build: {found.build}"
        console.print(str(found.python) if arguments.quiet else f"{cell.label}: {found.python} ({how})", markup=False)
    return EXIT_AS_EXPECTED


def cmd_wheelhouse(arguments: argparse.Namespace, console: Console) -> int:
    """Gather wheels."""
    from repros.cells.wheelhouse import gather

    cells = load_matrix(MATRIX).tier(arguments.tier)
    wheels = gather(cells, arguments.out, python=arguments.python, slim=arguments.slim, force=arguments.force,
                    say=lambda text: console.print(text, markup=False))  # fmt: skip
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
