"""The page in a browser: what a reader can do with mouse and keyboard, in both themes, on a phone and on paper."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from repros.case import unit_of
from repros.redaction.redact import Redactor
from repros.report.page import html
from repros.run.results import Record
from repros.verdict import Verdict, show
from tests.chromium import Chromium
from tests.factories import record
from tests.pages import DORA, KNOWN, field


def test_filters_in_a_browser(tab: Any, records: list[Record]) -> None:
    from playwright.sync_api import expect

    def shown() -> int:
        return int(tab.evaluate("document.querySelectorAll('.heat tr:not([hidden]) td:not(.off) button').length"))

    assert shown() == len(records)
    tab.fill("#find", "gh1935 compile 0.50.2")
    wanted = [r for r in records if r.case.startswith("gh1935") and "compile" in r.condition and "0.50.2" in r.cell]
    assert tab.inner_text("#count") == f"{len(wanted)} of {len(records)} trials"
    tab.click("text=Clear")
    tab.uncheck("[name=verdict][value=absent]", force=True)
    tab.uncheck("[name=verdict][value=unsupported]", force=True)
    bad = sum(r.verdict is Verdict.REPRODUCED for r in records)
    expect(tab.locator("#count")).to_have_text(f"{bad} of {len(records)} trials")
    tab.click("text=Clear")
    expect(tab.locator("#count")).to_have_text(f"{len(records)} trials")
    tab.check("#differs")
    rows: dict[tuple[str, str], set[Verdict]] = {}
    for r in records:
        rows.setdefault((r.case, r.condition), set()).add(r.verdict)
    mixed = sum(len(rows[r.case, r.condition]) > 1 for r in records)
    assert tab.inner_text("#count") == f"{mixed} of {len(records)} trials"
    tab.uncheck("#differs")
    tab.select_option("#effect", label="cures")
    cured = sum(bool(r.proposed and r.proposed["effect"] == "cures") for r in records)
    assert tab.inner_text("#count") == f"{cured} of {len(records)} trials"


def test_a_browser_prints_a_figure_as_everything_else_does(tab: Any) -> None:
    """Among them halves of a last digit, which JavaScript rounds otherwise: 1152 bytes are 1.12 KiB."""
    values = [0, 1, 0.5, 2.5, 1023.5, 1152, 1408, -1152, 1536, 10**6, 123456.5, 13 * 10**9, 6.5e9, 2.125e9, 70.6e9,
              999_999.5, 1e-5, 0.00012345, 0.0625, 1.005, 3 << 30, 1e20, 2**53 - 1]  # fmt: skip
    rows = [
        (value, unit, more)
        for value in values
        for unit in ("bytes", "parameters", "ratio", "count", "times")
        for more in (0, 1, 5)
    ]
    shown = tab.evaluate("rows => rows.map(([value, unit, more]) => show(value, unit, more))", rows)
    assert dict(zip(rows, shown, strict=True)) == {row: show(*row) for row in rows}
    names = ["largest_parameters", "peak_bytes", "error", "bytes", "parameters", "saved_error", "calls"]
    assert tab.evaluate("names => names.map(unitOf)", names) == [unit_of(name) for name in names]


def test_a_trial_prints_parameters_by_the_billion(tmp_path: Path) -> None:
    one = record()
    arms = tuple(replace(arm, figures={**arm.figures, "largest_parameters": 13 * 10**9}) for arm in one.arms)
    path = tmp_path / "p.html"
    path.write_text(html.page([replace(one, arms=arms)], KNOWN, ["x"], Redactor()), encoding="utf-8")
    with Chromium() as (_, context):
        tab = context.new_page()
        tab.goto(f"{path.as_uri()}#trial-0")
        tab.wait_for_selector("dialog[open] .arms")
        tab.click("dialog summary:has-text('Every figure of every arm')")
        row = tab.locator("dialog details tr", has_text="largest_parameters")
        assert set(row.locator("td").all_inner_texts()) == {"13B"}


def test_a_trial_opens_and_closes_in_a_browser(tab: Any, records: list[Record]) -> None:
    one, button = field(tab, records, **DORA)
    button.click()
    tab.wait_for_selector("dialog[open] .arms")
    text = tab.inner_text("dialog")
    environment = one.environment
    parts = (
        *(one.reason, one.condition, one.cell, "reproduced", "confirmed under conditions"),
        *(environment["packages"]["torch"], environment["lock"][:16], one.repeat, "python -m repros bundle"),
        *("planted over budget", "changes nothing", "bitsandbytes::dequantize_4bit", "made by"),
    )
    for part in parts:
        assert part in text, part
    assert tab.locator("dialog svg path.line").count() == len(one.arms)
    assert tab.locator("dialog svg line.budget").count() == 1
    label = tab.get_attribute("dialog svg[role=img]", "aria-label")
    assert "forward, backward" in label
    assert "subject peaks at" in label
    tab.select_option("dialog select[aria-label='arm']", "planted")
    tab.keyboard.press("Escape")
    assert not tab.evaluate("document.getElementById('trial').open")
    assert tab.evaluate("document.activeElement.dataset.t") == button.get_attribute("data-t")
    field(tab, records, **{**DORA, "case": "gh1935_saved_weight", "condition": "nf4-eager"})[1].click()
    tab.wait_for_selector("dialog[open] .arms")
    assert "0.48 GB" in tab.inner_text("dialog")  # what the report says in numbers


def test_the_keyboard_is_enough(tab: Any, records: list[Record]) -> None:
    from playwright.sync_api import expect

    one, button = field(tab, records, **DORA)
    button.focus()
    tab.keyboard.press("ArrowRight")
    moved = tab.evaluate("document.activeElement.getAttribute('aria-label')")
    assert moved.startswith("nf4-dora-eager in ")
    assert one.cell not in moved
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("dialog[open] .arms")
    assert tab.evaluate("document.activeElement.id") == "trial-head"
    here = tab.inner_text(".place")
    tab.keyboard.press("ArrowRight")
    expect(tab.locator(".place")).not_to_have_text(here)
    stops = tab.evaluate(
        "[...document.querySelectorAll('.heat tbody')].map(b => b.querySelectorAll('button[tabindex=\"0\"]').length)"
    )
    assert set(stops) == {1}


def test_a_link_opens_its_trial(written: Path, tab: Any, records: list[Record]) -> None:
    tab.goto(f"{written.as_uri()}#trial-5")
    tab.wait_for_selector("dialog[open] #trial-head")
    assert html.ordered(records, KNOWN)[5].condition in tab.inner_text("#trial-head")
    tab.goto(f"{written.as_uri()}#trial-99999")
    assert not tab.evaluate("document.getElementById('trial').open")


def test_a_browser_that_cannot_inflate_says_so(written: Path, records: list[Record]) -> None:
    with Chromium() as (_, context):
        context.add_init_script("delete window.DecompressionStream")
        tab = context.new_page()
        tab.goto(written.as_uri())
        assert tab.evaluate("typeof DecompressionStream") == "undefined"
        field(tab, records, **DORA)[1].click()
        tab.wait_for_selector("dialog[open] #trial-head")
        assert tab.inner_text("#trial-head") == "This trial cannot be opened"
        assert "it has no DecompressionStream; a newer one has" in tab.inner_text("dialog")


CONTRAST = (Path(__file__).parent / "contrast.js").read_text()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_in_both_themes(tab: Any, records: list[Record], theme: str) -> None:
    tab.emulate_media(color_scheme="dark" if theme == "light" else "light")  # the button must win over the system
    for _ in range(3):
        if tab.evaluate("document.documentElement.dataset.theme") != theme:
            tab.click("#theme")
    assert tab.inner_text("#theme") == f"Theme: {theme}"
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if theme == "light" else "rgb(20, 23, 26)")
    tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    tab.add_style_tag(content=".case { content-visibility: visible !important; }")
    found = tab.evaluate(CONTRAST)
    assert len(found) > 1000
    assert found[0][0] >= 4.5, found[:5]
    tab.fill("#find", "0.50.2")
    tab.uncheck("[name=verdict][value=unsupported]", force=True)
    assert (
        tab.locator(".heat tr:not([hidden]) .off > button").count() > 100
    )  # what the filter left out, beside the rest
    found = tab.evaluate(CONTRAST)
    assert found[0][0] >= 4.5, found[:5]
    tab.add_style_tag(content=".heat .off > button { opacity: 0.25; }")  # and it would be seen if they were dimmed
    assert tab.evaluate(CONTRAST)[0][0] < 4.5
    tab.click("text=Clear")
    field(tab, records, **DORA)[1].click()
    tab.wait_for_selector("dialog[open] .arms")
    assert (worst := tab.evaluate(CONTRAST))[0][0] >= 4.5, worst[:5]


@pytest.mark.parametrize("width", [360, 390, 768])
def test_nothing_is_wider_than_a_phone(written: Path, width: int) -> None:
    with Chromium(viewport={"width": width, "height": 800}) as (_, context):
        tab = context.new_page()
        tab.goto(written.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        tab.goto(f"{written.as_uri()}#trial-3")
        tab.wait_for_selector("dialog[open] .arms")
        assert tab.evaluate("document.getElementById('trial').scrollWidth") <= width


def test_names_and_roles(tab: Any) -> None:
    assert tab.evaluate("document.documentElement.lang") == "en"
    assert tab.locator("h1").count() == 1
    nameless = """[...document.querySelectorAll("button, input, select")].filter(
        (e) => !(e.getAttribute("aria-label") || e.textContent.trim() || e.closest("label"))).length"""
    assert tab.evaluate(nameless) == 0
    levels = tab.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))")
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert tab.evaluate(
        "[...document.querySelectorAll('table')].every(t => t.querySelector('caption') && t.querySelector('th[scope]'))"
    )


#: Heads of a page that nothing follows: of a section, of a table, or of a column.
EMPTY = """[...document.querySelectorAll("h1, h2, h3, thead th")].filter((head) => {
  if (!head.checkVisibility()) return false;
  const inside = head.closest("thead") ? head.closest("table").querySelectorAll("tbody td")
    : (head.closest("section, .case, .fix, footer") ?? document.body).querySelectorAll("p, dd, li, td");
  return ![...inside].some((one) => one.checkVisibility() && one.textContent.trim());
}).map((head) => head.textContent)"""


def test_a_printed_page_has_no_empty_heads(tab: Any, records: list[Record]) -> None:
    tab.emulate_media(media="print")
    assert tab.evaluate(EMPTY) == []
    tab.emulate_media(media="screen")
    tab.fill("#find", "dora 0.50.2")  # a page is printed as it is filtered
    tab.emulate_media(media="print")
    assert tab.evaluate(EMPTY) == []
    assert tab.locator(".heat:visible").count() == len({r.case for r in records if "dora" in r.condition})
    apart = (
        "[...document.querySelectorAll('h2, h3, thead')].filter(h => getComputedStyle(h).breakAfter !== 'avoid').length"
    )
    assert tab.evaluate(apart) == 0
    tab.add_style_tag(content="tbody { display: none; }")
    assert tab.evaluate(EMPTY)


def test_it_prints(tab: Any, tmp_path: Path) -> None:
    tab.emulate_media(media="print")
    assert not tab.locator(".filters").is_visible()
    assert tab.locator(".heat button").first.is_visible()
    data = tab.pdf(path=str(tmp_path / "p.pdf"), print_background=True)
    assert data.startswith(b"%PDF")
