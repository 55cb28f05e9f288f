"""The registry: case files found by name, read without importing torch."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from repros import INSTALLED, ROOT
from repros.case import ARMS, Case, Condition
from repros.cases import aliases
from repros.errors import UserError, nearest

if TYPE_CHECKING:
    from repros.cases.importing import Contents

T = TypeVar("T")
#: The address of an issue or a pull request.
ADDRESS = re.compile(r"https://github\.com/[\w.-]+/([\w.-]+)/(?:issues|pull)/([0-9]+).*")
BY_WORDS = "`python -m repros list --search WORDS` finds one by what is known of it"
#: The folder of a report.
REPORT = re.compile(r"gh[0-9]+")
#: The file of a witness, in that folder.
WITNESS = re.compile(r"minimal(_\w+)?")


@dataclass(frozen=True)
class Entry:
    """A case and where it stands; ``name`` is its file's, e.g. ``gh1935_saved_weight``."""

    name: str
    module: str
    case: Case
    doc: str
    arms: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Return the case's file."""
        return ROOT.joinpath(*self.module.split(".")).with_suffix(".py")

    def arms_of(self, condition: Condition) -> tuple[str, ...]:
        """Return the arms that apply under a condition."""
        skipped = {"planted"} if condition.control else set()
        skipped |= set() if condition.proposed else {"proposed"}
        return tuple(arm for arm in self.arms if arm not in skipped)

    def condition(self, name: str) -> Condition:
        """Return the condition of that name, or raise UserError with the nearest names."""
        return choose(name, {c.name: c for c in self.case.conditions}, f"condition of {self.name}")


def find(package: str = "repros.cases") -> tuple[Entry, ...]:
    """Return every case below a package, in the order of package, report and file name."""
    found: dict[str, Entry] = {}
    for one in _find(package):
        if one.name in found:
            what = f"{one.module}: `{one.name}` is the name of {found[one.name].module} too"
            raise UserError(what, "rename one of the two files")
        found[one.name] = one
    from repros.cases import declared

    declared.check_readings({name: one.case for name, one in found.items()})
    return tuple(found.values())


def _find(package: str) -> Iterator[Entry]:
    root = importlib.import_module(package)
    for info in sorted(pkgutil.iter_modules(root.__path__), key=lambda info: info.name):
        name = f"{package}.{info.name}"
        if info.ispkg:
            yield from _find(name)
        elif is_case(name):
            yield load(name)


def everyone() -> list[str]:
    """Return the modules of all cases of this suite, by the names of their files; nothing is imported."""
    files = sorted(ROOT.joinpath("repros", "cases").rglob("gh*/*.py"))
    return [name for name in map(module_of, files) if is_case(name)]


def is_case(module: str) -> bool:
    """Return whether a module is a case file by its name: ``gh1935/saved_weight``, no ``_helper`` and no witness."""
    folder, file = module.split(".")[-2:]
    if REPORT.fullmatch(folder):
        return not (file.startswith("_") or WITNESS.fullmatch(file))
    return file.startswith("st_") or bool(REPORT.match(file))


def witnesses(folder: Path) -> tuple[Path, ...]:
    """Return the witnesses of a report, scripts in its folder, ``minimal.py`` first."""
    return tuple(sorted((path for path in folder.glob("*.py") if WITNESS.fullmatch(path.stem)), key=lambda p: p.stem))


def witness_of(case: Path, condition: Condition) -> Path | None:
    """Return the witness of a case file's mechanism: what the condition names, of the file's name, of the report."""
    names = (condition.witness, f"minimal_{case.stem}.py", "minimal.py")
    return next((path for name in names if name and (path := case.with_name(name)).is_file()), None)


def is_own(witness: Path, case: Path, condition: Condition) -> bool:
    """Return whether a witness is of this mechanism, and not of the whole report."""
    return witness.name in (condition.witness, f"minimal_{case.stem}.py")


def load(module: str) -> Entry:
    """Import a case file and read its declaration; whatever is wrong with it is a UserError with file and line."""
    from repros.cases import importing

    return entry(importing.imported(module))


def entry(module: ModuleType) -> Entry:
    """Read the declaration of a case module; what is missing or cannot be is a UserError that names it."""
    from repros.cases import importing

    return _entry(importing.look(module))


def _entry(found: Contents) -> Entry:
    from repros.cases import declared  # the parent's alone: it reads version specifiers

    case = declared.declaration(found)
    arms = tuple(arm for arm in ARMS if arm in found.has)
    return Entry(name_of(found.module), found.module, case, inspect.cleandoc(found.doc or ""), arms)


