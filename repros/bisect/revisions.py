"""What a bisection walks over: releases put into a cell one after the other, or commits of a local clone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from packaging.utils import canonicalize_name

from repros.bisect.releases import Release
from repros.case import Condition
from repros.cells.matrix import ANY, FOLLOWERS, PACKAGES, Cell, Matrix, with_followers
from repros.errors import UserError, nearest
from repros.requirements import unmet

#: Where a package is developed, and what its release tags begin with.
UPSTREAM = {
    "transformers": ("huggingface/transformers", "v", "src/transformers"),
    "bitsandbytes": ("bitsandbytes-foundation/bitsandbytes", "", "bitsandbytes"),
    "accelerate": ("huggingface/accelerate", "v", "src/accelerate"),
    "peft": ("huggingface/peft", "v", "src/peft"),
    "torch": ("pytorch/pytorch", "v", "torch"),
    "huggingface_hub": ("huggingface/huggingface_hub", "v", "src/huggingface_hub"),
    "tokenizers": ("huggingface/tokenizers", "v", "."),
}


@dataclass(frozen=True)
class Source:
    """A commit whose sources stand in for an installed package."""

    repo: Path
    commit: str
    folder: str
    """The package's folder in the repository, such as ``src/transformers``."""
    dirty: bool = False
    """The worktree as it lies there, uncommitted changes included, in place of the commit."""


@dataclass(frozen=True)
class Revision:
    """One point of a history, and the cell to try it in."""

    name: str
    """A version, or the first ten digits of a commit."""
    cell: Cell
    date: str = ""
    subject: str = ""
    """First line of a commit's message."""
    merge: str = ""
    """The second parent of a merge commit."""
    source: Source | None = None
    native: str = ""
    """For a commit: what its native library is, and the limit of that, in words."""
    problem: str = field(default="", compare=False)
    """Why it cannot be tried at all, known without a probe."""


def package_named(name: str) -> str:
    """Return the package of the matrix that a user's word means."""
    for package in PACKAGES:
        if canonicalize_name(package) == canonicalize_name(name):
            return package
    raise UserError(f"unknown package `{name}`", f"{nearest(name, PACKAGES)}; or `auto`")


def of_releases(package: str, releases: Sequence[Release], base: Cell, matrix: Matrix) -> tuple[Revision, ...]:
    """Put each release into the base cell; what an index or the matrix rules out is marked, not probed."""
    found = []
    for release in releases:
        version = str(release)
        cell = base if base.pins[package] == version else base.with_override(package, version)
        rule = matrix.excluded_by({package: version, **_others(base, package)}, base.device)
        problem = release.problem or (f"excluded: {rule.reason}" if rule else "")
        found.append(Revision(version, with_followers(cell, package), release.date, problem=problem))
    return tuple(found)


def of_script(package: str, releases: Sequence[Release], base: Cell) -> tuple[Revision, ...]:
    """Put each release into the base cell for a script: of any package, whatever the matrix leaves out."""
    found = []
    for release in releases:
        version = str(release)
        cell = base if base.pins.get(package) == version else base.with_pin(package, version)
        yanked = ", yanked" if release.yanked else ""
        found.append(
            Revision(version, with_followers(cell, package), f"{release.date}{yanked}", problem=release.problem)
        )
    return tuple(found)


def any_package(name: str) -> str:
    """Return the package that a user's word means: the matrix's own spelling, else the index's."""
    same = (package for package in PACKAGES if canonicalize_name(package) == canonicalize_name(name))
    return next(same, str(canonicalize_name(name)))


def _others(base: Cell, package: str) -> dict[str, str]:
    """Return the pins that stay, without those that follow."""
    return {name: pin for name, pin in base.pins.items() if name not in (*FOLLOWERS, package)}


def ruled_out(revision: Revision, condition: Condition) -> str:
    """Return why a condition cannot be tried at a revision, as far as pins and machine tell; empty if it can."""
    pins = {name: pin for name, pin in revision.cell.pins.items() if pin != ANY}
    return revision.problem or unmet(condition.needs, pins)


def compare_link(package: str, low: str, high: str, *, commits: bool = False) -> str:
    """Return the page that shows what changed between two revisions; empty for an unknown package."""
    if package not in UPSTREAM:
        return ""
    repository, prefix, _ = UPSTREAM[package]
    tag = "" if commits else prefix
    return f"https://github.com/{repository}/compare/{tag}{quote(low)}...{tag}{quote(high)}"


def diff_command(package: str, low: str, high: str, *, commits: bool = False) -> str:
    """Return the command that shows it in a clone; empty for an unknown package."""
    if package not in UPSTREAM:
        return ""
    _, prefix, folder = UPSTREAM[package]
    tag = "" if commits else prefix
    return f"git diff {tag}{low} {tag}{high} -- {folder}"
