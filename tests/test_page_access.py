"""The page as a screen reader and a keyboard have it: by Chromium's own accessibility tree."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repros.redaction.redact import Redactor
from repros.report.page import html
from repros.run.results import Record
from repros.verdict import Verdict
from tests.chromium import Chromium, until
from tests.pages import DORA, KNOWN, field

CONTROLS = ("button", "checkbox", "combobox", "searchbox", "textbox", "link", "DisclosureTriangle", "option")
PARTS = ("table", "columnheader", "rowheader", "region", "navigation", "search", "dialog", "image", "heading")
NAMED = (*CONTROLS, *PARTS)


def tree(tab: Any) -> list[tuple[str, str, dict[str, Any]]]:
    """Return role, name and properties of every node that assistive technology is told of."""
    session = tab.context.new_cdp_session(tab)
    session.send("Accessibility.enable")
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    return [
        (said(node, "role"), said(node, "name"), {one["name"]: one["value"].get("value") for one in node["properties"]})
        for node in nodes
        if not node["ignored"] and "properties" in node
    ]


def said(node: dict[str, Any], what: str) -> str:
    return str(node.get(what, {}).get("value", "")).strip()


def opened(tab: Any, records: list[Record]) -> Any:
    """Open a trial by its field, with everything in it unfolded; return the field."""
    _, button = field(tab, records, **DORA)
    button.click()
    tab.wait_for_selector("dialog[open] .arms")
    tab.evaluate("document.querySelectorAll('dialog details').forEach(one => { one.open = true; })")
    return button


def test_every_control_has_a_role_and_a_name(tab: Any, records: list[Record]) -> None:
    for where, least in (("page", len(records)), ("trial", 15)):
        if where == "trial":
            opened(tab, records)
        nodes = tree(tab)
        assert [(role, name) for role, name, _ in nodes if role in NAMED and not name] == []
        assert sum(role in CONTROLS for role, _, _ in nodes) > least
        reached = {role for role, _, properties in nodes if properties.get("focusable")}
        assert {"button", "combobox"} <= reached
        assert reached <= {*CONTROLS, "RootWebArea", "main", "region", "heading", "dialog", "MenuListPopup"}


def test_every_field_is_in_the_tree_with_its_verdict(tab: Any, records: list[Record]) -> None:
    """In sight or not: what is laid out only on sight is missing here."""
    names = Counter(name for role, name, _ in tree(tab) if role == "button" and " in " in name)
    assert sum(names.values()) == len(records)
    for record in records:
        assert any(
            name.startswith(f"{record.condition} in {record.cell}: {record.verdict.value}, {record.outcome.value}")
            for name in names
        )


def test_versions_and_conditions_are_headers(tab: Any, records: list[Record]) -> None:
    nodes = tree(tab)
    heads = Counter(name for role, name, _ in nodes if role == "columnheader")
    sides = Counter(name for role, name, _ in nodes if role == "rowheader")
    cases = {record.case for record in records}
    for package in ("transformers", "bitsandbytes"):
        assert sides[package] == len(cases)
        for version in {record.versions[package] for record in records if record.versions}:
            assert heads[version] >= len(cases)
    for condition, several in Counter(condition for _, condition in {(r.case, r.condition) for r in records}).items():
        assert sides[condition] == several
    for word in ("claim", "reported", "measured", "standing"):
        assert heads[word] == len({KNOWN[case].case.number for case in cases})


def test_the_trial_is_a_dialog_with_a_name_and_nothing_behind_it(tab: Any, records: list[Record]) -> None:
    assert {"main", "banner", "search"} <= {role for role, _, _ in tree(tab)}
    opened(tab, records)
    nodes = tree(tab)
    ((name, properties),) = [(name, properties) for role, name, properties in nodes if role == "dialog"]
    assert name == f"{DORA['condition']} in {DORA['cell']}"
    assert properties["modal"] is True
    assert not {"main", "banner", "search"} & {role for role, _, _ in nodes}
    assert [name for role, name, _ in nodes if role == "columnheader"][:4] == [
        "arm", "reading", "held_bytes", "beside the budget"
    ]  # fmt: skip
    tab.keyboard.press("ArrowRight")
    until(tab, f"!document.getElementById('trial-head').textContent.includes({DORA['cell']!r})")
    ((after, _),) = [(name, properties) for role, name, properties in tree(tab) if role == "dialog"]
    assert after.startswith(DORA["condition"])
    assert after != name


#: What the tabulator has to reach in the dialog, and where it is.
STOPS = """[...document.querySelectorAll("dialog :is(a[href], button, select, summary, [tabindex='0'])")]
    .filter(one => one.checkVisibility())"""
HERE = f"{STOPS}.indexOf(document.activeElement)"


@pytest.mark.parametrize("key", ["Tab", "Shift+Tab"])
def test_focus_stays_in_the_trial_and_reaches_all_of_it(key: str, tab: Any, records: list[Record]) -> None:
    opened(tab, records)
    stops = tab.evaluate(f"{STOPS}.length")
    seen = []
    for _ in range(2 * stops + 6):
        tab.keyboard.press(key)
        seen.append(tab.evaluate(HERE))
        # Once round, a browser takes the focus to its own bar: then it is with the body.
        assert tab.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    assert set(range(stops)) <= set(seen)


#: The dialog is closed before its event comes, and with the event the focus is moved.
CLOSED = "current === -1 && !document.getElementById('trial').open"


@pytest.mark.parametrize("end", ["Escape", "Close", "backdrop", "Back"])
def test_focus_goes_back_to_the_field(end: str, tab: Any, records: list[Record]) -> None:
    button = opened(tab, records)
    if end == "Escape":
        tab.keyboard.press("Escape")
    elif end == "Close":
        tab.get_by_role("button", name="Close").press("Enter")
    elif end == "Back":
        tab.go_back()
    else:
        tab.mouse.click(5, 450)
    until(tab, CLOSED)
    assert tab.evaluate("document.activeElement.dataset.t") == button.get_attribute("data-t")


def test_focus_goes_back_to_the_link_that_opened_the_trial(tab: Any) -> None:
    link = tab.locator(".claims a[href^='#trial-']").first
    for move in (False, True):
        link.focus()
        tab.keyboard.press("Enter")
        tab.wait_for_selector("dialog[open] .arms")
        shown = tab.inner_text(".place")
        if move:
            tab.keyboard.press("ArrowRight")
            until(tab, f"document.querySelector('.place').textContent !== {shown!r}")
        number = int(tab.inner_text(".place").split()[0]) - 1
        tab.keyboard.press("Escape")
        until(tab, CLOSED)
        back = "[document.activeElement.tagName, document.activeElement.dataset.t]"
        assert tab.evaluate(back) == (["BUTTON", str(number)] if move else ["A", None])


def test_what_a_filter_leaves_is_said(tab: Any, records: list[Record]) -> None:
    tab.fill("#find", "dora 0.50.2")
    wanted = [r for r in records if "dora" in r.condition and "0.50.2" in r.cell]
    ((_, _, properties),) = [node for node in tree(tab) if node[0] == "status"]
    assert properties["live"] == "polite"
    assert tab.get_by_role("status").inner_text() == f"{len(wanted)} of {len(records)} trials"
    left = [name for role, name, _ in tree(tab) if role == "rowheader" and "dora" in name]
    assert left


def test_tables_are_tables_on_a_phone(written: Path, records: list[Record]) -> None:
    """There a claim's cells stand below each other, which must not cost them their roles."""
    with Chromium(viewport={"width": 390, "height": 800}) as (_, context):
        tab = context.new_page()
        tab.goto(written.as_uri())
        nodes = tree(tab)
    claims = [claim.text for case in {record.case for record in records} for claim in KNOWN[case].case.claims]
    sides = [name for role, name, _ in nodes if role == "rowheader"]
    assert set(claims) <= set(sides)
    tables = [name for role, name, _ in nodes if role == "table"]
    reports = {KNOWN[record.case].case.report for record in records}
    assert len(tables) == 1 + len({record.case for record in records}) + len(reports)
    assert sum(any(side.startswith(report) for side in sides) for report in reports) == len(reports)


def test_what_changed_is_a_table_with_a_name(records: list[Record], tmp_path: Path) -> None:
    records = sorted(records, key=lambda record: record.verdict is not Verdict.ABSENT)
    before = [replace(records[0], verdict=Verdict.REPRODUCED), *records[1:20]]
    path = tmp_path / "p.html"
    text = html.page(records[:20], KNOWN, ["x"], Redactor(), against=("before", before))
    path.write_text(text, encoding="utf-8")
    with Chromium() as (_, context):
        tab = context.new_page()
        tab.goto(path.as_uri())
        nodes = tree(tab)
    assert ("table", "What changed against before") in [node[:2] for node in nodes]
    assert [(role, name) for role, name, _ in nodes if role in NAMED and not name] == []
    assert any(role == "button" and name.endswith("changed") for role, name, _ in nodes)
