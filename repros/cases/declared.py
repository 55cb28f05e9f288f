"""What a case file declares, held against what the suite knows.

`repros.case` refuses what no case can declare, wherever it is read. What is here takes the parent: version specifiers,
recipes, sources, and the file's own source, which is parsed and not run. A contributor's mistake is told with file and
line.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from repros import ROOT
from repros.case import PACKAGES, REMEDY, Case, DeclarationError, place_of
from repros.cases.importing import FUNCTIONS, Contents
from repros.cases.importing import functions as functions_of
from repros.errors import shortened

#: Beside the evidence; neither a wheel nor an sdist has it.
EVIDENCE = ROOT / "reports" / "README.md"


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


def declaration(found: Contents) -> Case:
    """Return what a case file declares; UserError with file and line for what is missing or cannot be."""
    file, case, doc = found.file, found.case, found.doc
    tree = _parsed(file)
    if case is None:
        what = f"`CASE` is a {found.kind}" if found.kind else "no `CASE`"
        raise DeclarationError(f"{place_of(file, _defined(tree, 'CASE'))}: {what}", "declare one: `CASE = Case(…)`")
    hint = "say first what is claimed, how it comes about, what the limit is and why, what is planted"
    if doc is None or not doc.strip():
        raise DeclarationError(f"{place_of(file, 1)}: no docstring", hint)
    for number, text in enumerate(doc.splitlines(), 1):
        if re.search(r"(^|: )\.\.\.$", text):
            raise DeclarationError(f"{place_of(file, number)}: the docstring is not filled in", hint)
    check_arms(found, case, tree)
    case.check_names()
    check_versions(case)
    check_sources(case)
    check_checkpoints(case)
    check_witnesses(case, file)
    check_controls(case, file, tree)
    return case


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        what = f"{place_of(file, 1)}: its source cannot be parsed: {shortened(str(error))}"
        raise DeclarationError(what, "nest less there, and leave the file as it is while it is read") from None


def _defined(tree: ast.Module, name: str) -> int:
    """Return the line on which a file gives a name its value, else 1."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [node]
        named = [one for target in targets for one in (target.elts if isinstance(target, ast.Tuple) else [target])]
        if any(name == getattr(one, "id", getattr(one, "name", None)) for one in named):
            return node.lineno
    return 1


def check_arms(found: Contents, case: Case, tree: ast.Module) -> None:
    """Refuse a case without an arm that its conditions need, or with one that nobody filled in."""
    wanted = ["subject", "reference", *["planted"][: not all(c.control for c in case.conditions)]]
    functions, remedies = _functions(tree), [name for name in functions_of(case) if name not in FUNCTIONS]
    for name in [name for name in functions if name.startswith(REMEDY) and name not in remedies]:
        what = f"{place_of(found.file, functions[name].lineno)}: `{name}` is the arm of no remedy"
        raise DeclarationError(what, f'name it under a condition: `remedies=(Remedy("…", arm="{name}"),)`')
    for name in (*FUNCTIONS, *remedies):
        if name not in found.has and name not in (*wanted, *remedies):
            continue
        if kind := found.has.get(name, "none"):
            what = f"`{name}` is a {kind}" if name in found.has else f"no arm `{name}`"
            hint = f"write a function `{name}(c, …)`" + (
                " that yields phases" if name not in ("inputs", "oracle") else ""
            )
        elif name in functions and _is_empty(functions[name]):
            what, hint = f"`{name}` is not filled in", "write what it does in place of `...`"
        else:
            continue
        raise DeclarationError(f"{place_of(found.file, _defined(tree, name))}: {what}", hint)


def _is_empty(function: ast.FunctionDef) -> bool:
    """Return whether a function's body is `...`, beside a docstring."""
    values = [one.value if isinstance(one, ast.Expr) else None for one in function.body]
    constants = [one.value if isinstance(one, ast.Constant) else None for one in values]
    return constants[-1] is ... and len(constants) - isinstance(constants[0], str) == 1


def _functions(tree: ast.Module) -> dict[str, ast.FunctionDef]:
    """Return name -> function of a file's top level, under other names that it is given there too."""
    found: dict[str, ast.FunctionDef] = {}
    for node in _statements(tree):
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            given = {name: found.get(value.id) if isinstance(value, ast.Name) else None for name, value in _given(node)}
            found = {name: one for name, one in (found | given).items() if one is not None}
    return found


def _given(node: ast.Assign) -> Iterator[tuple[str, ast.expr]]:
    """Yield the names that an assignment gives, each with its value; tuples are taken apart."""
    for target in node.targets:
        pairs = [(target, node.value)]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = list(zip(target.elts, node.value.elts, strict=False))
        yield from ((name.id, value) for name, value in pairs if isinstance(name, ast.Name))


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the statements of a file's top level in their order, those in `if` and `try` too."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            kinds = ast.stmt | ast.ExceptHandler | ast.match_case
            waiting += reversed([one for one in ast.iter_child_nodes(node) if isinstance(one, kinds)])


def check_versions(case: Case) -> None:
    """Refuse packages that no cell pins, and what is not a specifier."""
    for window in (one for condition in case.conditions for one in condition.affected or ()):
        _check_specifiers(window.error, "Affected.versions", window.versions)
    remedies = [one.needs for condition in case.conditions for one in condition.remedies]
    for needs in (case.proposed_needs, *(condition.needs for condition in case.conditions), *remedies):
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
    """Refuse a window that names no evidence: a path below the project, where evidence did not stay behind."""
    if not EVIDENCE.is_file():
        return
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


def check_controls(case: Case, file: Path, tree: ast.Module) -> None:
    """Refuse controls that measure nothing, where their source tells: a typed-in figure, a typed-in exception."""
    judged = {condition.budget.figure for condition in case.conditions}
    functions = _functions(tree)
    for name in ("reference", "planted"):
        for node in (node for function in _called(functions, name) for node in ast.walk(function)):
            says = _typed_in(node, judged) or (_raised(node, case) if name == "planted" else "")
            if says:
                hint = "measure it: what a control returns or raises must come of what it runs"
                raise DeclarationError(f"{place_of(file, node.lineno)}: the {name} arm {says}", hint)  # type: ignore[attr-defined]


def _called(functions: Mapping[str, ast.FunctionDef], name: str) -> list[ast.FunctionDef]:
    """Return an arm and the functions of its own file that it calls by name, directly or by another."""
    waiting, found = [name], dict[str, ast.FunctionDef]()
    while waiting:
        one = waiting.pop()
        if one in functions and one not in found:
            found[one] = functions[one]
            waiting += [call.func.id for call in ast.walk(found[one]) if _calls_by_name(call)]  # type: ignore[attr-defined]
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
