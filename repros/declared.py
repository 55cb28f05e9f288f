"""A case file on its way in: imported, and its declaration held against what the suite knows.

`repros.case` refuses what no case can declare, wherever it is read. What is here takes the parent: version specifiers,
recipes, sources, and the file itself. A contributor's mistake is told with file and line.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib
import importlib.util
import inspect
import io
import math
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType, ModuleType

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from repros import case as declarations
from repros.case import ARMS, PACKAGES, Case, Condition, DeclarationError, Params, place_of
from repros.errors import UserError, shortened

ROOT = Path(__file__).resolve().parents[1]
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
        raise _told(error, file) from None
    if not isinstance(module, ModuleType) or module.__name__ != name:
        raise DeclarationError(f"{place_of(file, 1)}: it puts something else in its own place", DECLARES)
    if printed.getvalue():
        what = f"{place_of(file, _line_of(file, 'print('))}: it prints `{shortened(printed.getvalue().strip())}`"
        raise DeclarationError(what, DECLARES)
    return module


def _told(error: BaseException, file: Path) -> DeclarationError:
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


def check_readings(found: Mapping[str, Case]) -> None:
    """Refuse readings in other cases that there are not, or that have no such condition."""
    for case in found.values():
        for reading in (one for claim in case.claims for several in claim.readings.values() for one in several):
            if reading.case and reading.case not in found:
                near = difflib.get_close_matches(reading.case, found, n=3, cutoff=0.3) or list(found)[:5]
                raise reading.error(f"Reading.case: no case `{shortened(reading.case)}`", f"one of: {', '.join(near)}")
            if reading.case and reading.condition not in (names := [c.name for c in found[reading.case].conditions]):
                what = f"Reading.condition: `{reading.case}` has no condition `{shortened(reading.condition)}`"
                near = difflib.get_close_matches(reading.condition, names, n=3, cutoff=0.3) or names[:5]
                raise reading.error(what, f"one of: {', '.join(near)}")


# --- the declaration -----------------------------------------------------------------------------


def declaration(module: ModuleType) -> Case:
    """Return what a case module declares; UserError with file and line for what is missing or cannot be."""
    file = Path(str(getattr(module, "__file__", None) or module.__name__))
    case = getattr(module, "CASE", None)
    if not isinstance(case, Case):
        line = _defined(file, "CASE")
        what = "no `CASE`" if case is None else f"`CASE` is a {type(case).__name__}"
        raise DeclarationError(f"{place_of(file, line)}: {what}", "declare one: `CASE = Case(…)`")
    if not isinstance(module.__doc__, str) or not module.__doc__.strip():
        what = f"{place_of(file, 1)}: no docstring"
        raise DeclarationError(what, "say first what is claimed, how it comes about and what the budget allows")
    check_arms(module, file)
    case.check_names()
    check_versions(case)
    check_sources(case)
    for condition in case.conditions:
        check_limit(case, condition, "budget", case.budget_of(condition).limit)
        check_limit(case, condition, "numbers", case.numbers)
        check_recipe(case, condition)
    return case


def _defined(file: Path, name: str) -> int:
    """Return the line on which the file gives a name its value, else 1."""
    with contextlib.suppress(OSError, ValueError, SyntaxError, RecursionError):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            targets = node.targets if isinstance(node, ast.Assign) else [node]
            if any(name == getattr(target, "id", getattr(target, "name", None)) for target in targets):
                return node.lineno
    return 1


def check_arms(module: ModuleType, file: Path) -> None:
    """Refuse a case without an arm, or without what every arm is given."""
    for name in (*ARMS, "prepare", "oracle"):
        found = getattr(module, name, None)
        if found is None and name in ("proposed", "oracle"):
            continue
        if name in ARMS and not inspect.isgeneratorfunction(found):
            what = f"no arm `{name}`" if found is None else f"the arm `{name}` is no generator function"
            hint = f"write a generator function `{name}(i)` that yields phases"
        elif not callable(found):
            what = f"no function `{name}`"
            hint = f"write `def {name}({'p, checkpoint' if name == 'prepare' else 'i'})`"
        else:
            continue
        raise DeclarationError(f"{place_of(file, _defined(file, name))}: {what}", hint)


def check_versions(case: Case) -> None:
    """Refuse packages that no cell pins, and what is not a specifier."""
    for window in case.affected:
        _check_specifiers(window.error, "Affected.versions", window.versions)
    for needs in (case.proposed_requires, *(condition.requires for condition in case.conditions)):
        _check_specifiers(needs.error, "Requires.packages", needs.packages)
    for reading in (one for claim in case.claims for several in claim.readings.values() for one in several):
        _check_specifiers(reading.error, "Reading.versions", reading.versions)


def _check_specifiers(error: Callable[[str, str], DeclarationError], what: str, versions: Mapping[str, str]) -> None:
    for package, specifier in versions.items():
        if package not in PACKAGES:
            raise error(f"{what}: no cell pins `{shortened(package)}`", f"one of: {', '.join(PACKAGES)}")
        try:
            # Held against a version, since a number may have more digits than Python reads.
            SpecifierSet(specifier).contains("1")
        except (InvalidSpecifier, ValueError):
            what = f"{what}: `{shortened(specifier)}` is not a specifier"
            raise error(what, "such as `>=0.49,<0.50`") from None


def check_sources(case: Case) -> None:
    """Refuse a window that names no evidence: a path below the project."""
    for window in case.affected:
        source = Path(window.source)
        inside = window.source and not source.is_absolute() and ".." not in source.parts
        try:
            there = inside and (ROOT / source).exists()
        except OSError:  # a name too long
            there = False
        if not there:
            what = f"Affected.source: `{shortened(window.source)}` does not exist"
            raise window.error(what, "name the evidence that the window was read from, such as `reports/cpu`")


def check_limit(case: Case, condition: Condition, name: str, limit: Callable[[Params], float]) -> None:
    """Refuse a limit that no figure can be held against: it is a formula over shapes, so it can be told now."""
    what = f"condition `{condition.name}`: the limit of its {name}"
    try:
        with _patience():
            value: object = limit(condition.params)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a contributor's function may raise anything
        says = "TooSlow" if isinstance(error, TooSlowError) else f"{type(error).__name__}: {shortened(_text(error))}"
        raise condition.error(f"{what} raises {says}", "compute it from the condition's parameters alone") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise condition.error(f"{what} is {shortened(repr(value))}", "return a finite number, 0 or more")


def check_recipe(case: Case, condition: Condition) -> None:
    """Refuse a checkpoint that there is no recipe of."""
    from repros.checkpoints import recipes

    try:
        name: object = case.recipe(condition)
    except Exception as error:  # noqa: BLE001 - a contributor's function may raise anything
        what = f"condition `{condition.name}`: its checkpoint raises {type(error).__name__}: {shortened(_text(error))}"
        raise condition.error(what, "compute its name from the condition's parameters alone") from None
    if name is not None and not (isinstance(name, str) and name in recipes()):
        what = f"condition `{condition.name}`: no checkpoint recipe `{shortened(str(name))}`"
        near = difflib.get_close_matches(str(name), recipes(), n=1) or list(recipes())
        raise condition.error(what, f"one of: {', '.join(near)}; recipes are in fixtures/recipes.json")
