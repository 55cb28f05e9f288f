"""A trial as one file: what runs its arms, and the sources of the case, the reference and the meters, to the letter.

The sources are found from the imports of the case and of the worker, so the file holds what those use and nothing
else; the file lays them out in a folder of its own and runs each arm from there, as a cell's interpreter does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import orjson
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from repros import ROOT
from repros.case import ARMS, Condition
from repros.cases import Entry
from repros.cases.imports import PRELOAD, needed
from repros.cases.sources import sources
from repros.cells.locks import LOCKS, OLDEST_PYTHON, Lock
from repros.errors import UserError
from repros.redaction.redact import Redactor
from repros.report import escape
from repros.run.link import PRELOAD_TIMEOUT_S
from repros.run.results import Record, shown
from repros.run.server import MEMORY_BYTES, NOT_HANDED_ON, SETTINGS
from repros.worker.checkpoints import FIXTURES, recipe_of

CHECKPOINTS = "repros.worker.checkpoints"
#: Finds that a refusal names.
MOST_SAID = 5


#: Marks in the template: where one part that scripts share ends, and where a text stands that is one trial's own.
CUT, OWN = "\0", "\1"


@dataclass(frozen=True)
class Pins:
    """What the script's environment holds: requirements, and packages that no index has in that version."""

    requirements: tuple[str, ...]
    packages: tuple[str, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frame:
    """What scripts of one case share, in parts that other cases share too; a trial's own texts stand between these."""

    before: tuple[str, ...]
    between: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True)
class Script:
    """The script of one trial: a frame, and the two texts that are its own."""

    frame: Frame
    sentence: str
    settings: str

    def text(self) -> str:
        """Return the file."""
        f = self.frame
        return "".join((*f.before, self.sentence, *f.between, self.settings, *f.after))


class Writer:
    """Writes scripts. What several of them share is read, looked at and rendered once.

    ``redactor`` knows what is private here: it cleans a trial's label; a source that holds any of it is refused.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._sources = redactor.for_sources()
        self._template = template("full.py.j2")
        self._locks: dict[str, str] | None = None
        self._conditions: dict[str, dict[str, Condition]] = {}
        self._frames: dict[tuple[object, ...], Frame | UserError] = {}
        self._pins: dict[bytes, Pins] = {}

    def of(self, record: Record, entry: Entry) -> Script:
        """Return the script of a trial; UserError where its condition is no more or a source would tell a secret."""
        if not record.arms:
            raise UserError("no arm of this trial ran", "try it where it can run")
        if entry.name not in self._conditions:
            self._conditions[entry.name] = {c.name: c for c in entry.case.conditions}
        condition = self._conditions[entry.name].get(record.condition) or entry.condition(record.condition)
        arms = [name for name in (*ARMS, *condition.remedy_arms()) if record.arm(name)]
        return self.script(entry, condition, record.cell, record.device, self.pins_of(record.environment), arms)

    def script(
        self, entry: Entry, condition: Condition, cell: str, device: str, pins: Pins, arms: Sequence[str]
    ) -> Script:
        """Return the script of a condition in a cell."""
        cell = self._redactor.text(cell)
        for text in (cell, *pins.missing):
            if escape.line(text) != text or '"' in text or "\\" in text:  # it stands in a docstring
                raise UserError(f"{text!r} cannot stand in a script", "give the cell a plain name")
        note = f" ({condition.note})" if condition.note else ""
        sentence = f"Condition `{condition.name}`{note}, as tried in the cell `{cell}`.\n"
        self.look(f"condition {condition.name}", f"{condition.name}{note}")
        own = json.dumps({"condition": condition.name, "cell": cell}, indent=1)
        frame = self._frame(entry, condition.checkpoint, device, pins, tuple(arms))
        return Script(frame, sentence, own.removeprefix("{").removesuffix("\n}") + ",")

    def pins_of(self, environment: Mapping[str, Any]) -> Pins:
        """Return the pins of a trial's environment."""
        key = orjson.dumps(environment)
        if key not in self._pins:
            lock = self._lock(environment.get("lock", ""))
            self._pins[key] = as_pins(environment.get("packages", {}), lock, environment.get("overrides", {}))
        return self._pins[key]

    def _lock(self, digest: str) -> str:
        """Return the text of the committed lock of this digest; empty if there is none."""
        if self._locks is None:
            texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / LOCKS).glob("*.txt"))]
            self._locks = {Lock(text, committed=True).digest: text for text in reversed(texts)}
        return self._locks.get(digest, "")

    def _frame(self, entry: Entry, recipe: str | None, device: str, pins: Pins, arms: tuple[str, ...]) -> Frame:
        key = (entry.name, recipe, device, pins, arms)
        if key not in self._frames:
            try:
                self._frames[key] = self._rendered(entry, recipe, device, pins, arms)
            except UserError as error:
                self._frames[key] = error
            except OSError as error:
                place = shown(Path(error.filename or "?"))
                self._frames[key] = UserError(f"{place}: {error.strerror}", "a script needs a checkout of the suite")
        found = self._frames[key]
        if isinstance(found, UserError):
            raise found
        return found

    def _rendered(self, entry: Entry, recipe: str | None, device: str, pins: Pins, arms: tuple[str, ...]) -> Frame:
        # An arm needs no registry of cases: there its package is a folder alone.
        files = dict(sources([entry.module, *machinery(recipe, device)], without=["repros.cases"]))
        if recipe:  # and those of the case's other conditions: a declaration may read them
            files |= fixtures({c.checkpoint for c in entry.case.conditions if c.checkpoint})
        for name, text in files.items():
            self.look(name, text)
        for text in (*pins.packages, *pins.missing):
            self.look("what stands in for a pin", text)
        trial = {
            "report": entry.case.report,
            "module": entry.module,
            "device": device,
            "arms": list(arms),
            "packages": list(pins.packages),
            "recipe": recipe,
            "settings": {**SETTINGS[device], "REPROS_PRELOAD": ",".join(needed(PRELOAD[device], [entry.module]))},
            "memory_bytes": MEMORY_BYTES if device == "cpu" else None,  # CUDA maps far more than it uses
            "preload_s": PRELOAD_TIMEOUT_S,
        }
        text = self._template.render(
            report=trial["report"],
            title=entry.case.title,
            url=entry.case.url,
            python=OLDEST_PYTHON,
            requirements=pins.requirements,
            missing=", ".join(pins.missing),
            trial=trial,
            settings=json.dumps(trial, indent=1).removeprefix("{"),
            files={name: literal(text) for name, text in files.items()},
            not_handed_on=repr(NOT_HANDED_ON),
            cut=CUT,
            own=OWN,
        )
        return Frame(*(tuple(part.split(CUT)) for part in text.split(OWN)))

    def look(self, name: str, text: str) -> None:
        """Raise UserError where a text holds something private."""
        if found := self._sources.finds(text):
            place = f"{name}:{found[0].line}" if "\n" in text else name
            said = ", ".join(f"`{one.text}` in line {one.line}, {one.kind}" for one in found[:MOST_SAID])
            more = f", and {len(found) - MOST_SAID} more" if len(found) > MOST_SAID else ""
            raise UserError(
                f"{place}: it would put something private into the script ({said}{more})",
                "take it out of the source: a script cannot be redacted and still run",
            )


