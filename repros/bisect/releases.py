"""The releases of a package, as the configured indexes list them: date, yanked, pre-release, what they need.

pip and uv resolve, and neither lists release dates, so the index's own pages are read: the simple API in its JSON form
(PEP 691 with the upload times of PEP 700) where the index speaks it, in HTML (PEP 503, with PEP 592's yanked mark)
where it does not, and folders named by a `file:` address. Which indexes, with which certificates and time limits, is
uv's and pip's configuration, read as `repros.cells.uv` reads it; credentials go into a header and into no message.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit, urlunsplit

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import sys_tags
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

from repros.cells.matrix import PACKAGES
from repros.cells.uv import Uv, redact
from repros.errors import UserError, nearest

DEFAULT_INDEX = "https://pypi.org/simple"
ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_TRIES = 3


@dataclass(frozen=True)
class File:
    """One file of an index page."""

    name: str
    uploaded: str = ""
    """ISO 8601 in UTC, as the index writes it; empty where it does not say."""
    yanked: bool = False
    requires_python: str = ""


@dataclass(frozen=True)
class Release:
    """One version of a package, and what an index says of it."""

    version: Version
    uploaded: str = ""
    """When its first file came, ISO 8601; empty where the index does not say."""
    yanked: bool = False
    """True where every file is."""
    problem: str = ""
    """Why no file of it can be installed here; empty if one can."""
    files: tuple[str, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return str(self.version)

    @property
    def date(self) -> str:
        """Return the day of its upload, or ``no date``."""
        return self.uploaded[:10] or "no date"

    @property
    def pre(self) -> bool:
        """Return whether it is a pre-release or a development release."""
        return self.version.is_prerelease


def releases(package: str, uv: Uv | None = None) -> tuple[Release, ...]:
    """Return every release that the configured indexes know, oldest first.

    Raises UserError where the network or an index fails, and where no index knows the package.
    """
    places = Places.of(uv or Uv.find())
    files = [file for index in places.indexes for file in places.files(index, package)]
    files += [file for folder in places.folders for file in _folder(folder, package)]
    found = grouped(package, files)
    if not found:
        what = f"{package}: no index that is configured knows this package"
        raise UserError(what, f"{nearest(package, PACKAGES)}; or check the index")
    return found


def grouped(package: str, files: Iterable[File]) -> tuple[Release, ...]:
    """Group files to releases; a local version counts to its release, files of other projects are left out."""
    by_version: dict[Version, list[File]] = {}
    for file in files:
        version = _version_of(package, file.name)
        if version is not None:
            by_version.setdefault(Version(version.public), []).append(file)
    tags = frozenset(sys_tags())
    return tuple(
        Release(
            version,
            min((file.uploaded for file in mine if file.uploaded), default=""),
            all(file.yanked for file in mine),
            _problem(mine, tags),
            tuple(file.name for file in mine),
        )
        for version, mine in sorted(by_version.items())
    )


def chosen(
    package: str,
    known: Sequence[Release],
    first: str | None,
    last: str | None,
    *,
    pre: bool = False,
    yanked: bool = False,
) -> tuple[Release, ...]:
    """Return the releases from `first` to `last`, both included, without (unless asked for) yanked and pre-releases.

    An end that is named is taken even if it is yanked or a pre-release; one that is not is the oldest or newest that
    has a file for this machine. Raises UserError for an end that does not exist, for ends in the wrong order, and
    where fewer than two releases are left.
    """
    fitting = [r for r in known if not r.problem and (pre or not r.pre)] or known
    low = version_of(package, known, first) if first else fitting[0].version
    high = version_of(package, known, last) if last else fitting[-1].version
    if low == high:
        raise UserError(f"{package}: both ends are {low}", "name two releases, the older with `--from`")
    if low > high:
        raise UserError(
            f"{package}: the ends are in the wrong order: {low} is newer than {high}",
            f"write `--from {high} --to {low}`",
        )
    named = {Version(end) for end in (first, last) if end}
    among = [r for r in known if low <= r.version <= high]
    found = tuple(r for r in among if r.version in named or not ((r.yanked and not yanked) or (r.pre and not pre)))
    if len(found) < 2:
        hint = "name ends that are further apart, or take pre-releases with `--pre`"
        raise UserError(f"{package}: {len(found)} release(s) between {low} and {high}", hint)
    return found


def version_of(package: str, known: Sequence[Release], end: str) -> Version:
    """Return the version of a release that a user named; UserError with what is near it where there is none."""
    try:
        version = Version(end)
    except ValueError:
        raise UserError(f"{package}: `{end}` is not a version", f"write one such as `{known[-1]}`") from None
    if version in {release.version for release in known}:
        return version
    near = sorted(known, key=lambda r: _distance(r.version, version))[:3]
    names = ", ".join(str(r) for r in sorted(near, key=lambda r: r.version))
    raise UserError(f"{package}: there is no release {end}", f"near it are {names}")


def _distance(one: Version, other: Version) -> tuple[int, ...]:
    parts = zip((*one.release, 0, 0, 0)[:3], (*other.release, 0, 0, 0)[:3], strict=True)
    return tuple(abs(a - b) for a, b in parts)


def _version_of(package: str, filename: str) -> Version | None:
    try:
        name, version = (
            parse_wheel_filename(filename)[:2] if filename.endswith(".whl") else parse_sdist_filename(filename)
        )
    except (InvalidWheelFilename, InvalidSdistFilename):
        return None
    return version if name == canonicalize_name(package) else None


def _problem(files: Sequence[File], tags: frozenset[object]) -> str:
    """Return why none of a release's wheels fits this interpreter; building from source is not tried."""
    wheels = [file for file in files if file.name.endswith(".whl")]
    if not wheels:
        return "no wheel"
    fitting = [file for file in wheels if not parse_wheel_filename(file.name)[3].isdisjoint(tags)]
    if not fitting:
        return "no wheel for this platform and Python"
    needs = [file.requires_python for file in fitting if not _allows(file.requires_python)]
    return f"needs Python {needs[0]}" if len(needs) == len(fitting) else ""


