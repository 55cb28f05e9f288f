"""A trial as one file: what runs its arms, and the sources of the case, the reference and the meters, to the letter.

The sources are found from the imports of the case and of the worker, so the file holds what those use and nothing
else; the file lays them out in a folder of its own and runs each arm from there, as a cell's interpreter does.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import jinja2

from repros.arms import MEMORY_BYTES, PRELOAD, PRELOAD_TIMEOUT_S, SETTINGS
from repros.case import Condition
from repros.cases import Entry
from repros.checkpoints import FIXTURES, recipe_of
from repros.errors import UserError
from repros.locks import OLDEST_PYTHON
from repros.redact import Redactor
from repros.results import ROOT

CHECKPOINTS = "repros.checkpoints"


@dataclass(frozen=True)
class Pins:
    """What the script's environment holds: requirements, and packages that no index has in that version."""

    requirements: Sequence[str]
    packages: Sequence[str]
    missing: Sequence[str] = ()


def script(entry: Entry, condition: Condition, cell: str, device: str, pins: Pins, arms: Sequence[str]) -> str:
    """Return the script of one trial; UserError where a source of it would give away a secret."""
    recipe = entry.case.recipe(condition)
    files = dict(sources([entry.module, *machinery(recipe, device)]))
    if recipe:  # and those of the case's other conditions: a declaration may read them
        files |= fixtures({name for c in entry.case.conditions if (name := entry.case.recipe(c))})
    for name, text in files.items():
        looked = Redactor()
        if looked.text(text) != text:
            raise UserError(
                f"{name}: it would put something private into the script ({looked.says()})",
                "take it out of the source: a script cannot be redacted and still run",
            )
    trial = {
        "report": f"{entry.case.package}#{entry.case.number}",
        "module": entry.module,
        "condition": condition.name,
        "cell": cell,
        "device": device,
        "arms": list(arms),
        "packages": list(pins.packages),
        "recipe": recipe,
        "settings": {**SETTINGS[device], "REPROS_PRELOAD": ",".join(PRELOAD[device])},
        "memory_bytes": MEMORY_BYTES if device == "cpu" else None,  # CUDA maps far more than it uses
        "preload_s": PRELOAD_TIMEOUT_S,
    }
    return template("repro.py.j2").render(
        report=trial["report"],
        title=entry.case.title,
        url=entry.case.url,
        condition=condition.name,
        note=condition.note,
        cell=cell,
        python=OLDEST_PYTHON,
        requirements=pins.requirements,
        missing=", ".join(pins.missing),
        trial=trial,
        settings=json.dumps(trial, indent=1),
        files={name: literal(text) for name, text in files.items()},
    )


def machinery(recipe: str | None, device: str) -> list[str]:
    """Return the modules that every arm needs, and the one that makes checkpoints."""
    ours = [name for name in PRELOAD[device] if name.startswith("repros.")]
    return ["repros.worker", "repros.preload", *ours, *([CHECKPOINTS] if recipe else [])]


def sources(modules: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield path and text of these modules and of all of this project that they import, packages included."""
    waiting, done = list(modules), set[str]()
    while waiting:
        name = waiting.pop(0)
        path = ROOT.joinpath(*name.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name in done or not file.is_file():
            continue
        done.add(name)
        text = file.read_text(encoding="utf-8")
        yield file.relative_to(ROOT).as_posix(), text
        waiting += sorted({*imported(text, name), name.rpartition(".")[0] or name})


def imported(text: str, module: str) -> Iterator[str]:
    """Yield the modules of this project that a module imports anywhere; a name that is no module does no harm."""
    tops = ("repros", module.partition(".")[0])
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names if one.name.partition(".")[0] in tops)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in tops:
            yield node.module
            yield from (f"{node.module}.{one.name}" for one in node.names)


def fixtures(recipes: Iterable[str]) -> dict[str, str]:
    """Return the recipes of checkpoints and the configurations that they cut from."""
    table = json.loads((FIXTURES / "recipes.json").read_text(encoding="utf-8"))
    chosen = {name: table[name] for name in sorted(recipes)}
    files = {"fixtures/recipes.json": json.dumps(chosen, indent=1) + "\n"}
    for model in sorted({recipe_of(name).model for name in chosen}):
        config = FIXTURES / "models" / f"{model}.json"
        files[f"fixtures/models/{config.name}"] = config.read_text(encoding="utf-8")
    return files


def literal(text: str) -> str:
    """Return a text as a literal that can be read: raw and in triple quotes wherever that says the same."""
    if "'''" not in text and not text.endswith(("'", "\\")) and "\r" not in text:
        return f"r'''{text}'''"
    return repr(text)


def template(name: str) -> jinja2.Template:
    """Return a template of text that is not HTML; UserError where the installation lacks it."""
    try:
        text = (resources.files("repros") / "templates" / name).read_text(encoding="utf-8")
    except (OSError, ModuleNotFoundError) as error:
        raise UserError(
            f"repros/templates/{name}: {getattr(error, 'strerror', None) or error}",
            "the installation lacks it; install the suite again: `python3 -m pip install -e .`",
        ) from error
    made = jinja2.Environment(  # noqa: S701 - Markdown and Python
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    made.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return made.from_string(text)


def as_pins(packages: Mapping[str, str], lock: str, overrides: Mapping[str, str]) -> Pins:
    """Return the pins of a trial: of its lock where that is known, else of the packages that it names.

    A build (``2.13.0+cpu``) is left to the index: the release is what is pinned. Where a file stood in for a pin, no
    index has that version.
    """
    missing = [
        f"{name} {packages.get(name)}" for name, spec in overrides.items() if "/" in spec or spec.endswith(".whl")
    ]
    without = {name.partition(" ")[0].replace("_", "-").lower() for name in missing}
    lines = [
        line.split(" #")[0].strip()
        for line in lock.splitlines()
        if line.strip() and not line.lstrip().startswith(("#", "-"))
    ]
    lines = lines or [f"{name}=={version}" for name, version in packages.items() if version]
    kept = [public(line) for line in lines if line.partition("==")[0].replace("_", "-").lower() not in without]
    return Pins(kept, list(packages), missing)


def public(requirement: str) -> str:
    """Return a pin without its local version."""
    pin, semicolon, marker = requirement.partition(";")
    return pin.partition("+")[0].strip() + (f" ;{marker}" if semicolon else "")
