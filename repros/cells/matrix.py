"""``matrix.yaml`` -> cells: axes, companions, tiers and the excludes that say what cannot be.

Pure: reads one file, starts nothing, imports nothing under test. Every error is a ``UserError``
that names the file, the key and a fix. The checks are written by hand: a library that validates types knows neither
the nearest name nor the pin to write in place of a wrong one, and most of these checks hold one key against another.
"""

from __future__ import annotations

import difflib
import itertools
import math
import os
import re
import stat
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from repros.case import AXES as AXES
from repros.case import COMPANIONS as COMPANIONS
from repros.case import DEVICES as DEVICES
from repros.case import PACKAGES as PACKAGES
from repros.cells.overrides import is_version, parse_override
from repros.errors import UserError, nearest, shortened

HOST = "host"
"""The pin of torch that means: the torch which the host has, kept as it is."""
#: Follow the release of another package wherever it demands so; uv stays at the cell's version where that fits.
FOLLOWERS = ("huggingface_hub", "tokenizers")
ANY = ">=0"
"""The pin of a package that follows."""

_SECTIONS = ("tiers", "axes", "companions", "excludes", "cells")
_CELL_KEYS = ("name", "tiers", "device", "note", *PACKAGES)
_CELL_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,99}")  # it names folders
_TIER_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
#: Bytes of a file, and how deep its values may nest (the shipped one: 8 KB, 4 deep).
_MOST_BYTES, _MOST_DEEP = 256 << 10, 16
#: Characters of a text, and of a pin or specifier: far more digits than a release has ever had.
_MOST_TEXT, _MOST_PIN = 1000, 100
#: Cells and excludes are held against each other, and each exclude against what the axes can combine to.
_MOST_CELLS, _MOST_RULES, _MOST_COMBINATIONS = 500, 100, 10_000


@dataclass(frozen=True)
class Cell:
    """Exact pins on one device.

    ``pins`` maps a package to a version, or to what was given in place of it (see ``overrides``).
    ``overrides`` holds only what ``with_override`` put there: a version, a specifier or a path.
    """

    name: str
    device: str
    pins: Mapping[str, str] = field(hash=False)
    tiers: tuple[str, ...] = ()
    note: str = ""
    overrides: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pins", MappingProxyType(dict(self.pins)))
        object.__setattr__(self, "overrides", MappingProxyType(dict(self.overrides)))

    @property
    def label(self) -> str:
        """Name for people: the cell's, followed by what was put in place of its pins; what follows is left out."""
        changed = [f"{package}={spec}" for package, spec in self.overrides.items() if spec != ANY]
        return " with ".join([self.name, *([", ".join(changed)] if changed else [])])

    def with_override(self, package: str, spec: str) -> Cell:
        """Return this cell with `spec` in place of one pin.

        `spec` is a version, a specifier (``>=0.49``), a requirement on the same package, a wheel
        or a folder with a checkout. A path is kept as it was written; whether it exists is for
        the installer to say. Raises UserError for an unknown package or a spec of another kind.
        """
        return self.with_pin(_known_package(package, self.pins), spec)

    def with_pin(self, package: str, spec: str) -> Cell:
        """Return this cell with `spec` for a package that it may not have pinned so far."""
        parsed = parse_override(package, spec)
        pins = {**self.pins, package: parsed}
        return replace(self, pins=pins, overrides={**self.overrides, package: parsed})


@dataclass(frozen=True)
class Exclude:
    """A combination that cannot be, and why."""

    when: Mapping[str, str] = field(hash=False)
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "when", MappingProxyType(dict(self.when)))

    def __str__(self) -> str:
        return " and ".join(f"{key} {value}" for key, value in self.when.items())

    def matches(self, pins: Mapping[str, str], device: str) -> bool:
        """Say whether every condition holds; a pin that is not a version matches none."""
        return all(
            value == device if key == "device" else _holds(value, pins.get(key, "")) for key, value in self.when.items()
        )