def name_of(module: str) -> str:
    """Return the name of a case: of its file, and of its report's folder before that."""
    folder, _, file = module.rpartition(".")
    folder = folder.rpartition(".")[2]
    return f"{folder}_{file}" if REPORT.fullmatch(folder) else file


def select(name: str, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """Return the cases that a user's word means.

    A name, a report in any spelling (``bitsandbytes#1927``, ``gh1927``, ``1927``, its address), or the path of a file;
    one that assigns no CASE is refused by its source, before anything of it runs anywhere.
    """
    if name.endswith(".py"):
        path = Path(name)
        if path.is_file() and not assigns_case(path):
            what = f"{path}: a script, not a case file: it assigns no CASE"
            raise UserError(what, f"run it as it is: python -m repros try {shlex.quote(name)}")
        return (from_file(path),)
    spelled = ADDRESS.sub(r"\1#\2", name)
    number = spelled.removeprefix("gh").lstrip("#")
    taken_over = {new for new, olds in aliases.WAS.items() if name in olds}
    found = tuple(e for e in entries if e.name == name or spelled == e.case.report or str(e.case.number) == number)
    found = (
        found
        or tuple(e for e in entries if e.name in taken_over)
        or tuple(e for e in entries if spelled in e.case.also)
    )
    if not found and re.search(r"(^|gh|#)[0-9]+$", spelled):
        reports = dict.fromkeys(e.case.report if "#" in spelled else f"gh{e.case.number}" for e in entries)
        near = nearest(spelled if "#" in spelled else f"gh{number}", reports)
        raise UserError(f"no case of a report `{name}`", f"{near}; {BY_WORDS}")
    return found or (choose(name, {e.name: e for e in entries}, "case"),)


def having(entries: tuple[Entry, ...], condition: str | None) -> tuple[Entry, ...]:
    """Return those cases of a report that have a condition: all where none is named, UserError if none has it."""
    found = tuple(e for e in entries if condition in (None, *(c.name for c in e.case.conditions)))
    if condition is not None and not found:
        refuse(entries, condition)
    return found


def refuse(entries: Sequence[Entry], condition: str) -> None:
    """Raise UserError for a condition that none of these cases has, with the nearest names of them all."""
    for e in entries:
        if (moved := aliases.now(e.name, condition)) != e.name:
            raise UserError(f"{e.name}: the condition `{condition}` is of {moved} now", f"name {moved}")
    choose(
        condition,
        {c.name: c for e in entries for c in e.case.conditions},
        f"condition of {', '.join(e.name for e in entries)}",
    )


def from_file(path: Path) -> Entry:
    """Return the case in a file below this project.

    One that is not registered, such as a finding of the hunt, is read in a process of its own: nothing of it runs here.
    """
    module = module_of(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file", "give the path of a case file, e.g. reports/runs/NAME/hunt_NAME.py")
    if module.startswith("repros.cases."):
        return load(module)
    from repros.cases import apart

    return _entry(apart.read(path.resolve(), module))


def assigns_case(path: Path) -> bool:
    """Return whether a file's source assigns CASE at its top level; what cannot be read is left to its import."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return True  # an import ends there too, before a line of it runs
    targets = [node.targets if isinstance(node, ast.Assign) else [node.target]
               for node in body if isinstance(node, ast.Assign | ast.AnnAssign)]  # fmt: skip
    return any(isinstance(one, ast.Name) and one.id == "CASE" for several in targets for one in several)


def module_of(path: Path) -> str:
    """Return the name by which a cell imports a file below this project; UserError where it cannot."""
    try:
        parts = path.resolve().relative_to(ROOT).with_suffix("").parts
    except (ValueError, OSError, RuntimeError):
        hint = "clone the project and put it there, below reports/runs/" if INSTALLED else "put it below reports/runs/"
        raise UserError(f"{path}: not below {ROOT}, so a cell cannot import it", hint) from None
    wrong = next((part for part in parts if not part.isidentifier()), None)
    if wrong is not None:
        raise UserError(f"{path}: Python cannot import a folder or file called `{wrong}`", "name it like a variable")
    return ".".join(parts)


def choose(name: str, among: Mapping[str, T], what: str) -> T:
    """Return the one of that name, or raise UserError with the nearest names."""
    if name in among:
        return among[name]
    raise UserError(f"no {what} `{name}`", nearest(name, among))