def _allows(requires_python: str) -> bool:
    import platform

    try:
        return SpecifierSet(requires_python).contains(platform.python_version(), prereleases=True)
    except InvalidSpecifier:
        return True


# --- where to look -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Places:
    """Indexes and folders that are configured, and how to reach them."""

    indexes: tuple[str, ...]
    folders: tuple[str, ...]
    environ: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(cls, uv: Uv) -> Places:
        """Read what uv was given: its own settings, and pip's where it has none."""
        environ = uv.environ
        main = environ.get("UV_DEFAULT_INDEX") or environ.get("UV_INDEX_URL") or DEFAULT_INDEX
        extra = f"{environ.get('UV_INDEX', '')} {environ.get('UV_EXTRA_INDEX_URL', '')}".split()
        indexes = () if "--no-index" in uv.options else (main, *extra)
        named = (re.sub(r"^[\w-]+=(?=\w+:|/)", "", index) for index in indexes)  # uv writes NAME=URL too
        folders = environ.get("UV_FIND_LINKS", "").replace(",", " ").split()
        return cls(tuple(dict.fromkeys(named)), tuple(folders), environ)

    def files(self, index: str, package: str) -> Iterator[File]:
        """Yield the files on an index's page of a package; none where the index does not know it."""
        url = f"{index.rstrip('/')}/{canonicalize_name(package)}/"
        if urlsplit(url).scheme in ("", "file"):
            page = Path(unquote(urlsplit(url).path)) / "index.html"
            if page.is_file():
                yield from parse_html(page.read_text(encoding="utf-8", errors="replace"))
            return
        content_type, text = self._get(url)
        yield from parse_json(text) if content_type.endswith("json") else parse_html(text)

    def _get(self, url: str) -> tuple[str, str]:
        """Return the content type and the text of a page; an index that does not know it gives an empty one."""
        request = urllib.request.Request(*_without_credentials(url, {"Accept": ACCEPT}))  # noqa: S310 - see `files`
        context = ssl.create_default_context(cafile=self.environ.get("SSL_CERT_FILE"))
        timeout = float(self.environ.get("UV_HTTP_TIMEOUT") or 30)
        what = f"{redact(url)}: "
        for attempt in range(_TRIES):
            try:
                with urllib.request.urlopen(request, timeout=timeout, context=context) as reply:  # noqa: S310
                    return reply.headers.get_content_type(), reply.read().decode("utf-8", "replace")
            except urllib.error.HTTPError as error:
                error.close()
                if error.code in (404, 410):
                    return "text/html", ""
                if error.code < 500 and error.code != 429:
                    raise UserError(f"{what}HTTP {error.code}", "check the index and its credentials") from None
                trouble = f"HTTP {error.code}"
            except (urllib.error.URLError, TimeoutError, OSError) as error:
                trouble = str(getattr(error, "reason", None) or error)
            if attempt + 1 < _TRIES:
                time.sleep(0.5 * 2**attempt)
        raise UserError(f"{what}{redact(trouble)}", "check the network, or pip's and uv's index settings")


def _without_credentials(url: str, headers: dict[str, str]) -> tuple[str, None, dict[str, str]]:
    """Move a user name and password out of an address into a header."""
    parts = urlsplit(url)
    if not parts.username:
        return url, None, headers
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    host = parts.netloc.rpartition("@")[2]
    token = base64.b64encode(pair.encode()).decode()
    return urlunsplit(parts._replace(netloc=host)), None, {**headers, "Authorization": f"Basic {token}"}


def _folder(place: str, package: str) -> Iterator[File]:
    """Yield the files of a find-links folder; a page of links elsewhere is left to the installer."""
    folder = Path(unquote(urlsplit(place).path) if place.startswith("file:") else place)
    if folder.is_dir():
        wanted = canonicalize_name(package)
        for path in folder.iterdir():
            if canonicalize_name(path.name.partition("-")[0]) == wanted:
                yield File(path.name)


# --- the two forms of a page ---------------------------------------------------------------------


def parse_json(text: str) -> Iterator[File]:
    """Read a page of PEP 691; `upload-time` is PEP 700's."""
    for file in json.loads(text)["files"]:
        yield File(
            str(file["filename"]),
            str(file.get("upload-time") or ""),
            bool(file.get("yanked", False)),
            str(file.get("requires-python") or ""),
        )


def parse_html(text: str) -> Iterator[File]:
    """Read a page of PEP 503; some indexes add `data-upload-time`, which stands in no PEP."""
    reader = _Anchors()
    reader.feed(text)
    for attributes in reader.found:
        path = urldefrag(urljoin("https://index/", attributes.get("href") or "")).url
        yield File(
            unquote(path.rpartition("/")[2]),
            attributes.get("data-upload-time") or "",
            "data-yanked" in attributes,
            attributes.get("data-requires-python") or "",
        )


class _Anchors(HTMLParser):
    """Collects the attributes of links; entities in them are resolved by the parser."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found.append(dict(attrs))
