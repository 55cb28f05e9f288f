"""A case file on its way in: imported, and what it has at its top level looked at.

Standard library alone: the process that reads a stranger's case file has no more. A contributor's mistake is told with
file and line.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import io
import re
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType

from repros import case as declarations
from repros.case import ARMS, Case, DeclarationError, place_of
from repros.errors import UserError, shortened

#: The functions that a case file may have, beside those of its remedies.
FUNCTIONS = (*ARMS, "inputs", "oracle")
#: Seconds that a declaration may take; all of the suite's take less than one.
PATIENCE_S = 8.0
DECLARES = "a case file declares and does nothing else: sizes, `CASE`, arms"
#: What a user can do about an exception at import.
HINTS: tuple[tuple[type[BaseException], str], ...] = (
    (SyntaxError, "fix the syntax there"),
    (ImportError, "import inside the arms what only they need; a case file is read with the standard library alone"),
    (RecursionError, "nest less there"),
    (BaseException, DECLARES),
)


class TooSlowError(BaseException):
    """A case file did not come to its end; not an Exception, so that no `except` of the file's takes it."""


def imported(name: str) -> ModuleType:
    """Import a case file; UserError with file and line where it raises, exits, prints or does not end."""
    if name in sys.modules:
        return sys.modules[name]
    file = Path(*name.split(".")).with_suffix(".py")
    printed = io.StringIO()
    try:
        with _patience(), contextlib.redirect_stdout(printed):
            spec = importlib.util.find_spec(name)
            file = Path(spec.origin) if spec and spec.origin else file
            module = importlib.import_module(name)
    except (KeyboardInterrupt, DeclarationError):
        raise
    except BaseException as error:  # noqa: BLE001 - a contributor's file may raise anything
        raise told(error, file) from None
    if not isinstance(module, ModuleType) or module.__name__ != name:
        raise DeclarationError(f"{place_of(file, 1)}: it puts something else in its own place", DECLARES)
    if printed.getvalue():
        what = f"{place_of(file, _line_of(file, 'print('))}: it prints `{shortened(printed.getvalue().strip())}`"
        raise DeclarationError(what, DECLARES)
    return module


def told(error: BaseException, file: Path) -> DeclarationError:
    """Say an exception of a case file in two lines."""
    hint = next(hint for kind, hint in HINTS if isinstance(error, kind))
    if isinstance(error, SyntaxError) and error.filename:
        return DeclarationError(f"{place_of(Path(error.filename), error.lineno or 1)}: {error.msg}", hint)
    unknown = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", _text(error))
    if unknown and (fields := getattr(getattr(declarations, unknown[1], None), "__dataclass_fields__", None)):
        near = difflib.get_close_matches(unknown[2], fields, n=1) or [", ".join(fields)]
        hint = f"{unknown[1]} takes {near[0]}"
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == str(file)]
    place = place_of(file, lines[-1] if lines else 1)
    if isinstance(error, TooSlowError):
        return DeclarationError(f"{place}: still busy after {PATIENCE_S:g} s", hint)
    if isinstance(error, UserError):
        return DeclarationError(f"{place}: {error.what}", error.hint)
    return DeclarationError(f"{place}: {type(error).__name__}: {shortened(_text(error), 300)}", hint)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an exception of a contributor's class
        return "it has no text"


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Raise TooSlowError in a block that takes too long, where this thread can be told (the main one)."""
    if threading.current_thread() is not threading.main_thread() or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _line_of(file: Path, text: str) -> int:
    """Return the first line that holds a text, else 1."""
    with contextlib.suppress(OSError, ValueError):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if text in line:
                return number
    return 1


@dataclass(frozen=True)
class Contents:
    """What a case file has at its top level."""

    module: str
    file: Path
    case: Case | None
    kind: str
    """The type of what stands in the place of a case; empty where nothing does."""
    doc: str | None
    has: Mapping[str, str]
    """Function -> empty, or the type of what is called so and is none."""


def functions(case: Case | None) -> tuple[str, ...]:
    """Return the functions that the file of a case may have."""
    remedies = [one.arm for c in case.conditions for one in c.remedies if one.arm] if case else []
    return (*FUNCTIONS, *dict.fromkeys(remedies))


def look(module: ModuleType) -> Contents:
    """Look at an imported case file; nothing of it is checked."""
    case, doc = getattr(module, "CASE", None), module.__doc__
    found = {name: getattr(module, name, None) for name in functions(case if isinstance(case, Case) else None)}
    return Contents(
        module.__name__,
        Path(str(getattr(module, "__file__", None) or module.__name__)),
        case if isinstance(case, Case) else None,
        "" if case is None else type(case).__name__,
        doc if isinstance(doc, str) else None,
        {name: "" if callable(one) else type(one).__name__ for name, one in found.items() if one is not None},
    )
