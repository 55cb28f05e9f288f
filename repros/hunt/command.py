"""``python -m repros hunt``: hunt in a cell, look at the other cells, write down what was found."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from repros import ROOT
from repros.cells.envs import EnvError, ensure
from repros.cells.matrix import Cell
from repros.files import Folder
from repros.hunt.findings import FILE, Kept, as_json
from repros.hunt.known import KNOWN
from repros.hunt.search import FaultOfReferenceError, Finding, Hunt
from repros.machine.host import probe_host
from repros.machine.workdir import WorkFolder
from repros.run.server import Clock
from repros.run.session import ReadyCell

PINS = ("torch", "transformers", "bitsandbytes", "accelerate", "peft")


def hunt(
    cell: Cell,
    others: Sequence[Cell],
    minutes: float,
    out: Path,
    *,
    seed: int = 0,
    hide_known: bool = False,
    force: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[list[Finding], dict[str, str]]:
    """Hunt and write ``README.md`` and ``findings.json`` below ``out``.

    Return the findings and the faults: lives in which the reference departed from its own oracle.
    """
    written = Folder(out, "hunt", force=force, prune=True)  # it is refused before the hunt, not after it
    work = WorkFolder("hunt")
    logs = work.path
    place = ReadyCell(ensure(cell, root=ROOT, progress=say), Clock())
    began = time.monotonic()
    try:
        place.server.start()
        search = Hunt(place, logs, minutes, () if hide_known else KNOWN, seed, say)
        began = time.monotonic()
        findings = search.run()
        seconds = time.monotonic() - began
        search.confirm()
        pins = {cell.label: pinned(place)}
        for other in others if findings else ():
            look(other, findings, logs, pins, say, place if other.label == cell.label else None)
    finally:
        place.server.close()
        work.close()
    host = probe_host().as_json()
    command = f"python -m repros hunt --cell {cell.label} --minutes {minutes:g} --seed {seed}"
    about: dict[str, Any] = {
        "cell": cell.label, "pins": pins, "date": time.strftime("%Y-%m-%d"), "minutes": minutes,
        "seed": seed, "hidden": hide_known, "lives": search.lives, "seconds": round(seconds, 1),
        "unsupported": search.unsupported, "met": search.known_met, "faults": search.faults, "cores": host.get("cores"),
        "cpu_model": host.get("cpu_model"), "command": command + (" --hide-known" if hide_known else ""),
    }  # fmt: skip
    with written:
        written.write("README.md", Kept(out, tuple(findings), about).page())
        written.write(FILE, as_json(findings, about))
    return findings, search.faults


def pinned(place: ReadyCell) -> dict[str, str]:
    """Return the versions that a script names."""
    return {name: place.versions[name] for name in PINS if place.versions.get(name)}


def look(
    cell: Cell,
    findings: Sequence[Finding],
    logs: Path,
    pins: dict[str, dict[str, str]],
    say: Callable[[str], None],
    ready: ReadyCell | None,
) -> None:
    """Lead each finding's life in another cell and note what came of it."""
    say(f"looking in {cell.label}")
    try:
        place = ready or ReadyCell(ensure(cell, root=ROOT, progress=say), Clock())
    except EnvError as error:
        for finding in findings:
            finding.cells[cell.label] = f"unsupported: {error.what}"
        return
    pins[cell.label] = pinned(place)
    try:
        for finding in findings:
            search = Hunt(place, logs, 5, ())
            try:
                found = search.lead(finding.life)
                what = "unsupported" if search.unsupported else "as the reference"
                finding.cells[cell.label] = found.what if found else what
            except FaultOfReferenceError as error:
                finding.cells[cell.label] = f"inconclusive: {error}"
    finally:
        if ready is None:
            place.server.close()
