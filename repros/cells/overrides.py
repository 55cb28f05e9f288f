"""What may stand in place of a pin: a version, a specifier, a wheel or a checkout."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from repros.errors import UserError, shortened


def parse_override(package: str, spec: str) -> str:
    """Return the canonical form of what stands after ``--with PACKAGE=``.

    A version comes back bare (``0.50.1``), a specifier with its operators, a path as written.
    """
    spec = spec.strip()
    if looks_like_path(spec):
        return spec
    if "://" in spec or " @ " in spec:
        raise UserError(
            f"--with {package}: `{spec}` is a URL, whose content can change under one name",
            "download or clone it, and give the wheel or the folder",
        )
    specifier = _as_specifier(package, spec)
    single = list(specifier)
    if len(single) == 1 and single[0].operator == "==" and "*" not in single[0].version:
        return single[0].version
    return str(specifier)


def looks_like_path(spec: str) -> bool:
    """Tell a wheel or a folder from a version: it has a separator or the ending of a wheel."""
    if "://" in spec:
        return False
    return spec.startswith((".", "~")) or "/" in spec or "\\" in spec or spec.endswith(".whl")


def is_version(text: str) -> bool:
    """Say whether `text` is one PEP 440 version, without operators."""
    try:
        Version(text)
    except ValueError:  # InvalidVersion, and a number of more digits than Python reads
        return False
    return True


def _as_specifier(package: str, spec: str) -> SpecifierSet:
    """Read a version, a specifier or a requirement on `package`."""
    if is_version(spec):
        return SpecifierSet(f"=={spec}")
    try:
        specifier = SpecifierSet(spec)
    except InvalidSpecifier:
        specifier = _requirement_on(package, spec)
    if not str(specifier):
        raise UserError(f"--with {package}: nothing after `=`", _override_hint(package))
    for one in specifier:
        if not is_version(one.version.removesuffix(".*")):
            what = f"--with {package}: `{shortened(one.version)}` is not a version"
            raise UserError(what, _override_hint(package))
    return specifier


def _requirement_on(package: str, spec: str) -> SpecifierSet:
    """Read ``bitsandbytes>=0.49`` where the package was named already."""
    try:
        requirement = Requirement(spec)
    except InvalidRequirement:
        what = f"--with {package}: `{shortened(spec)}` is neither a version nor a path"
        raise UserError(what, _override_hint(package)) from None
    if canonicalize_name(requirement.name) == canonicalize_name(package) and requirement.specifier:
        return requirement.specifier
    what = f"--with {package}: `{shortened(spec)}` is neither a version nor a path"
    hint = f"write `./{spec}` for a folder" if spec == requirement.name else _override_hint(package)
    raise UserError(what, hint)


def _override_hint(package: str) -> str:
    example = f"{package}=1.2.3, {package}=path/to.whl or {package}=path/to/checkout/"
    return f"write {example}"


def given_path(package: str, spec: str) -> Path:
    """Check that an override points at a wheel of `package` or at a checkout."""
    place = f"--with {package}: `{spec}`"
    try:
        path = Path(spec).expanduser().absolute()
        path.exists()  # raises where a name is too long, or of characters that no path may have
    except (RuntimeError, OSError, ValueError) as error:
        raise UserError(f"{place}: {getattr(error, 'strerror', None) or error}", "check the path") from None
    if path.is_dir():
        if any((path / name).exists() for name in ("pyproject.toml", "setup.py")):
            return path
        what = f"{place} holds neither pyproject.toml nor setup.py"
        raise UserError(what, "give the folder at the root of a checkout")
    if not path.is_file():
        raise UserError(f"{place} does not exist", "check the path; it is read from here")
    try:
        name = parse_wheel_filename(path.name)[0]
    except InvalidWheelFilename:
        what = f"{place} is not named like a wheel"
        raise UserError(what, "give a file called name-version-tags.whl, unrenamed") from None
    if name != canonicalize_name(package):
        raise UserError(f"{place} is a wheel of {name}", f"write `--with {name}={spec}`")
    return path


_NOT_SOURCE = re.compile(r"(\.git|\.hg|\.venv|venv|\.nox|\.tox|build|dist|__pycache__|\..*cache|.*\.egg-info)")


def content_digest(path: Path) -> str:
    """Digest a file, or the names and contents of a tree without what builds and tools leave."""
    total = hashlib.sha256()
    for file in [path] if path.is_file() else _source_files(path):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{file.relative_to(path.parent)}\0{content}\0".encode())
    return total.hexdigest()


def _source_files(tree: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(tree):
        folders[:] = sorted(name for name in folders if not _NOT_SOURCE.fullmatch(name))
        for name in sorted(files):
            file = Path(folder, name)
            if not name.endswith(".pyc") and file.is_file():
                yield file