@dataclass(frozen=True)
class Matrix:
    """All that ``matrix.yaml`` says, checked."""

    file: str
    axes: Mapping[str, tuple[str, ...]]
    cells: tuple[Cell, ...]
    tiers: Mapping[str, str]
    """Tier name -> what the tier is for."""
    excludes: tuple[Exclude, ...]

    def cell(self, name: str) -> Cell:
        """Return the cell called `name`, or raise UserError with the nearest names."""
        for cell in self.cells:
            if cell.name == name:
                return cell
        names = [cell.name for cell in self.cells]
        raise UserError(f"{self.file}: no cell `{name}`", nearest(name, names))

    def tier(self, name: str) -> tuple[Cell, ...]:
        """Return the cells of a tier in the order of the file, or raise UserError."""
        if name not in self.tiers:
            raise UserError(f"{self.file}: no tier `{name}`", nearest(name, self.tiers))
        return tuple(cell for cell in self.cells if name in cell.tiers)

    def excluded_by(self, pins: Mapping[str, str], device: str) -> Exclude | None:
        """Return the first exclude that matches, as after an override; None where all is well."""
        return next((rule for rule in self.excludes if rule.matches(pins, device)), None)


def load_matrix(path: Path) -> Matrix:
    """Read and check a matrix file.

    Raises UserError, in two lines, for whatever is wrong in it.
    """
    at = _At(path.name)
    top = at.mapping(_read(path))
    at.known_keys(top, _SECTIONS)
    for section in ("tiers", "axes", "companions", "cells"):
        at.required(top, section)
    axes = _axes(at["axes"], top["axes"])
    companions = _companions(at["companions"], top["companions"], axes)
    tiers = _tiers(at["tiers"], top["tiers"])
    excludes = _excludes(at["excludes"], top.get("excludes", []), axes, companions)
    cells = _cells(at["cells"], top["cells"], axes, companions, tiers)
    _check_cells(at["cells"], cells, excludes)
    _check_tiers(at["tiers"], tiers, cells)
    return Matrix(path.name, axes, cells, tiers, excludes)


def chosen_cells(matrix: Matrix, tier: str | None, names: Iterable[str], overrides: Iterable[str]) -> tuple[Cell, ...]:
    """Return the named cells (else the tier's, else tier ``smoke``), with ``PACKAGE=SPEC`` overrides.

    A tier begins with its newest, the last in the file: it can try the most, and what it shares serves the others.
    Raises UserError for what is unknown or not of that form.
    """
    cells = tuple(matrix.cell(name) for name in names) or matrix.tier(tier or "smoke")[::-1]
    given = tuple(overrides)
    return tuple(overridden(cell, given) for cell in cells)


def overridden(cell: Cell, overrides: Iterable[str]) -> Cell:
    """Return the cell with what ``--with PACKAGE=SPEC`` (or ``PACKAGE==VERSION``) puts in place of its pins.

    Packages that must follow others are resolved anew.
    """
    given = []
    for override in overrides:
        package, separator, spec = override.partition("=")
        if not separator:
            what = f"--with {override}: no `=` in it"
            raise UserError(what, "write `--with bitsandbytes=PATH_OR_SPEC`")
        cell = cell.with_override(package.strip(), spec.removeprefix("="))
        given.append(_known_package(package.strip(), cell.pins))
    return with_followers(cell, *given) if given else cell


def with_followers(cell: Cell, *given: str) -> Cell:
    """Let the packages that must follow others be resolved anew, near to the cell's own versions; not those given."""
    for name in FOLLOWERS:
        if name in cell.pins and name not in given:
            cell = cell.with_override(name, ANY)
    return cell


def _known_package(package: str, pins: Mapping[str, str]) -> str:
    """Return the pin's own spelling of `package`; unknown names are refused, not installed."""
    for name in pins:
        if canonicalize_name(name) == canonicalize_name(package):
            return name
    what = f"--with {package}: the cells do not pin `{package}`"
    raise UserError(what, nearest(package, pins))


