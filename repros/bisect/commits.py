"""Commits of a local clone as revisions: listed by git, tried from their sources without an install.

Pure-Python packages are imported straight from the sources of a commit. bitsandbytes has a native library: the one of
the nearest release's wheel is laid beside the sources, and where a commit's native sources differ from that release's,
the revision says so, since its library is then not its own.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from packaging.version import InvalidVersion, Version

from repros.bisect.revisions import UPSTREAM, Revision, Source
from repros.cells.matrix import Cell, with_followers
from repros.errors import UserError
from repros.machine.git import git

#: Where a package with a native library keeps that library's sources.
NATIVE: Mapping[str, tuple[str, ...]] = {"bitsandbytes": ("csrc", "include", "CMakeLists.txt")}
_LIBRARIES = (".so", ".dylib", ".dll", ".pyd")


def package_folder(repo: Path, package: str, commit: str = "HEAD") -> str:
    """Return the folder of a package in its repository: where upstream has it, else by name."""
    candidates = [UPSTREAM[package][2]] if package in UPSTREAM else []
    for folder in (*candidates, f"src/{package}", package):
        if git(repo, "ls-tree", "-d", "--name-only", commit, f"{folder}").strip():
            return folder
    raise UserError(f"{repo}: no folder of {package} at {commit}", f"give a clone of the repository of {package}")


def commits(repo: Path, package: str, good: str, bad: str, base: Cell) -> tuple[Revision, ...]:
    """Return the first-parent history between two revisions, both included, oldest first.

    Either may be the older one. Raises UserError for equal ends and for ends of which none leads to the other.
    """
    ends = [git(repo, "rev-parse", "--verify", f"{rev}^{{commit}}").strip() for rev in (good, bad)]
    if ends[0] == ends[1]:
        raise UserError(f"{repo}: `{good}` and `{bad}` are the same commit {ends[0][:10]}", "name two commits")
    for old, new in (ends, ends[::-1]):
        walk = git(repo, "rev-list", "--first-parent", "--reverse", new).split()
        if old in walk:
            listed = walk[walk.index(old) :]
            break
    else:
        raise UserError(
            f"{repo}: neither of `{good}` and `{bad}` is on the first-parent history of the other",
            "name two commits of one branch; a release made on a branch of its own is not on the main line",
        )
    folder = package_folder(repo, package, listed[-1])
    tags = _release_tags(repo) if package in NATIVE else {}
    return tuple(_revision(repo, package, folder, sha, base, tags) for sha in listed)


def _revision(repo: Path, package: str, folder: str, sha: str, base: Cell, tags: Mapping[Version, str]) -> Revision:
    shown = git(repo, "show", "-s", "--format=%cs%x00%P%x00%s", sha).strip()
    date, parents, subject = shown.split("\0", 2)
    merged = parents.split()[1:2]
    cell, native = base, ""
    if package in NATIVE:
        release, distance = _nearest_release(repo, package, sha, base, tags)
        cell = base if base.pins[package] == release else base.with_override(package, release)
        state = "the same native sources" if not distance else f"{distance} native file(s) differ from it"
        native = f"library of {package} {release}; {state}"
    cell = with_followers(cell, package)
    source = Source(repo.absolute(), sha, folder)
    return Revision(sha[:10], cell, date, subject, (merged or [""])[0][:10], source, native)


def _release_tags(repo: Path) -> dict[Version, str]:
    found = {}
    for tag in git(repo, "tag", "--list").split():
        try:
            version = Version(re.sub(r"^v(?=\d)", "", tag))
        except InvalidVersion:
            continue
        if not version.is_prerelease:
            found[version] = tag
    return found


def _nearest_release(repo: Path, package: str, sha: str, base: Cell, tags: Mapping[Version, str]) -> tuple[str, int]:
    """Return the release whose native sources are nearest to a commit's, and in how many files they differ.

    Asked are the two releases around the commit: the newest that it contains, and the next one after that. Of equals
    the older is taken, as a commit's Python may not know a newer library.
    """
    merged = set(git(repo, "tag", "--list", "--merged", sha).split())
    before = [version for version, tag in tags.items() if tag in merged]
    after = [version for version in tags if not before or version > max(before)]
    around = [*([max(before)] if before else []), *([min(after)] if after else [])]
    if not around:
        return base.pins[package], 0
    counted = [(len(_native_diff(repo, package, tags[version], sha)), version) for version in around]
    distance, version = min(counted)
    return str(version), distance


def _native_diff(repo: Path, package: str, tag: str, sha: str) -> list[str]:
    return git(repo, "diff", "--name-only", tag, sha, "--", *NATIVE[package]).split()


def worktree(repo: Path, package: str, base: Cell) -> Revision:
    """Return the state of a worktree as it lies there, for a probe that git itself steers."""
    sha = git(repo, "rev-parse", "--verify", "HEAD").strip()
    folder = package_folder(repo, package)
    tags = _release_tags(repo) if package in NATIVE else {}
    found = _revision(repo, package, folder, sha, base, tags)
    assert found.source is not None
    return replace(found, source=replace(found.source, dirty=True))


def extract(source: Source, package: str, target: Path, installed: Path) -> Path:
    """Lay the package's sources of a commit into `target`, with the installed native libraries beside them.

    Returns the package's folder there. `installed` is the package's folder in the environment.
    """
    module = package.replace("-", "_")
    target.mkdir(parents=True)
    if source.dirty:
        shutil.copytree(source.repo / source.folder, target / module, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        command = ["git", "-C", str(source.repo), "archive", "--format=tar", source.commit, source.folder]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            words = (done.stderr.decode(errors="replace").strip().splitlines() or ["no words"])[-1]
            raise UserError(f"git archive in {source.repo}: {words}", "check the clone with `git fsck`")
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(target / ".archive", filter="data")
        (target / ".archive" / source.folder).rename(target / module)
        shutil.rmtree(target / ".archive")
    if package in NATIVE:
        _borrow(installed, target / module)
    return target / module


def _borrow(installed: Path, module: Path) -> None:
    """Link the native libraries of the installed package beside the sources."""
    for path in installed.rglob("*"):
        if path.suffix in _LIBRARIES:
            place = module / path.relative_to(installed)
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.exists():
                place.unlink()
            try:
                os.link(path, place)
            except OSError:
                shutil.copy2(path, place)
