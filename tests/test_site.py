"""What is published: every link of it leads somewhere, and the workflow that publishes it may do no more than that."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

from repros import ROOT
from repros.advisory import model
from repros.commands import cli
from repros.evidence import site
from repros.run import results
from tests.chromium import Chromium

SOURCE = "https://github.com/owner/name/blob/main"


class Page(HTMLParser):
    """The links of a page, and the places in it that a link can lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.places.add(str(found["id"]))
        if tag in ("a", "img"):
            self.links.append(str(found.get("href") or found.get("src")))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "site"
    assert cli.main(["site", "--to", str(folder), "--source", SOURCE]) == 0
    return folder


@pytest.fixture(scope="module")
def pages(made: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(made.rglob("*.html"))}


def links(pages: dict[Path, Page]) -> Iterator[tuple[Path, str, str]]:
    for path, page in pages.items():
        for link in page.links:
            address, _, place = link.partition("#")
            yield path, unquote(address), place


def test_every_page_of_the_evidence_is_there(made: Path) -> None:
    for path in results.REPORTS.glob("*/index.html"):
        assert (made / path.relative_to(results.REPORTS)).is_file()
    for path in results.REPORTS.glob("stories/*.md"):
        assert (made / path.relative_to(results.REPORTS)).with_suffix(".html").is_file()
    assert not [path for path in made.rglob("*") if path.relative_to(made).parts[0] in site.NOT_PUBLISHED]


def test_every_link_leads_somewhere(made: Path, pages: dict[Path, Page]) -> None:
    inside = outside = 0
    for path, address, place in links(pages):
        if address.startswith(f"{SOURCE}/"):
            outside += 1
            assert (ROOT / address.removeprefix(f"{SOURCE}/")).exists(), (path, address)
        elif ":" not in address:
            inside += 1
            target = (path.parent / address).resolve() if address else path
            assert target.is_file() and target.is_relative_to(made.resolve()), (path, address)
            assert target.suffix != ".md", (path, address)
            if place and not place.startswith("trial-"):
                assert place in pages[target if target in pages else made / target.relative_to(made.resolve())].places
    assert inside > 100 and outside >= len(model.load())


def test_the_front_leads_to_every_report_and_every_run(made: Path, pages: dict[Path, Page]) -> None:
    front = set(pages[made / "index.html"].links)
    for one in model.load():
        assert f"stories/{one.about.report.replace('#', '-')}.html" in front
    assert {path.relative_to(results.REPORTS).as_posix() for path in results.REPORTS.glob("*/index.html")} <= front


@pytest.mark.parametrize(
    ("path", "here", "there"),
    [
        ("cpu/README.md", "README.md", "cpu/README.html"),
        ("../stories/bitsandbytes-1729.md", "cpu/index.html", "../stories/bitsandbytes-1729.html"),
        ("bisect", "README.md", "bisect/README.html"),
        ("stories", "README.md", f"{SOURCE}/reports/stories"),
        ("../../repros/case.py", "cpu/index.html", f"{SOURCE}/repros/case.py"),
        ("results.jsonl", "cpu/README.md", "results.jsonl"),
        ("https://example.org/x.md", "README.md", "https://example.org/x.md"),
        ("", "README.md", ""),
    ],
)
def test_where_a_link_leads_on_the_site(path: str, here: str, there: str) -> None:
    assert site.Links(results.REPORTS, f"{SOURCE}/").moved(path, Path(here)) == there


def test_headings_have_the_anchors_of_github() -> None:
    assert site.slug("What to do today") == "what-to-do-today"
    assert site.slug("Why `x_y` (it's so)") == "why-x_y-its-so"


def test_a_story_is_a_page_that_asks_nothing_and_fits_a_phone(made: Path) -> None:
    with Chromium(viewport={"width": 390, "height": 844}) as (_, context):
        tab, asked = context.new_page(), []
        tab.on("request", lambda request: asked.append(request.url))
        for name in ("stories/transformers-44387.html", "index.html", "README.html"):
            tab.goto((made / name).as_uri())
            assert tab.evaluate("document.documentElement.scrollWidth") <= 390, name
            assert tab.locator("h1").count() == 1, name
        assert {url for url in asked if not url.startswith(("file:", "data:"))} == set()


def test_the_workflow_publishes_that_and_may_do_no_more() -> None:
    text = (ROOT / ".github" / "workflows" / "pages.yml").read_text(encoding="utf-8")
    found: dict[Any, Any] = yaml.safe_load(text)
    assert found["permissions"] == {"contents": "read"}
    build, deploy = found["jobs"]["build"], found["jobs"]["deploy"]
    assert "permissions" not in build
    assert deploy["permissions"] == {"pages": "write", "id-token": "write"}
    assert "secrets." not in text
    uses = [step["uses"] for job in (build, deploy) for step in job["steps"] if "uses" in step]
    assert uses and all(re.fullmatch(r"actions/[a-z-]+@v\d+", one) for one in uses)
    commands = [step["run"] for step in build["steps"] if "run" in step]
    (command,) = [one for one in commands if "repros site" in one]
    (upload,) = [step for step in build["steps"] if "upload-pages-artifact" in step.get("uses", "")]
    assert f"--to {upload['with']['path']} " in command
    cli.parser().parse_args(command.split()[3:])