@dataclass(frozen=True)
class _At:
    """A place in the file, such as ``cells[3].torch``."""

    file: str
    key: str = ""

    def __getitem__(self, step: str | int) -> _At:
        if isinstance(step, int):
            return _At(self.file, f"{self.key}[{step}]")
        return _At(self.file, f"{self.key}.{step}" if self.key else step)

    def error(self, what: str, hint: str) -> UserError:
        place = f"{self.file}: {self.key}" if self.key else self.file
        return UserError(f"{place}: {what}", hint)

    def mapping(self, value: object) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        raise self.error(f"{_kind(value)} where a mapping belongs", "write `key: value` lines")

    def sequence(self, value: object) -> list[Any]:
        if isinstance(value, list):
            return value
        raise self.error(f"{_kind(value)} where a list belongs", "write `[a, b]` or `- a` lines")

    def at_most(self, count: int, most: int, what: str) -> None:
        if count > most:
            raise self.error(f"{count} {what}, at most {most} are read", "keep those that trials are made in")

    def text(self, value: object) -> str:
        if not isinstance(value, str) or not value.strip():
            found = "nothing" if isinstance(value, str) else _kind(value)
            raise self.error(f"{found} where a text belongs", "write one value on this line")
        text = value.strip()
        self.at_most(len(text), _MOST_TEXT, "characters")
        # A control character or half of a surrogate pair cannot be printed; a bidirectional one lies about the rest.
        wrong = next((c for c in text if not c.isprintable()), None)
        if wrong is not None:
            raise self.error(f"the character U+{ord(wrong):04X} in a text", "write plain characters on one line")
        return text

    def known_keys(self, value: Mapping[str, object], known: Iterable[str]) -> None:
        names = tuple(known)
        for key in value:
            if key not in names:
                raise self.error(f"unknown key `{shortened(key)}`", _nearest(key, names, "keys"))

    def required(self, value: Mapping[str, object], key: str) -> None:
        if key not in value:
            raise self.error(f"no `{key}`", f"add `{key}:`")


def _kind(value: object) -> str:
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return f"`{shortened(str(value))}`" if value else "nothing"


def _nearest(wrong: str, known: Iterable[str], what: str) -> str:
    """Say the close match, or all that there is."""
    names = list(known)
    close = difflib.get_close_matches(wrong, names, n=1)
    return f"did you mean `{close[0]}`?" if close else f"{what}: {', '.join(names)}"


