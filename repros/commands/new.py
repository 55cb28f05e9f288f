"""``new``: the folder of a report and a case file to start from, which says what is to be filled in."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from repros import ROOT, files
from repros.case import PACKAGES
from repros.commands.arguments import EXIT_AS_EXPECTED, Add, need_checkout, whole
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
    new.add_argument("--from", dest="script", type=Path, metavar="SCRIPT", help="a script that becomes its witness")
    new.add_argument(
        "--bisection", type=Path, metavar="DIR", help="folder of a bisection of that script: its windows are recorded"
    )


def cmd_new(arguments: argparse.Namespace, console: Console) -> int:
    """Write a case file to start from."""
    need_checkout("new")
    if arguments.bisection and not arguments.script:
        raise UserError("new: `--bisection` without a script", "name the script that was bisected: `--from SCRIPT`")
    start = started(arguments.script, arguments.bisection) if arguments.script else None
    path = write_case(arguments.package, arguments.number, arguments.name, arguments.kind, start=start)
    console.print(
        f"wrote {results.shown(path)}; next: fill in each `...`, then `python -m repros run gh{arguments.number}`",
        markup=False,
        soft_wrap=True,
    )
    return EXIT_AS_EXPECTED


@dataclass(frozen=True)
class Start:
    """What a case is made of: a script, and in which releases a bisection found it bad (None where there was none)."""

    script: str
    walked: str = ""
    windows: Sequence[str] | None = None
    source: str = ""


def started(script: Path, bisection: Path | None) -> Start:
    """Read a script, and the bisection that was made of it; UserError where either cannot be."""
    from repros.bisect import committed

    try:
        text = script.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        says = getattr(error, "strerror", None) or "not a text in UTF-8"
        raise UserError(f"{script}: {says}", "name a script in Python") from error
    if bisection is None:
        return Start(text)
    if not bisection.resolve().is_relative_to(ROOT):
        what = f"{bisection}: not below this project, so no record can name it as its source"
        raise UserError(what, "keep it: `python -m repros bisect … --commit-to reports/bisect/NAME`")
    return Start(text, *committed.windows(bisection), results.shown(bisection))


def scaffold(report: str, kind: str, start: Mapping[str, Any] | None = None) -> str:
    """Return a case file that is to be filled in; ``start`` names its witness, and windows with their source."""
    values = {"witness": "", "windows": None, **(start or {})}
    return onefile.template(f"case_{kind}.py.j2").render(report=report, **values)


def write_case(
    package: str, number: int, name: str, kind: str, root: Path = CASES, *, start: Start | None = None
) -> Path:
    """Write the file, and what of its folder is missing; never over another. Return its path.

    The script of a ``start`` becomes the report's witness, ``minimal.py``; that of this mechanism where there is one.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,99}", name):
        what = f"new: `{name}` is not a valid name"
        raise UserError(what, "write lower-case words joined by underscores, e.g. `scale_lost`")
    if number < 1:
        raise UserError(f"new: `{number}` is not the number of a report", "write the upstream issue's number")
    folder = root / package / f"gh{number}"
    path = folder / f"{name}.py"
    folder.mkdir(parents=True, exist_ok=True)
    witness = f"minimal_{name}.py" if (folder / "minimal.py").exists() else "minimal.py"
    text = scaffold(f"{package}#{number}", kind, asdict(start) | {"witness": witness} if start else {})
    for file, content in ((path, text), *([(folder / witness, start.script)] if start else [])):
        try:
            files.create(file, content)
        except FileExistsError:
            where = f"{folder.name}/{file.name}"
            raise UserError(f"new: {where} exists already", "choose another name, or edit that file") from None
    for place, says in ((folder.parent, f"Reports on {package}."), (folder, f"{package}#{number}.")):
        if not (place / "__init__.py").exists():
            files.create(place / "__init__.py", f'"""{says}"""\n')
    return path
