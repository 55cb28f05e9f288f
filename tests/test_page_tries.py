"""The page of a `try`: what `--markdown` shows, in one file that asks for nothing, on a phone and in both themes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repros.errors import printable
from repros.redaction.redact import Redactor
from repros.report import tries
from repros.report.kept import KeptTry, redacted_try
from repros.report.page import tries as page
from tests.chromium import Chromium
from tests.hostile import HOSTILE, try_of
from tests.test_strings import opened
from tests.test_tries import FOUND

MACHINE: Mapping[str, Any] = {"cpu_model": "a CPU", "cores": 2, "memory_bytes": 8 << 30, "python": "3.11.7"}
CONTRAST = Path(__file__).with_name("contrast.js").read_text()
WORDS = ("try", "repro.py", "--package", "bitsandbytes")
KEPT = KeptTry(FOUND, {"repro.py": "print('err', 0.1)\n"}, (), "/x/repro.py", WORDS, "2026-11-26T18:06:19Z", MACHINE)


def made(kept: KeptTry, folder: Path) -> Path:
    file = folder / "page.html"
    file.write_text(page.page(kept, "nothing private was found"), encoding="utf-8")
    return file


def test_it_says_what_the_markdown_says_and_shows_the_script() -> None:
    text = page.page(KEPT, "nothing private was found")
    assert tries.summary(FOUND).replace("'", "&#39;") in text
    votes = re.findall(r'<tr><th scope="row">([^<]+)</th><td><span class="vote v-(\w+)"><i[^>]*>.</i> (\w+)<', text)
    assert votes == [(one.name, one.vote, one.vote) for one in FOUND.rows]
    assert all(f'<th scope="col">{name}</th>' in text for name in tries.cells(FOUND)[0])
    assert '<span class="minus">-err 0.1</span>\n<span class="plus">+err 9.9</span>' in text
    assert KEPT.command in text and "print(&#39;err&#39;, 0.1)" in text
    assert "<script" not in text and "script-src" not in text
    order = [text.index(f'id="{name}-head"') for name in ("votes", "outputs", "script", "how")]
    assert order == sorted(order) and text.index(tries.summary(FOUND)[:20]) < order[0]


def test_private_words_are_taken_out_of_script_command_and_rows() -> None:
    secret = Redactor({"host": ["secret-host"]})
    one = replace(FOUND.rows[0], name="with torch=/x/secret-host", packages={"torch": "secret-host"})
    kept = replace(KEPT, tries=replace(FOUND, rows=[one]), files={"repro.py": "at = 'secret-host'"},
                   words=["try", "--with", "torch=secret-host"], machine={"cpu_model": "secret-host"})  # fmt: skip
    text = page.page(redacted_try(kept, secret), secret.says())
    assert "secret-host" not in text and "removed]" in text and "× host" in text


@pytest.fixture(scope="module")
def browser() -> Any:
    with Chromium() as (chromium, _):
        yield chromium


def window(browser: Any, width: int = 390, theme: str = "light") -> Any:
    return browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme).new_page()


def test_a_browser_shows_hostile_tries_and_runs_nothing(browser: Any, tmp_path: Path) -> None:
    tab = window(browser)
    for name, text in HOSTILE.items():
        kept = try_of(text[:500])
        assert opened(tab, made(kept, tmp_path)) == [], name
        tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert tab.evaluate("window.ran === undefined && !document.querySelector('img, script, svg, iframe, a')"), name
        assert tab.locator("tbody .vote").all_inner_texts() == [
            f"{page.SIGNS[one.vote]} {one.vote}" for one in kept.tries.rows
        ], name
        said = tab.evaluate("document.body.textContent")
        assert said == printable(said, keep="\n\t"), name
        shown = tab.locator("pre.script").text_content()
        assert printable(kept.text, keep="\n\t").strip() == shown.strip(), name
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390, name


@pytest.mark.parametrize("width", [360, 390, 1440])
def test_no_row_is_cut(browser: Any, width: int, tmp_path: Path) -> None:
    rows = [replace(one, reason=one.reason + " and a longer reason" * 9) for one in FOUND.rows]
    tab = window(browser, width)
    tab.goto(made(replace(KEPT, tries=replace(FOUND, rows=rows)), tmp_path).as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    ends = tab.evaluate(
        "[...document.querySelectorAll('.tries tbody > tr > *')].map(e => e.getBoundingClientRect().right)"
    )
    assert len(ends) == len(rows) * len(tries.cells(FOUND)[0])
    assert 0 < max(ends) <= width


@pytest.mark.parametrize(("theme", "paper"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 26)")])
def test_contrast_in_both_themes(browser: Any, theme: str, paper: str, tmp_path: Path) -> None:
    tab = window(browser, theme=theme)
    tab.goto(made(KEPT, tmp_path).as_uri())
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == paper
    tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    found = tab.evaluate(CONTRAST)
    assert len(found) > 40
    assert found[0][0] >= 4.5, found[:5]