class _Loader(yaml.BaseLoader):
    """Every scalar stays the text that was written, so ``2.10`` cannot become ``2.1``.

    The parser is the one in Python, whether or not the C library is there: its faults name the character that it met,
    and a file of the largest size that is read takes it a second.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse what no matrix needs and what can grow without bound: aliases, tags, deep nesting."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        tag = getattr(event, "tag", None)
        if isinstance(event, yaml.AliasEvent):
            problem = f"the alias `*{shortened(event.anchor or '')}`: each value is written out here"
        elif tag:
            problem = f"the tag `{shortened(tag)}`: every value is a plain text here"
        elif self.depth > _MOST_DEEP:
            problem = f"values nested more than {_MOST_DEEP} deep"
        else:
            self.depth += 1
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                problem = "a list or a mapping where a key belongs"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            if key.value in seen:
                problem = f"`{shortened(key.value)}` is written twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> object:
    """Parse the file; a fault in its YAML is told with line and column."""
    try:
        text = _content(path)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a BaseLoader
    except OSError as error:
        hint = "run from the checkout's root, or name the file with `--matrix`"
        raise UserError(f"{path}: {error.strerror or error}", hint) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name}: byte {error.start} is not UTF-8", "save it as UTF-8") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"{path.name}: line {line}: the character U+{ord(text[error.position]):04X} cannot stand in YAML"
        raise UserError(what, "delete it") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = shortened(getattr(error, "problem", None) or " ".join(str(error).split()), 200)
        hint = "fix the YAML there: indentation, quotes, a missing `:` or bracket"
        raise UserError(f"{path.name}: {where}{problem}", hint) from None


def _content(path: Path) -> str:
    """Read a file of a size that a matrix can have; a pipe or a device may have no end."""
    with path.open("rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise UserError(f"{path}: not a file", "name a matrix file")
        if about.st_size > _MOST_BYTES:
            what = f"{path.name}: {about.st_size:,} bytes, at most {_MOST_BYTES:,} are read"
            raise UserError(what, "keep the cells that trials are made in")
        return file.read(_MOST_BYTES).decode("utf-8")


def _pin(at: _At, value: object) -> str:
    """Check that a pin is one whole release such as ``2.9.0``."""
    text = at.text(value)
    try:
        version = Version(text if len(text) <= _MOST_PIN else "")
    except InvalidVersion:
        numbers = re.search(r"[0-9]{1,9}(?:\.[0-9]{1,9})*", text[:_MOST_PIN])
        hint = _whole(numbers.group()) if numbers else "2.13.0"
        raise at.error(f"`{shortened(text)}` is not an exact pin", f"write `{hint}`") from None
    if version.local:
        hint = f"write `{version.public}`; the build is chosen on the host"
        raise at.error(f"`{text}` names a build", hint)
    if len(version.release) < 3 or version.epoch:
        raise at.error(f"`{text}` is not an exact pin", f"write `{_whole(text)}`")
    return text


def _whole(version: str) -> str:
    """Fill ``2.9`` up to ``2.9.0``."""
    missing = 3 - len(Version(version).release)
    return version + ".0" * missing


def _axes(at: _At, value: object) -> Mapping[str, tuple[str, ...]]:
    given = at.mapping(value)
    at.known_keys(given, AXES)
    axes: dict[str, tuple[str, ...]] = {}
    for axis in AXES:
        at.required(given, axis)
        values = at[axis].sequence(given[axis])
        pins = tuple(_pin(at[axis][i], pin) for i, pin in enumerate(values))
        if not pins:
            raise at[axis].error("no values", "list at least one release")
        _no_repeats(at[axis], pins)
        axes[axis] = pins
    at.at_most(math.prod(map(len, axes.values())), _MOST_COMBINATIONS, "combinations")
    return axes


def _no_repeats(at: _At, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for i, value in enumerate(values):
        if value in seen:
            raise at[i].error(f"`{value}` is written twice", "remove one")
        seen.add(value)


def _companions(at: _At, value: object, axes: Mapping[str, tuple[str, ...]]) -> Mapping[str, Mapping[str, str]]:
    """Read the companions of each transformers release; a missing one shows at the cell."""
    given = at.mapping(value)
    at.known_keys(given, axes["transformers"])
    table: dict[str, Mapping[str, str]] = {}
    for release, pins in given.items():
        here = at[release]
        here.known_keys(here.mapping(pins), COMPANIONS)
        table[release] = {name: _pin(here[name], pin) for name, pin in pins.items()}
    return table


def _tiers(at: _At, value: object) -> Mapping[str, str]:
    given = at.mapping(value)
    for name in given:
        if not _TIER_NAME.fullmatch(name):
            raise at.error(f"`{shortened(name)}` is not a valid tier name", "use a-z, 0-9 and _")
    at.at_most(len(given), _MOST_RULES, "tiers")
    return {name: at[name].text(what) for name, what in given.items()}


def _excludes(
    at: _At,
    value: object,
    axes: Mapping[str, tuple[str, ...]],
    companions: Mapping[str, Mapping[str, str]],
) -> tuple[Exclude, ...]:
    given = at.sequence(value)
    at.at_most(len(given), _MOST_RULES, "excludes")
    rules = tuple(_exclude(at[i], item) for i, item in enumerate(given))
    for i, rule in enumerate(rules):
        twin = next((j for j in range(i) if rules[j].when == rule.when), None)
        if twin is not None:
            raise at[i].error(f"says again what excludes[{twin}] says", "remove one")
    _check_room(at, rules, axes, companions)
    return rules


def _exclude(at: _At, value: object) -> Exclude:
    given = at.mapping(value)
    at.known_keys(given, ("when", "reason"))
    at.required(given, "when")
    at.required(given, "reason")
    when = at["when"].mapping(given["when"])
    at["when"].known_keys(when, ("device", *PACKAGES))
    if not when:
        raise at["when"].error("no condition", "name a package and a specifier")
    checked = {key: _condition(at["when"][key], key, text) for key, text in when.items()}
    return Exclude(checked, at["reason"].text(given["reason"]))


def _condition(at: _At, key: str, value: object) -> str:
    text = at.text(value)
    if key == "device":
        if text not in DEVICES:
            raise at.error(f"unknown device `{text}`", _nearest(text, DEVICES, "devices"))
        return text
    try:
        specifier = SpecifierSet(text if len(text) <= _MOST_PIN else "too long")
    except InvalidSpecifier:
        hint = f"write `=={text}`" if is_version(text) else "write a specifier such as `>=5,<5.17`"
        raise at.error(f"`{shortened(text)}` is not a specifier", hint) from None
    if not _satisfiable(specifier):
        raise at.error(f"`{text}` matches no version at all", "the bounds contradict each other")
    return text


def _satisfiable(specifier: SpecifierSet) -> bool:
    """Probe the versions at and just beside each bound; a set that takes none of them is empty."""
    probes = ["0", "99999"]
    for one in specifier:
        bound = one.version.removesuffix(".*")
        probes += [bound, f"{bound}.0.1", f"{bound}.post1", f"{bound}.dev0"]
    return any(is_version(probe) and specifier.contains(probe, prereleases=True) for probe in probes)


@lru_cache(maxsize=1 << 16)  # the same few are asked of each combination of the axes
def _holds(specifier: str, version: str) -> bool:
    return is_version(version) and SpecifierSet(specifier).contains(version, prereleases=True)


_Combination = tuple[dict[str, str], str]


def _combinations(
    axes: Mapping[str, tuple[str, ...]], companions: Mapping[str, Mapping[str, str]]
) -> Iterator[_Combination]:
    """Yield the pins and device of every cell that the axes could make."""
    for device, *values in itertools.product(DEVICES, *(axes[axis] for axis in AXES)):
        pins = dict(zip(AXES, values, strict=True))
        yield {**pins, **companions.get(pins["transformers"], {})}, device


def _check_room(
    at: _At,
    rules: tuple[Exclude, ...],
    axes: Mapping[str, tuple[str, ...]],
    companions: Mapping[str, Mapping[str, str]],
) -> None:
    """Refuse excludes that, alone or together, leave no cell for some value of an axis."""
    hits = [
        (pins, {i for i, rule in enumerate(rules) if rule.matches(pins, device)})
        for pins, device in _combinations(axes, companions)
    ]
    if all(hit for _, hit in hits):
        culprits = _needed([hit for _, hit in hits])
        axis = next((a for a in AXES for i in culprits if a in rules[i].when), AXES[0])
        raise _no_room(at, culprits, axis, f"every value of axes.{axis}")
    for axis in AXES:
        for value in axes[axis]:
            here = [hit for pins, hit in hits if pins[axis] == value]
            if all(here):
                raise _no_room(at, _needed(here), axis, f"every cell with {axis} {value}")


def _needed(hits: list[set[int]]) -> list[int]:
    """Drop one rule after the other for as long as every combination stays excluded."""
    kept = sorted(set().union(*hits))
    for rule in tuple(kept):
        fewer = set(kept) - {rule}
        if all(hit & fewer for hit in hits):
            kept = sorted(fewer)
    return kept


def _no_room(at: _At, culprits: list[int], axis: str, what: str) -> UserError:
    names = [f"excludes[{i}]" for i in culprits]
    verb = "together match" if len(names) > 1 else "matches"
    hint = f"narrow {' or '.join(names)}, or change axes.{axis}"
    return _At(at.file).error(f"{' and '.join(names)} {verb} {what}", hint)


def _cells(
    at: _At,
    value: object,
    axes: Mapping[str, tuple[str, ...]],
    companions: Mapping[str, Mapping[str, str]],
    tiers: Mapping[str, str],
) -> tuple[Cell, ...]:
    cells = []
    at.at_most(len(at.sequence(value)), _MOST_CELLS, "cells")
    for i, item in enumerate(at.sequence(value)):
        given = at[i].mapping(item)
        at[i].known_keys(given, _CELL_KEYS)
        cells.append(_cell(at[i], given, axes, companions, tiers))
    return tuple(cells)


def _cell(
    at: _At,
    given: Mapping[str, object],
    axes: Mapping[str, tuple[str, ...]],
    companions: Mapping[str, Mapping[str, str]],
    tiers: Mapping[str, str],
) -> Cell:
    for key in ("name", "tiers", *AXES):
        at.required(given, key)
    name = at["name"].text(given["name"])
    if not _CELL_NAME.fullmatch(name):
        raise at["name"].error(f"`{shortened(name)}` is not a valid cell name", "use a-z, 0-9, `.` and `-`")
    device = at["device"].text(given.get("device", "cpu"))
    if device not in DEVICES:
        raise at["device"].error(f"unknown device `{device}`", _nearest(device, DEVICES, "devices"))
    pins = {axis: _axis_pin(at[axis], axis, given[axis], device, axes) for axis in AXES}
    release = pins["transformers"]
    pins |= companions.get(release, {})
    pins |= {name: _pin(at[name], given[name]) for name in COMPANIONS if name in given}
    for companion in COMPANIONS:
        if companion not in pins:
            hint = f"add it to companions.{release}, or to this cell"
            raise at.error(f"no pin for `{companion}`", hint)
    note = at["note"].text(given["note"]) if "note" in given else ""
    ordered = {package: pins[package] for package in PACKAGES}
    return Cell(name, device, ordered, _cell_tiers(at["tiers"], given["tiers"], tiers), note)


def _axis_pin(at: _At, axis: str, value: object, device: str, axes: Mapping[str, tuple[str, ...]]) -> str:
    if axis == "torch" and value == HOST:
        if device == "cpu":
            raise at.error("`host` on a CPU cell", "pin a release; `host` is for `device: cuda`")
        return HOST
    pin = _pin(at, value)
    if pin not in axes[axis]:
        hint = f"add it to axes.{axis}, or use one of {', '.join(axes[axis])}"
        raise at.error(f"`{pin}` is not on its axis", hint)
    return pin


def _cell_tiers(at: _At, value: object, tiers: Mapping[str, str]) -> tuple[str, ...]:
    names = tuple(at[i].text(name) for i, name in enumerate(at.sequence(value)))
    _no_repeats(at, names)
    for i, name in enumerate(names):
        if name not in tiers:
            raise at[i].error(f"unknown tier `{name}`", _nearest(name, tiers, "tiers"))
    return names


def _check_cells(at: _At, cells: tuple[Cell, ...], excludes: tuple[Exclude, ...]) -> None:
    """Refuse a name or a set of pins that stands twice, and a cell that an exclude matches."""
    if not cells:
        raise at.error("no cells", "add at least one")
    for i, cell in enumerate(cells):
        for j, earlier in enumerate(cells[:i]):
            if cell.name == earlier.name:
                raise at[i].error(f"`{cell.name}` is the name of cells[{j}] too", "rename one")
            if (cell.pins, cell.device) == (earlier.pins, earlier.device):
                what = f"the same pins and device as cells[{j}], `{earlier.name}`"
                raise at[i].error(what, "remove one, or change a pin")
        for j, rule in enumerate(excludes):
            if rule.matches(cell.pins, cell.device):
                what = f"`{cell.name}` matches excludes[{j}]: {rule.reason}"
                raise at[i].error(what, f"change its pins, or narrow excludes[{j}] ({rule})")


def _check_tiers(at: _At, tiers: Mapping[str, str], cells: tuple[Cell, ...]) -> None:
    for tier in tiers:
        if not any(tier in cell.tiers for cell in cells):
            raise at[tier].error("no cell is in this tier", f"add `{tier}` to the tiers of a cell")
