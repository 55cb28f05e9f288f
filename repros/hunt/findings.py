"""What a hunt found, as it is kept: ``findings.json``. Pages, cases and scripts are made from it alone."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repros import REPORTS, ROOT, cases
from repros.case import PACKAGES
from repros.cells.overrides import is_version
from repros.errors import UserError, nearest, shortened
from repros.files import Folder
from repros.hunt import write
from repros.hunt.known import number_of
from repros.hunt.life import SPEC, STEPS, Departure, Life
from repros.hunt.search import Finding
from repros.run.folders import shown
from repros.run.schema import Hunted, document

FILE = "findings.json"
MAKE, RUN = ("python", "-m", "repros", "findings"), ("python", "-m", "repros", "run")
AGAIN = "hunt again with `python -m repros hunt`, or take the file from git"


def as_json(findings: Sequence[Finding], about: Mapping[str, Any]) -> str:
    """Return the results file of a hunt. ``about["pins"]``: cell -> package -> version."""
    found = [
        {
            "life": f.life.to_json(), "what": f.departure.what, "at": f.departure.at, "detail": f.departure.detail,
            "number": number_of(f.life, f.departure), "lives": f.lives, "seconds": f.seconds,
            "confirmed": f.confirmed, "cells": f.cells, "slug": f.slug,
        }
        for f in findings
    ]  # fmt: skip
    return json.dumps({**about, "findings": found}, indent=1) + "\n"


@dataclass(frozen=True)
class Kept:
    """A hunt as it was read from its folder."""

    folder: Path
    findings: tuple[Finding, ...]
    about: Mapping[str, Any]

    def named(self, slugs: Sequence[str]) -> list[Finding]:
        """Return the findings of these slugs, or all; UserError with the nearest for one that is not there."""
        among = {finding.slug: finding for finding in self.findings}
        if not among:
            raise UserError(f"{shown(self.folder)}: this hunt found nothing", "hunt for longer, or in another cell")
        what = f"finding of {shown(self.folder)}"
        return [cases.choose(slug, among, what) for slug in dict.fromkeys(slugs)] or list(self.findings)

    def page(self) -> str:
        """Return the page of the hunt."""
        place = called(self.folder)
        cases_to = shown(place_of_cases(self.folder))
        make = shlex.join([*MAKE, place])
        commands = {
            f.slug: (
                shlex.join([*MAKE, place, f.slug, "--script"]),
                shlex.join([*RUN, f"{cases_to}/{f.slug}.py", "--cell", self.about["cell"]]),
            )
            for f in self.findings
        }
        return write.page(self.findings, self.about, make, cases_to, commands)

    def script(self, finding: Finding) -> str:
        """Return a script of one file."""
        return write.script_text(finding, self.about["pins"][self.about["cell"]])

    def case(self, finding: Finding) -> str:
        """Return a case file whose windows name this hunt; UserError where none could: it lies outside the project."""
        if not self.folder.resolve().is_relative_to(ROOT):
            what = f"{self.folder}: not below {ROOT}, so no case can name it as its source"
            raise UserError(what, "copy the hunt below reports/runs/")
        return write.case_text(finding, shown(self.folder), self.about["cell"], self.about["pins"])


def load(folder: Path) -> Kept:
    """Read the hunt in a folder; UserError where it is none, or where a finding is not one that a hunt can make."""
    path = folder / FILE
    if not path.is_file():
        hunts = [shown(one.parent) for one in sorted(REPORTS.glob(f"*/*/{FILE}"))]
        hint = nearest(shown(folder), hunts) if hunts else "make one: `python -m repros hunt --cell CELL --out DIR`"
        raise UserError(f"{shown(folder)}: not the folder of a hunt: it has no `{FILE}`", hint)
    about = document(path, Hunted, AGAIN)
    rows = about.pop("findings")
    for at, row in enumerate(rows):
        if unknown := _unknown(row["life"]):
            raise UserError(f"{shown(path)}: findings[{at}].life: {unknown}", AGAIN)
        if row["number"] and not 0 < row["number"] < 10**9:
            raise UserError(f"{shown(path)}: findings[{at}].number: `{row['number']}`", AGAIN)
    _check_pins(path, about, {cell for row in rows for cell, said in row["cells"].items() if said == row["what"]})
    return Kept(folder, tuple(map(_finding, rows)), about)


def _finding(row: Mapping[str, Any]) -> Finding:
    departure = Departure(row["what"], row["at"], row["detail"])
    life = Life.from_json(row["life"])
    return Finding(life, departure, row["lives"], row["seconds"], row["confirmed"], dict(row["cells"]))


def _unknown(life: Mapping[str, Any]) -> str:
    """Say what of a life there is not. Scripts and cases are made of these words, so none may be a stranger's."""
    for name, value in life["spec"].items():
        if value not in SPEC.get(name, ()):
            return f"no layer has `{shortened(f'{name}={value}')}`"
    for name, parameters in life["steps"]:
        if name not in STEPS:
            return f"no step `{shortened(name)}`"
        for key, value in parameters.items():
            if value not in STEPS[name].get(key, ()):
                return f"no step `{shortened(f'{name}({key}={value})')}`"
    return ""


def _check_pins(path: Path, about: Mapping[str, Any], seen: set[str]) -> None:
    """Refuse pins that no cell can have, and a cell without pins that a window or a script is made of."""
    for cell, pins in about["pins"].items():
        for package, version in pins.items():
            if package not in PACKAGES or not is_version(version):
                what = f"pins of {shortened(cell)}: `{shortened(f'{package}=={version}')}` is not a pin"
                raise UserError(f"{shown(path)}: {what}", AGAIN)
    for cell in sorted({about["cell"], *seen} - about["pins"].keys()):
        raise UserError(f"{shown(path)}: no pins of {shortened(cell)}", AGAIN)


# --- what is made from it --------------------------------------------------------------------------


def place_of_cases(folder: Path) -> Path:
    """Return where the cases of a hunt go if nobody says: a folder that git ignores and a cell can import from."""
    return REPORTS / "runs" / re.sub(r"\W", "_", f"findings_{folder.resolve().name}", flags=re.ASCII)


def write_cases(kept: Kept, slugs: Sequence[str], out: Path, *, force: bool = False) -> list[Path]:
    """Write the named findings, or all, as case files; UserError for a folder from which a cell cannot import."""
    folder = Folder(out, "findings", force=force)
    findings = kept.named(slugs)
    for finding in findings:
        cases.module_of(out / f"{finding.slug}.py")
    with folder:
        for finding in findings:
            folder.write(f"{finding.slug}.py", kept.case(finding))
    return [out / f"{finding.slug}.py" for finding in findings]


def called(folder: Path) -> str:
    """Return how a page calls its folder; one outside the project by its name, for a page does not tell whose it is."""
    return shown(folder) if folder.resolve().is_relative_to(ROOT) else folder.name