def machinery(recipe: str | None, device: str) -> list[str]:
    """Return the modules that every arm needs, and the one that makes checkpoints."""
    ours = [name for name in PRELOAD[device] if name.startswith("repros.")]
    return ["repros.worker.arm", "repros.worker.preload", *ours, *([CHECKPOINTS] if recipe else [])]


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
    """Return a template of text that is not HTML; UserError where the installation lacks it.

    In one of Markdown what is put in shows as text, but for what is `escape.Safe` or goes through the filter ``ours``.
    """
    try:
        text = (ROOT / "repros" / "templates" / name).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"repros/templates/{name}: {error.strerror}",
            "the installation lacks it; install the suite again: `python3 -m pip install -e .`",
        ) from error
    made = jinja2.Environment(  # noqa: S701 - Markdown and Python
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    if name.endswith(".md.j2"):
        made.finalize = lambda value: escape.markdown(value) if isinstance(value, str) else value
        made.filters.update(
            ours=escape.Safe, code=escape.code, bold=escape.bold, fence=escape.fence, python=escape.python
        )
        made.globals["table"] = escape.table
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
    without = {canonicalize_name(name.partition(" ")[0]) for name in missing}
    lines = [
        line.split(" #")[0].strip()
        for line in lock.splitlines()
        if line.strip() and not line.lstrip().startswith(("#", "-"))
    ]
    locked = {canonicalize_name(line.partition("==")[0].strip()) for line in lines}
    # A lock around the host's torch leaves that out; what was there when the trial ran is in its packages.
    further = {name: version for name, version in packages.items() if canonicalize_name(name) not in locked}
    lines += [f"{name}=={version}" for name, version in further.items() if version]
    kept = [public(line) for line in lines if canonicalize_name(line.partition("==")[0].strip()) not in without]
    return Pins(tuple(kept), tuple(packages), tuple(missing))


def public(requirement: str) -> str:
    """Return a pin without its local version; UserError where it is none (a version that an index has)."""
    pin, semicolon, marker = requirement.partition(";")
    made = pin.partition("+")[0].strip() + (f" ;{marker}" if semicolon else "")
    try:
        found = Requirement(made)
    except InvalidRequirement:
        found = None
    if found is None or found.url or [one.operator for one in found.specifier] != ["=="]:
        raise UserError(f"{requirement!r} is not an exact pin", "a script is built from pins: name==version")
    return made
