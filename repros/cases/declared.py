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
import re
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType, ModuleType

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from repros import ROOT
from repros import case as declarations
from repros.case import ARMS, PACKAGES, Case, DeclarationError, place_of
from repros.errors import UserError, shortened

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
    hint = "say first what is claimed, how it comes about, what the limit is and why, what is planted"
    if not isinstance(module.__doc__, str) or not module.__doc__.strip():
        raise DeclarationError(f"{place_of(file, 1)}: no docstring", hint)
    for number, text in enumerate(module.__doc__.splitlines(), 1):
        if re.search(r"(^|: )\.\.\.$", text):
            raise DeclarationError(f"{place_of(file, number)}: the docstring is not filled in", hint)
    check_arms(module, case, file)
    case.check_names()
    check_versions(case)
    check_sources(case)
    check_checkpoints(case)
    check_witnesses(case, file)
    check_controls(module, case, file)
    return case


def _defined(file: Path, name: str) -> int:
    """Return the line on which the file gives a name its value, else 1."""
    with contextlib.suppress(OSError, ValueError, SyntaxError, RecursionError):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            targets = node.targets if isinstance(node, ast.Assign) else [node]
            named = [one for target in targets for one in (target.elts if isinstance(target, ast.Tuple) else [target])]
            if any(name == getattr(one, "id", getattr(one, "name", None)) for one in named):
                return node.lineno
    return 1


def check_arms(module: ModuleType, case: Case, file: Path) -> None:
    """Refuse a case without an arm that its conditions need, or with one that nobody filled in."""
    wanted = ["subject", "reference", *["planted"][: not all(c.control for c in case.conditions)]]
    for name in (*ARMS, "inputs", "oracle"):
        found = getattr(module, name, None)
        if found is None and name not in wanted:
            continue
        if not callable(found):
            what = f"no arm `{name}`" if found is None else f"`{name}` is a {type(found).__name__}"
            hint = f"write a function `{name}(c, …)`" + (" that yields phases" if name in ARMS else "")
        elif _is_empty(found):
            what, hint = f"`{name}` is not filled in", "write what it does in place of `...`"
        else:
            continue
        raise DeclarationError(f"{place_of(file, _defined(file, name))}: {what}", hint)


def _is_empty(function: Callable[..., object]) -> bool:
    """Return whether a function's body is `...`, beside a docstring."""
    node = _tree(function)
    values = [one.value if isinstance(one, ast.Expr) else None for one in node.body] if node else [None]
    constants = [one.value if isinstance(one, ast.Constant) else None for one in values]
    return bool(constants) and constants[-1] is ... and len(constants) - isinstance(constants[0], str) == 1


def _tree(function: Callable[..., object]) -> ast.FunctionDef | None:
    """Return the source of a function, parsed; None where there is none to be had."""
    try:
        node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, ValueError, SyntaxError, RecursionError, IndexError):
        return None
    return node if isinstance(node, ast.FunctionDef) else None


def check_versions(case: Case) -> None:
    """Refuse packages that no cell pins, and what is not a specifier."""
    for window in (one for condition in case.conditions for one in condition.affected or ()):
        _check_specifiers(window.error, "Affected.versions", window.versions)
    for needs in (case.proposed_needs, *(condition.needs for condition in case.conditions)):
        _check_specifiers(needs.error, "Needs.packages", needs.packages)
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
    for window in (one for condition in case.conditions for one in condition.affected or ()):
        source = Path(window.source)
        inside = window.source and not source.is_absolute() and ".." not in source.parts
        try:
            there = inside and (ROOT / source).exists()
        except OSError:  # a name too long
            there = False
        if not there:
            what = f"Affected.source: `{shortened(window.source)}` does not exist"
            raise window.error(what, "name the evidence that the window was read from, such as `reports/cpu`")


def check_checkpoints(case: Case) -> None:
    """Refuse a checkpoint that there is no recipe of."""
    from repros.worker.checkpoints import recipes

    for condition in case.conditions:
        if condition.checkpoint and condition.checkpoint not in recipes():
            what = f"condition `{condition.name}`: no checkpoint recipe `{shortened(condition.checkpoint)}`"
            near = difflib.get_close_matches(condition.checkpoint, recipes(), n=1) or list(recipes())
            raise condition.error(what, f"one of: {', '.join(near)}; recipes are in fixtures/recipes.json")


def check_witnesses(case: Case, file: Path) -> None:
    """Refuse a witness that is not in the report's folder."""
    for condition in case.conditions:
        if condition.witness and not file.with_name(condition.witness).is_file():
            what = f"condition `{condition.name}`: no witness `{shortened(condition.witness)}` beside the case"
            raise condition.error(what, "write it, or name the file that there is, such as `minimal.py`")


def check_controls(module: ModuleType, case: Case, file: Path) -> None:
    """Refuse controls that measure nothing, where their source tells: a typed-in figure, a typed-in exception."""
    judged = {condition.budget.figure for condition in case.conditions}
    for name in ("reference", "planted"):
        for function in _own_functions(module, name):
            for node in ast.walk(function):
                says = _typed_in(node, judged) or (_raised(node, case) if name == "planted" else "")
                if says:
                    line = _defined(file, function.name) + node.lineno - function.lineno  # type: ignore[attr-defined]
                    hint = "measure it: what a control returns or raises must come of what it runs"
                    raise DeclarationError(f"{place_of(file, line)}: the {name} arm {says}", hint)


def _own_functions(module: ModuleType, name: str) -> list[ast.FunctionDef]:
    """Return the source of an arm and of the functions of its own file that it calls by name, parsed."""
    waiting, found = [name], dict[str, ast.FunctionDef]()
    while waiting:
        one = waiting.pop()
        value = getattr(module, one, None)
        if one in found or not inspect.isfunction(value) or value.__module__ != module.__name__:
            continue
        if node := _tree(value):
            found[one] = node
            waiting += [call.func.id for call in ast.walk(node) if _calls_by_name(call)]  # type: ignore[attr-defined]
    return list(found.values())


def _calls_by_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def _typed_in(node: ast.AST, judged: set[str]) -> str:
    """Return in words that a mapping gives a judged figure as a number; empty if it is none."""
    for key, value in zip(node.keys, node.values, strict=True) if isinstance(node, ast.Dict) else ():
        number = isinstance(value, ast.Constant) and type(value.value) in (int, float)
        if number and isinstance(key, ast.Constant) and key.value in judged:
            return f"returns `{key.value}` as the number {value.value!r}"  # type: ignore[attr-defined]
    return ""


def _raised(node: ast.AST, case: Case) -> str:
    """Return in words that a statement raises a reported symptom by its name; empty if it does not."""
    if not isinstance(node, ast.Raise) or node.exc is None:
        return ""
    kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    name = kind.id if isinstance(kind, ast.Name) else kind.attr if isinstance(kind, ast.Attribute) else ""
    return f"raises {name} itself" if name in {symptom.type for symptom in case.symptoms} else ""
