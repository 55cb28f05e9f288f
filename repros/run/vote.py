"""A script's vote, from what was seen of it: ``good``, ``bad`` or ``skip``, as `git bisect run` takes them.

Pure: nothing here runs a script. A bad vote carries a signature, so that another failure is not taken for the first.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from repros.errors import UserError, nearest, shortened
from repros.verdict import apart, show

GOOD, BAD, SKIP = "good", "bad", "skip"
#: What every page says of a script's votes.
NO_CONTROLS = "no controls: the script's own word"
#: The exit code by which a script says that it cannot tell.
EXIT_SKIP = 125
#: Every figure that is read of a script, and its unit.
FIGURES: Mapping[str, str] = {
    "seconds": "seconds",
    **dict.fromkeys(("peak_rss_bytes", "cuda_peak_allocated_bytes", "cuda_peak_reserved_bytes"), "bytes"),
    **dict.fromkeys(("peak_live_bytes", "live_end_bytes", "saved_bytes", "peak_heap_bytes"), "bytes"),
}
#: Those that are read in a second run, under meters that would cost the first one time.
METERED = ("peak_live_bytes", "live_end_bytes", "saved_bytes", "peak_heap_bytes")
#: Of these two there is one a dtype too, such as ``peak_live_bytes.float32``.
BY_DTYPE = ("peak_live_bytes", "live_end_bytes")
_UNITS = {
    **{"B": ("bytes", 1), "KB": ("bytes", 10**3), "MB": ("bytes", 10**6), "GB": ("bytes", 10**9)},
    **{"KiB": ("bytes", 1 << 10), "MiB": ("bytes", 1 << 20), "GiB": ("bytes", 1 << 30)},
    **{"s": ("seconds", 1), "ms": ("seconds", 0.001), "min": ("seconds", 60)},
}
_COMPARED = re.compile(r"([\w.]+)\s*(>=|<=|>|<)\s*(?:([0-9.]+)\s*\*\s*)?(\S.*)")
_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?)(?:\s*([A-Za-z]+))?")
_THAN: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip
FORMS = "exit, timeout, raises NAME[: regex], output: regex, or FIGURE > NUMBER UNIT, FIGURE > 1.5 * CELL"


@dataclass(frozen=True)
class Seen:
    """What was seen of one run of a script."""

    exit: int | None = None
    """None where it had no end of its own: see ``ending``."""
    ending: str = ""
    """How it ended, in words; for one that was not run, why."""
    late: bool = False
    exception: tuple[str, ...] = ()
    """Type names, most derived first, of the exception that ended it."""
    text: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    output: str = ""
    """What it printed, both ends of it where that is long."""

    @property
    def reason(self) -> str:
        """Say in a line how it ended."""
        first = next((line for line in self.text.splitlines() if line.strip()), "").strip()
        return f"{self.exception[0]}{f': {first}' if first else ''}" if self.exception else self.ending


@dataclass(frozen=True)
class Rule:
    """What counts as bad."""

    text: str
    kind: Literal["exit", "timeout", "raises", "output", "figure"]
    name: str = ""
    """An exception, or a figure."""
    pattern: re.Pattern[str] = re.compile("")
    than: str = ">"
    factor: float = 1.0
    number: float | None = None
    """In the figure's own unit: bytes, seconds."""
    cell: str = ""
    """The good cell, or release, that a figure is held against."""

    @property
    def metered(self) -> bool:
        """Return whether it needs a figure of the second run."""
        return self.kind == "figure" and self.name.partition(".")[0] in METERED

    def limit(self, against: Seen | None) -> float | None:
        """Return what the figure is held against; None where the good cell has no such figure."""
        base = self.number if not self.cell else against.figures.get(self.name) if against else None
        return None if base is None else self.factor * base


EXIT = Rule("exit", "exit")


def parse(text: str) -> Rule:
    """Read a rule; UserError for what is none."""
    word, _, rest = (part.strip() for part in text.partition(":"))
    if text.strip() in ("exit", "timeout"):
        return Rule(text.strip(), "exit" if text.strip() == "exit" else "timeout")
    if word == "output":
        if not rest:
            raise UserError("--bad-if output: no regular expression", "write one, such as `output: err 0\\.[1-9]`")
        return Rule(text, "output", pattern=_pattern(rest))
    if found := re.fullmatch(r"raises\s+([\w.]+)", word):
        return Rule(text, "raises", found[1].rpartition(".")[2], _pattern(rest))
    if compared := _COMPARED.fullmatch(text.strip()):
        return _comparison(text.strip(), *compared.groups())
    raise UserError(f"--bad-if: `{shortened(text)}` is no rule", f"write {FORMS}")


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text, re.MULTILINE)
    except (re.error, RecursionError, OverflowError) as error:
        what = f"--bad-if: `{shortened(text)}` is not a regular expression: {error}"
        raise UserError(what, "escape what is meant as it is written: `\\(`, `\\.`") from None


