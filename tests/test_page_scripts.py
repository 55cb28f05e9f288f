"""The one-file scripts in the page: what `repros.report.onefile` writes, to the letter, each shared text once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repros.redaction.redact import Redactor
from repros.report import onefile
from repros.report.attachment import bundle
from repros.report.page import html
from repros.report.page.scripts import Scripts
from repros.run.results import Record
from repros.run.trial import declared
from tests.pages import DORA, KNOWN, field, inflated, scripts, split


def text_of(pieces: Any, table: list[Any]) -> str:
    """Put a script together, as the page does."""
    assert isinstance(pieces, list), pieces
    found = (one if isinstance(one, str) else table[one] for one in pieces)
    return "".join(one if isinstance(one, str) else text_of(one, table) for one in found)


def packed(page: str) -> list[dict[str, Any]]:
    return [trial for block in split(inflated(page)) for trial in block["trials"]]


def test_every_trial_with_arms_has_its_script_to_the_letter(page: str, records: list[Record]) -> None:
    table, writer = json.loads(scripts(page)), onefile.Writer(Redactor())
    ordered, seen = html.ordered(records, KNOWN), set()
    for record, trial in zip(ordered, packed(page), strict=True):
        if not record.arms:
            assert trial["script"] == "no arm of this trial ran"
            continue
        if declared(record, KNOWN) is None:  # the evidence is older than the case
            assert trial["script"].startswith(f"no condition of {record.case}")
            continue
        text = text_of(trial["script"], table)
        assert text == writer.of(record, KNOWN[record.case]).text()
        seen.add(text)
    # Each names its condition and its cell.
    assert len(seen) == sum(bool(record.arms and declared(record, KNOWN)) for record in records) > 400


def test_a_text_that_scripts_share_is_in_the_page_once(page: str, records: list[Record]) -> None:
    table = json.loads(scripts(page))
    whole = [text for text in table if isinstance(text, str)]
    assert len(whole) == len(set(whole))
    assert sum("class Driver:" in text for text in whole) == 1  # the worker, which every trial needs
    own = [one for trial in packed(page) if isinstance(trial["script"], list) for one in trial["script"]]
    assert max(len(one) for one in own if isinstance(one, str)) < 400


def test_a_trial_without_a_script_says_why(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "ghp_" + "a1B2" * 9
    one = next(record for record in records if record.arms)
    made = Scripts(KNOWN, Redactor())
    assert made.of(replace(one, case="gh9_gone")) == "this version of the suite does not have the case"
    assert str(made.of(replace(one, condition="gone"))).startswith(f"no condition of {one.case} `gone`")
    monkeypatch.setattr(onefile, "sources", lambda modules, without: iter([("x.py", f"A = '{secret}'\n")]))
    text = html.page([one], KNOWN, ["x"], Redactor())
    (trial,) = packed(text)
    said = "x.py:1: it would put something private into the script (`ghp_a1…` in line 1, GitHub token)"
    assert trial["script"] == said
    assert secret not in text + inflated(text) + scripts(text)


def test_a_private_label_is_taken_out_of_a_script(records: list[Record]) -> None:
    one = replace(next(record for record in records if record.arms), cell="tf-of-mira.voss@example.org")
    text = html.page([one], KNOWN, ["x"], Redactor())
    script = text_of(packed(text)[0]["script"], json.loads(scripts(text)))
    assert "mira" not in script
    assert "in the cell `[e-mail address removed]`" in script


def test_the_script_in_a_browser(
    tab: Any, records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read, copied and saved with the keyboard alone, and is the bundle's file."""
    from playwright.sync_api import expect

    one, button = field(tab, records, **DORA)
    bundle.make(one, records, KNOWN[one.case], tmp_path / "b", Redactor(), tmp_path)
    wanted = (tmp_path / "b" / "full.py").read_text()
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    button.click()
    tab.wait_for_selector("dialog[open] .arms")
    pre = tab.get_by_role("region", name="full.py")
    assert not pre.is_visible()
    summary = tab.locator("dialog summary", has_text="full.py")
    assert summary.inner_text() == f"full.py, {wanted.count(chr(10))} lines"
    summary.focus()
    tab.keyboard.press("Enter")
    assert pre.is_visible()
    assert pre.evaluate("one => one.textContent") == wanted
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.getAttribute('aria-label')") == "full.py"
    place = tab.inner_text(".place")
    tab.keyboard.press("ArrowRight")  # scrolls the script; it does not go on to the next trial
    tab.keyboard.press("End")
    assert tab.inner_text(".place") == place
    copy = tab.get_by_role("button", name="Copy the script")
    copy.focus()
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("button", name="Copied the script")).to_be_visible()
    assert tab.evaluate("navigator.clipboard.readText()") == wanted
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Save full.py").press("Enter")
    assert download.value.suggested_filename == "full.py"
    download.value.save_as(tmp_path / "saved.py")
    assert (tmp_path / "saved.py").read_text() == wanted


def test_where_the_clipboard_is_refused_the_script_is_selected(tab: Any, records: list[Record]) -> None:
    from playwright.sync_api import expect

    field(tab, records, **DORA)[1].click()
    tab.wait_for_selector("dialog[open] .arms")
    tab.evaluate("Object.defineProperty(navigator, 'clipboard', {value: {writeText: () => Promise.reject(Error())}})")
    tab.get_by_role("button", name="Copy the script").press("Enter")
    expect(tab.get_by_role("button", name="Selected the script")).to_be_visible()
    assert tab.evaluate("getSelection().toString()").startswith("# /// script")


def test_a_browser_says_why_there_is_no_script(tab: Any, records: list[Record]) -> None:
    number = next(i for i, record in enumerate(html.ordered(records, KNOWN)) if not record.arms)
    tab.goto(f"{tab.url}#trial-{number}")
    tab.wait_for_selector("dialog[open] #trial-head")
    assert "There is no script: no arm of this trial ran." in tab.inner_text("dialog")
    assert tab.get_by_role("button", name="Copy the script").count() == 0
