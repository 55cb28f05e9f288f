"""``hunt``, ``findings``, ``peer``: the installed package and the reference, held against each other."""

from __future__ import annotations

import argparse
import json
import re
import sys

from rich.console import Console

from repros import ROOT, files
from repros.cells.envs import ensure
from repros.cells.matrix import Cell, chosen_cells, load_matrix
from repros.commands.arguments import (
    EXIT_AS_EXPECTED,
    EXIT_FAULT,
    MATRIX,
    Add,
    a_file,
    a_folder,
    add_force,
    number,
    whole,
)
from repros.errors import UserError
from repros.evidence import peer
from repros.run import results


def register(add: Add) -> None:
    """Add the command to the command line."""
    hunted = add("hunt", cmd_hunt, "hunt for departures of the installed package from the reference")
    hunted.add_argument("--cell", action="append", required=True, help="the cell to hunt in")
    hunted.add_argument("--minutes", type=number(0, 60 * 24 * 7), default=10.0)
    hunted.add_argument("--seed", type=whole(0, 2**63 - 1), default=0, help="of the lives that are made")
    hunted.add_argument("--hide-known", action="store_true", help="put the list of known departures away")
    hunted.add_argument("--tier", default="cpu", help="the cells of the table (default: cpu)")
    hunted.add_argument("--out", type=a_folder, help="folder of page and findings (default: below reports/runs/)")
    found = add("findings", cmd_findings, "make cases, a script or the page from what a hunt found")
    found.add_argument("hunt", type=a_folder, metavar="HUNT", help="folder of a hunt, e.g. reports/hunt/NAME")
    found.add_argument("finding", nargs="*", metavar="FINDING", help="names of findings (default: all)")
    made = found.add_mutually_exclusive_group()
    made.add_argument("--script", action="store_true", help="print one finding's script, which needs no repros")
    made.add_argument("--page", action="store_true", help="write the hunt's README.md anew")
    made.add_argument("--out", type=a_folder, metavar="DIR",
                      help="folder of the cases, below this project (default: below reports/runs/)")  # fmt: skip
    tests = add("peer", cmd_peer, "try the reference by bitsandbytes' own tests, in the place of its kernels")
    tests.add_argument("--repo", type=a_folder, required=True, metavar="PATH", help="a clone that stands at a release")
    tests.add_argument("--cell", help="the cell to try it in (default: the newest of that release without a GPU)")
    tests.add_argument("--with", action="append", default=[], dest="overrides", metavar="PACKAGE=SPEC",
                     help="a version in place of a cell's pin")  # fmt: skip
    tests.add_argument("--device", choices=("cpu", "cuda"), help="where the tests run (default: where the cell's do)")
    tests.add_argument("--file", action="append", choices=peer.FILES, help="a file of tests (default: all of these)")
    tests.add_argument("--out", type=a_file, metavar="FILE", help="keep what was found as JSON")
    add_force(hunted, found, tests)


def cmd_hunt(arguments: argparse.Namespace, console: Console) -> int:
    """Hunt, and write down what was found."""
    from repros.hunt.command import hunt

    matrix = load_matrix(MATRIX)
    (cell,) = chosen_cells(matrix, None, arguments.cell[-1:], [])
    stem = re.sub(r"\W", "_", f"hunt_{cell.label}")
    out = arguments.out or results.REPORTS / "runs" / stem
    options = {"seed": arguments.seed, "hide_known": arguments.hide_known, "force": arguments.force}
    others = matrix.tier(arguments.tier)
    found, faults = hunt(cell, others, arguments.minutes, out, say=lambda t: console.print(t, markup=False), **options)
    console.print(f"{len(found)} departures: {results.shown(out / 'README.md')}", markup=False)
    for life, text in faults.items():
        print(f"hunt: {life}: {text}\nhint: fix repros/reference, or the hunt's oracle", file=sys.stderr)
    return EXIT_FAULT if faults else EXIT_AS_EXPECTED


def cmd_findings(arguments: argparse.Namespace, console: Console) -> int:
    """Write cases or a page, or print a script, of what was found."""
    from repros.hunt import findings

    kept = findings.load(arguments.hunt)
    if arguments.page and arguments.finding:
        raise UserError("--page: it is of all findings of a hunt", "leave their names out")
    if arguments.script:
        chosen = kept.named(arguments.finding)
        if len(chosen) != 1:
            what = f"--script: it prints the script of one finding, not of {len(chosen)}"
            raise UserError(what, f"name one, e.g. {chosen[0].slug}")
        print(kept.script(chosen[0]), end="")
    elif arguments.page:
        with files.Folder(arguments.hunt, "hunt", force=arguments.force) as out:
            out.write("README.md", kept.page())
        print(f"wrote {results.shown(arguments.hunt / 'README.md')}")
    else:
        place = arguments.out or findings.place_of_cases(arguments.hunt)
        made = findings.write_cases(kept, arguments.finding, place, force=arguments.force)
        print(f"{len(made)} cases in {results.shown(place)}; next:")
        print(f"python -m repros run {results.shown(made[0])} --cell {kept.about['cell']}")
    return EXIT_AS_EXPECTED


def cmd_peer(arguments: argparse.Namespace, console: Console) -> int:
    """Run the tests, print what differs, keep it."""
    if arguments.out:
        files.check(arguments.out, force=arguments.force)
    clone = peer.peer(arguments.repo)
    cell = _cell(clone, arguments.cell, arguments.overrides)
    environment = ensure(cell, root=ROOT, progress=lambda line: console.print(line, markup=False))
    device = arguments.device or cell.device
    found = peer.tried(clone, environment, device, arguments.file or peer.FILES)
    console.print(f"bitsandbytes {clone.release} in {cell.label}, {device}, {found['seconds']:.0f} s", markup=False)
    for line in peer.told(found):
        console.print(f"  {line}", markup=False)
    if arguments.out:
        files.put(arguments.out, json.dumps({"": files.UNSIGNED, **found}, indent=1) + "\n", force=arguments.force)
        console.print(f"wrote {results.shown(arguments.out)}", markup=False)
    return EXIT_AS_EXPECTED if peer.holds(found) else 1


def _cell(clone: peer.Peer, name: str | None, overrides: list[str]) -> Cell:
    """Return the cell to try a release in; UserError where its bitsandbytes is another."""
    matrix = load_matrix(MATRIX)
    own = [cell for cell in matrix.tier("cpu") if cell.pins["bitsandbytes"] == clone.release]
    if not name and not own:
        what = f"{clone.path}: no cell has bitsandbytes {clone.release}"
        raise UserError(what, f"lay it over one: `--cell NAME --with bitsandbytes={clone.release}`")
    (cell,) = chosen_cells(matrix, None, [name or own[-1].name], overrides)
    if cell.pins["bitsandbytes"] != clone.release:
        what = f"--cell {cell.name}: it has bitsandbytes {cell.pins['bitsandbytes']}, the tests are of {clone.release}"
        raise UserError(what, f"add `--with bitsandbytes={clone.release}`")
    return cell