def _comparison(text: str, name: str, than: str, times: str | None, right: str) -> Rule:
    figure, dot, _ = name.partition(".")
    if figure not in FIGURES or (dot and figure not in BY_DTYPE):
        raise UserError(f"--bad-if: no figure `{shortened(name)}`", nearest(figure, FIGURES))
    try:
        factor = float(times) if times else 1.0
    except ValueError:
        raise UserError(f"--bad-if: `{shortened(str(times))}` is not a number", "write one, such as `1.5`") from None
    number = _NUMBER.fullmatch(right)
    if number is None or (number[2] and number[2] not in _UNITS):
        return Rule(text, "figure", name, than=than, factor=factor, cell=right.strip())
    unit, scale = _UNITS.get(number[2] or "", ("", 1))
    if unit != FIGURES[figure]:
        units = ", ".join(word for word, (kind, _) in _UNITS.items() if kind == FIGURES[figure])
        raise UserError(f"--bad-if: {name} is in {FIGURES[figure]}: `{right}`", f"write its unit: {units}")
    return Rule(text, "figure", name, than=than, factor=factor, number=float(number[1]) * scale)


def cast(rule: Rule, seen: Seen, against: Seen | None = None) -> tuple[str, str]:
    """Return the vote (``good``, ``skip``, or ``bad: `` and a signature) and the reason.

    ``against`` is the run in the good cell that a figure is held against.
    """
    ended = seen.exit == 0
    if rule.kind == "output" and (found := rule.pattern.search(seen.output)):
        line = seen.output[: found.start()].rpartition("\n")[2] + seen.output[found.start() :].partition("\n")[0]
        return f"{BAD}: {rule.text}", f"printed {shortened(line.strip(), 60)}"
    if rule.kind == "raises" and rule.name in seen.exception and rule.pattern.search(seen.text):
        return f"{BAD}: {rule.text}", seen.reason
    if rule.kind == "timeout" and seen.late:
        return f"{BAD}: timeout", seen.ending
    if rule.kind == "figure" and ended:
        return _by_figure(rule, seen, against)
    if ended:
        return GOOD, seen.ending
    if rule.kind != "exit" or seen.exit in (None, EXIT_SKIP) or "ImportError" in seen.exception:
        return SKIP, seen.reason
    return f"{BAD}: {signature(seen)}", seen.reason


def _by_figure(rule: Rule, seen: Seen, against: Seen | None) -> tuple[str, str]:
    value, limit = seen.figures.get(rule.name), rule.limit(against)
    if value is None or limit is None:
        where = "" if value is None else f" in {rule.cell}"
        return SKIP, f"no {rule.name}{where}"
    unit = FIGURES[rule.name.partition(".")[0]]
    more = apart([value], limit, unit)
    words = f"{rule.name} {show(value, unit, more)} against {show(limit, unit, more)}"
    return (f"{BAD}: {rule.text}" if _THAN[rule.than](value, limit) else GOOD), words


def signature(seen: Seen) -> str:
    """Return what tells one failure from another; an assertion's text is figures, so it does not count."""
    if not seen.exception:
        return seen.ending
    return "AssertionError" if seen.exception[0] == "AssertionError" else failure(seen.exception[0], seen.text)


def failure(kind: str, text: str) -> str:
    """Return an exception's type and first line, numbers taken out."""
    line = next(iter(text.strip().splitlines()), "")
    shown = re.sub(r"\b(0x[0-9a-f]+|\d+)\b", "N", line)
    return f"{kind}: {shown[:120]}"


def settled(votes: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the votes of one table: what fails otherwise than the first bad one votes ``skip``."""
    found: list[tuple[str, str]] = []
    first = ""
    for vote, reason in votes:
        word, _, mark = vote.partition(": ")
        if word == BAD:
            first = first or mark
            if mark != first:
                word, reason = SKIP, f"another failure: {reason}"
        found.append((word, reason))
    return found
