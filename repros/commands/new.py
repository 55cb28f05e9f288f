"""``new``: the folder of a report and a case file to start from, which says what is to be filled in."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from rich.console import Console

from repros import ROOT, files
from repros.case import PACKAGES
from repros.commands.arguments import EXIT_AS_EXPECTED, Add, whole
from repros.errors import UserError
from repros.report import onefile
from repros.run import results

CASES = ROOT / "repros" / "cases"
KINDS = {
    "memory": "bytes against a formula",
    "numbers": "an error against a float64 oracle",
    "exception": "the reported message is the symptom",
}


def register(add: Add) -> None:
    """Add the command to the command line."""
    new = add("new", cmd_new, "start a case: new PACKAGE NUMBER NAME --kind memory|numbers|exception")
    new.add_argument("package", choices=PACKAGES, help="the package that the report is on")
    new.add_argument("number", type=whole(0, 10**9), help="the report's number")
    new.add_argument("name", help="of the case file, by its mechanism: lower-case words joined by underscores")
    new.add_argument(
        "--kind", choices=KINDS, required=True, help="; ".join(f"{name}: {text}" for name, text in KINDS.items())
    )


def cmd_new(arguments: argparse.Namespace, console: Console) -> int:
    """Write a case file to start from."""
    path = write_case(arguments.package, arguments.number, arguments.name, arguments.kind)
    console.print(
        f"wrote {results.shown(path)}; next: fill in each `...`, then `python -m repros run gh{arguments.number}`",
        markup=False,
    )
    return EXIT_AS_EXPECTED


def write_case(package: str, number: int, name: str, kind: str, root: Path = CASES) -> Path:
    """Write the file, and what of its folder is missing; never over another. Return its path."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,99}", name):
        what = f"new: `{name}` is not a valid name"
        raise UserError(what, "write lower-case words joined by underscores, e.g. `scale_lost`")
    if number < 1:
        raise UserError(f"new: `{number}` is not the number of a report", "write the upstream issue's number")
    folder = root / package / f"gh{number}"
    path = folder / f"{name}.py"
    folder.mkdir(parents=True, exist_ok=True)
    text = onefile.template(f"case_{kind}.py.j2").render(report=f"{package}#{number}")
    try:
        files.create(path, text)
    except FileExistsError:
        where = f"{folder.name}/{path.name}"
        raise UserError(f"new: {where} exists already", "choose another name, or edit that file") from None
    for place, says in ((folder.parent, f"Reports on {package}."), (folder, f"{package}#{number}.")):
        if not (place / "__init__.py").exists():
            files.create(place / "__init__.py", f'"""{says}"""\n')
    return path
