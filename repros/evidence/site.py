"""What is published of the evidence: its folder as it is, each Markdown file as a page too, and the answer in front."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

from repros import __version__
from repros.advisory.model import Advisory
from repros.cases import Entry
from repros.report.page import answers, html

#: Folders of evidence that are never committed.
NOT_PUBLISHED = ("runs", "bundles")
#: A link of a page that is made already: before its address, the address without its place, what ends it.
_LINK = re.compile(r'(<a [^>]*?href=")([^"#:]+)(?=[#"])')


def files(reports: Path, source: str, front: str) -> Iterator[tuple[str, str | bytes]]:
    """Yield name and content of each file of the site; ``front`` is the page at its root.

    ``source`` is the address below which the other files of the project can be read.
    """
    links = Links(reports, source)
    for path in sorted(reports.rglob("*")):
        here = path.relative_to(reports)
        if not path.is_file() or here.parts[0] in NOT_PUBLISHED or any(part.startswith(".") for part in here.parts):
            continue
        if path.suffix == ".md":
            yield here.with_suffix(".html").as_posix(), document(path.read_text(encoding="utf-8"), here, links)
        if path.name == "index.html":
            yield here.as_posix(), links.moved_in(path.read_text(encoding="utf-8"), here)
        else:
            yield here.as_posix(), path.read_bytes()
    yield "index.html", links.moved_in(front, Path("index.html"))


def front(reports: Path, known: Mapping[str, Entry], advisories: Iterable[Advisory]) -> str:
    """Return the page at the root: the rows over all evidence, and the ways to the pages of the runs."""
    pages = [path.relative_to(reports) for path in sorted(reports.glob("*/index.html"))]
    return html.environment().from_string(html.asset("front.html.j2")).render(
        answers=answers.of_all(known, advisories, reports),
        pages=[(page.parent.name, page.as_posix()) for page in pages],
        **_common(),
    )  # fmt: skip


def document(text: str, here: Path, links: Links) -> str:
    """Return a Markdown file as a page; its headings have the anchors that GitHub gives them."""
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tokens = parser.parse(text)
    title = here.as_posix()
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            said = "".join(part.content for part in tokens[at + 1].children or ())
            title = said if token.tag == "h1" else title
            token.attrSet("id", slug(said))
        for part in token.children or ():
            links.move(part, here)
    body = parser.renderer.render(tokens, parser.options, {})
    root = os.path.relpath("index.html", here.parent)
    made = html.environment().from_string(html.asset("document.html.j2"))
    return made.render(title=title, body=body, root=root, **_common())


def _common() -> dict[str, Any]:
    return {"css": html.asset("page.css"), "version": __version__}


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


class Links:
    """Where a link of a file of the evidence leads on the site."""

    def __init__(self, reports: Path, source: str) -> None:
        self._reports = reports
        self._source = source.rstrip("/")

    def moved_in(self, page: str, here: Path) -> str:
        """Return a page with the links that it has moved."""
        return _LINK.sub(lambda found: found[1] + self.moved(found[2], here), page)

    def move(self, token: Token, here: Path) -> None:
        """Move the link of a token, if it is one."""
        if token.type == "link_open":
            path, mark, anchor = str(token.attrGet("href")).partition("#")
            token.attrSet("href", self.moved(path, here) + mark + anchor)

    def moved(self, path: str, here: Path) -> str:
        """Return the address of what a file links to: a page of the site, else where the project keeps it."""
        if not path or ":" in path:
            return path
        target = Path(os.path.normpath(self._reports / here.parent / path))
        if target.is_dir() and (target / "README.md").is_file():
            target /= "README.md"
        if not target.is_relative_to(self._reports) or not target.is_file():
            return f"{self._source}/{target.relative_to(self._reports.parent).as_posix()}"
        shown = target.with_suffix(".html") if target.suffix == ".md" else target
        return Path(os.path.relpath(shown, self._reports / here.parent)).as_posix()
