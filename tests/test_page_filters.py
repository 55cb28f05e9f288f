"""The filters of the page: chips count what is shown, a filter without a match says so, the address has it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from repros.run.results import Record
from repros.verdict import Verdict
from tests.chromium import Chromium, until

SHOWN = """verdict => document.querySelectorAll(`.heat tr:not([hidden]) td.v-${verdict}:not(.off) button`).length"""


def chips(tab: Any) -> dict[str, tuple[int, int]]:
    """Return verdict -> how many trials its chip says are shown, and of how many."""
    found = {}
    for name, text in tab.evaluate("[...document.querySelectorAll('.chip')].map(c => [c.control.value, c.innerText])"):
        numbers = [int(number) for number in re.findall(r"\d+", text)]
        assert text.endswith(name)
        found[name] = (numbers[0], numbers[-1])
    return found


def test_chips_count_what_is_shown(tab: Any, records: list[Record]) -> None:
    total = {v.value: sum(r.verdict is v for r in records) for v in Verdict}

    def agree() -> dict[str, tuple[int, int]]:
        found = chips(tab)
        for name, (some, every) in found.items():
            assert some == tab.evaluate(SHOWN, name), name
            assert every == total[name], name
        assert sum(some for some, _ in found.values()) == int(tab.inner_text("#count").split()[0])
        return found

    assert {name: number for name, (number, _) in agree().items()} == {n: t for n, t in total.items() if t}
    tab.fill("#find", "gh1935 compile 0.50.2")
    found = agree()
    wanted = [r for r in records if r.case.startswith("gh1935") and "compile" in r.condition and "0.50.2" in r.cell]
    assert found["absent"][0] == sum(r.verdict is Verdict.ABSENT for r in wanted)
    tab.uncheck("[name=verdict][value=absent]", force=True)
    assert agree()["absent"][0] == 0
    tab.check("#differs")
    agree()


def test_a_filter_that_matches_nothing_says_so(tab: Any, records: list[Record]) -> None:
    says = tab.locator("#nothing")
    assert not says.is_visible()
    tab.fill("#find", "no such condition")
    assert tab.inner_text("#count") == f"0 of {len(records)} trials"
    assert says.is_visible()
    assert says.inner_text().startswith("No trial matches this filter.")
    assert not tab.locator(".report").locator("visible=true").count()
    assert tab.locator(".answer").is_visible()  # the answer is no part of what is filtered
    says.get_by_role("button").press("Enter")
    until(tab, "document.getElementById('nothing').hidden")
    assert tab.inner_text("#count") == f"{len(records)} trials"
    assert tab.evaluate("document.activeElement.id") == "find"


def test_the_filter_is_in_the_address(written: Path, tab: Any, records: list[Record]) -> None:
    assert tab.evaluate("location.search") == ""
    tab.fill("#find", "gh1935 nf4")
    tab.uncheck("[name=verdict][value=unsupported]", force=True)
    tab.check("#differs")
    tab.select_option("#effect", label="changes nothing")
    address, count = tab.evaluate("location.href"), tab.inner_text("#count")
    assert address == f"{written.as_uri()}?find=gh1935+nf4&without=unsupported&differs=1&fix=changes+nothing"
    assert count != f"{len(records)} trials"
    with Chromium() as (_, context):
        other = context.new_page()
        other.goto(address)
        assert other.inner_text("#count") == count
        assert other.input_value("#find") == "gh1935 nf4"
        assert other.is_checked("#differs") and not other.is_checked("[name=verdict][value=unsupported]")
        other.goto(f"{written.as_uri()}?find=dora&without=nothing&fix=nothing#trial-5")
        other.wait_for_selector("dialog[open] .arms")
        other.keyboard.press("Escape")
        until(other, "location.hash === ''")
        assert other.evaluate("location.search") == "?find=dora&without=nothing&fix=nothing"
        assert int(other.inner_text("#count").split()[0]) == sum("dora" in r.condition for r in records)
    tab.click("text=Clear")
    until(tab, "location.search === ''")
    assert tab.evaluate("location.href") == written.as_uri()
