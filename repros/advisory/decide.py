"""Whether a report hits these versions, by what was tried: hit, not hit, or unknown, and why. Pure.

Between two releases that were tried and say the same, every release is taken to say that too. Outside of what was
tried, and between two releases that disagree, the answer is unknown.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from repros.advisory.model import Advisory, Condition, Mechanism, Needs

CPU, CUDA = "cpu", "cuda"
#: The worst first.
SEVERITIES = ("wrong numbers", "memory", "raises")


class Answer(StrEnum):
    """What is known of a mechanism under these versions."""

    HIT = "hit"
    NOT_HIT = "not hit"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Given:
    """What is asked about.

    ``whole`` says that a package without a version is not installed; else it was merely not named. What is None of the
    host is not known.
    """

    versions: Mapping[str, str]
    whole: bool = False
    devices: Sequence[str] = (CPU, CUDA)
    compiler: bool | None = None
    cpu: frozenset[str] | None = None
    """Features of the CPU, as Linux names them."""
    cards: int | None = None


@dataclass(frozen=True)
class Decision:
    """The answer for one condition, and why."""

    condition: Condition
    answer: Answer
    why: str


@dataclass(frozen=True)
class Finding:
    """The answer for one mechanism: that of its conditions together."""

    advisory: Advisory
    mechanism: Mechanism
    answer: Answer
    decisions: tuple[Decision, ...]

    @property
    def of_answer(self) -> tuple[Decision, ...]:
        """Return the decisions that the answer is made of."""
        return tuple(one for one in self.decisions if one.answer is self.answer)

    @property
    def why(self) -> str:
        """Return the reason, in a line."""
        return next((one.why for one in self.of_answer), "no release tried has it")

    @property
    def by_device(self) -> dict[str, tuple[Answer, str]]:
        """Return the answer of the conditions on each device, and the reason."""
        found: dict[str, tuple[Answer, str]] = {}
        for device in sorted({one.condition.device for one in self.decisions}):
            mine = [one for one in self.decisions if one.condition.device == device]
            answer = together(mine)
            found[device] = answer, next(one.why for one in mine if one.answer is answer)
        return found

    @property
    def upgrade(self) -> dict[str, str]:
        """Return the releases to upgrade to, as packages and versions; empty where none that was tried helps."""
        return self.mechanism.upgrade if self.own else self.mechanism.upgrade_beside

    @property
    def own(self) -> bool:
        """Return whether the report itself claims what the answer is about; else it was found beside the report."""
        return any(one.condition.own for one in self.of_answer or self.decisions)


def findings(advisories: Iterable[Advisory], given: Given) -> list[Finding]:
    """Return what is known of each mechanism that was ever reproduced, the worst severity first."""
    found = [mechanism(one, each, given) for one in advisories for each in one.about.mechanisms]
    tried = [one for one in found if one.decisions]
    return sorted(tried, key=lambda one: SEVERITIES.index(one.mechanism.severity))


def mechanism(advisory: Advisory, one: Mechanism, given: Given) -> Finding:
    """Return what is known of a mechanism."""
    mine = [each for each in one.conditions if each.windows and each.device in given.devices]
    decisions = tuple(condition(each, given) for each in mine)
    return Finding(advisory, one, together(decisions), decisions)


def together(decisions: Sequence[Decision]) -> Answer:
    """Return what conditions say together: hit if one is hit, else unknown if one is unknown."""
    answers = {each.answer for each in decisions}
    return next((answer for answer in (Answer.HIT, Answer.UNKNOWN) if answer in answers), Answer.NOT_HIT)


def condition(one: Condition, given: Given) -> Decision:
    """Decide one condition that is affected somewhere."""
    if given.whole and (missing := [package for package in one.tried if package not in given.versions]):
        return Decision(one, Answer.NOT_HIT, f"{missing[0]} is not installed")
    if lacking := unmet(one.needs, given):
        return Decision(one, Answer.NOT_HIT, lacking)
    box: dict[str, list[str]] = {}
    for package, releases in one.tried.items():
        version = given.versions.get(package)
        around = releases if version is None else neighbours(releases, version)
        if not around:
            return Decision(one, Answer.UNKNOWN, f"{package} {version}: not tried, {span(releases)}")
        box[package] = around
    named = [package for package in box if any(package in window for window in one.windows)]
    corners = [dict(zip(named, corner, strict=True)) for corner in itertools.product(*(box[each] for each in named))]
    bad = [is_affected(one.windows, corner) for corner in corners]
    if len(set(bad)) == 1:
        return Decision(one, Answer.HIT if bad[0] else Answer.NOT_HIT, _so(named, given, bad=bad[0]))
    return Decision(one, Answer.UNKNOWN, _edge(dict(zip(map(_frozen, corners), bad, strict=True)), box, given))


def unmet(needs: Needs, given: Given) -> str:
    """Return what a condition needs and these versions or this host do not have; empty if nothing.

    The memory of a card is no such need: it is of the size that was tried, not of the bug.
    """
    why = f" ({needs.reason})" if needs.reason else ""
    for package, specifier in needs.packages.items():
        version = parsed(given.versions.get(package, ""))
        if version is not None and not _holds(specifier, str(version)):
            return f"takes {package} {specifier}{why}"
    if given.compiler is False and needs.compiler:
        return f"takes a C++ compiler, here is none{why}"
    if given.cpu is not None and (lacking := [feature for feature in needs.cpu if feature not in given.cpu]):
        return f"takes a CPU with {', '.join(lacking)}{why}"
    if given.cards is not None and given.cards < needs.cards and needs.cards > 1:
        return f"takes {needs.cards} cards, here {given.cards}"
    return ""


def neighbours(releases: Sequence[str], version: str) -> list[str]:
    """Return the tried releases next to a version, itself where it was tried; none where it is outside of them."""
    wanted = parsed(version)
    if wanted is None:
        return []
    below = [one for one in releases if Version(one) <= wanted]
    above = [one for one in releases if Version(one) >= wanted]
    return list(dict.fromkeys((below[-1], above[0]))) if below and above else []


@lru_cache
def parsed(version: str) -> Version | None:
    """Return a version without its local part; None for what is none."""
    try:
        return Version(Version(version).public)
    except InvalidVersion:
        return None


def is_affected(windows: Iterable[Mapping[str, str]], releases: Mapping[str, str]) -> bool:
    """Return whether tried releases are in one of the windows."""
    return any(all(_holds(spec, releases[package]) for package, spec in window.items()) for window in windows)


@lru_cache
def _holds(specifier: str, version: str) -> bool:
    return SpecifierSet(specifier).contains(version, prereleases=True)


def span(releases: Sequence[str]) -> str:
    """Return in words which releases were tried."""
    return f"{releases[0]} to {releases[-1]} were" if len(releases) > 1 else f"{releases[0]} was"


def _frozen(corner: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(corner.items())


def _so(named: Sequence[str], given: Given, *, bad: bool) -> str:
    """Return the releases that decide, and which way."""
    releases = " and ".join(f"{package} {given.versions.get(package, 'of any release tried')}" for package in named)
    return f"{releases}: {'bad' if bad else 'good'}"


def _edge(
    corners: Mapping[tuple[tuple[str, str], ...], bool], box: Mapping[str, Sequence[str]], given: Given
) -> str:  # fmt: skip
    """Return between which tried releases the answer changes, of the packages that change it."""
    says = []
    for package, around in box.items():
        for one, other in itertools.pairwise(around):
            for corner, bad in corners.items():
                there = tuple((name, other if name == package else release) for name, release in corner)
                if (package, one) in corner and corners[there] != bad:
                    first, second = ("bad", "good") if bad else ("good", "bad")
                    says.append(
                        f"{package} is not named, and decides: {one} is {first}, {other} {second}"
                        if package not in given.versions
                        else f"between {package} {one}, {first}, and {other}, {second}, nothing was tried"
                    )
    return says[0]
