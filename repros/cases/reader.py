"""The process that imports a stranger's case file: it answers with what the file declares, in one line of JSON.

It has the standard library and this project, no packages. Its answer is what its stdout was when it started; what the
file itself prints goes nowhere.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from repros.case import DeclarationError, place_of
from repros.cases import importing
from repros.cases.data import data_of
from repros.worker.arm import end_with_parent, limit_memory

#: What a declaration may take beside the interpreter; all of the suite's together take less than a tenth.
MEMORY_BYTES = 1 << 30


def main() -> None:
    """Read a case file: ``python -c … ROOT MODULE FILE PATIENCE_S``."""
    module, file, patience = sys.argv[2:]
    end_with_parent()
    importing.PATIENCE_S = float(patience)
    answer, nowhere = os.dup(1), os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    limit_memory(MEMORY_BYTES)
    with open(answer, "w", encoding="ascii") as out:
        out.write(_answer(module, Path(file)))
    os._exit(0)  # what the file left to be done at exit is not done


def _answer(module: str, file: Path) -> str:
    try:
        found = importing.look(importing.imported(module))
        if found.file != file:
            what = f"{place_of(file, 1)}: Python imports {found.file} in its place"
            raise DeclarationError(what, "rename one of the two")
        return _said(data_of(found))
    except DeclarationError as error:
        return _said({"error": [error.what, error.hint]})
    except BaseException as error:  # noqa: BLE001 - a stranger's objects may raise anything
        refused = importing.told(error, file)
        return _said({"error": [refused.what, refused.hint]})


def _said(answer: dict[str, Any]) -> str:
    return json.dumps(answer, separators=(",", ":"))
