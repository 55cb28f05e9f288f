"""``list`` and ``show``: the cases, and what one declares."""

from __future__ import annotations

import argparse
from functools import partial

from rich.console import Console

from repros import cases
from repros.case import Condition
from repros.cases import Entry
from repros.cases.search import search
from repros.commands.arguments import (
    EXIT_AS_EXPECTED,
    Add,
)
from repros.errors import UserError
from repros.report import layout
from repros.report.layout import Column
from repros.verdict import show


def register(add: Add) -> None:
    """Add the commands to the command line."""
    listed = add("list", cmd_list, "list the cases, or those that have some words")
    listed.add_argument("--search", nargs="+", metavar="WORD", help="words of a title, claim, trigger, error or number")
    shown = add("show", cmd_show, "show a case: claim, mechanism, budget, conditions, record")
    shown.add_argument("case")


def cmd_list(arguments: argparse.Namespace, console: Console) -> int:
    """List the cases: all, or those that have the words, with the line that has them."""
    everything = cases.find()
    found = search(everything, arguments.search) if arguments.search else ((e, e.case.title) for e in everything)
    rows = [[e.name, e.case.report, line] for e, line in found]
    if not rows:
        raise UserError(
            f"no case has all of: {', '.join(arguments.search)}", "try fewer words, or one of the error's text"
        )
    columns = [Column("case"), Column("report"), Column("line" if arguments.search else "title", text=True)]
    layout.table(console, columns, rows)
    return EXIT_AS_EXPECTED


def cmd_show(arguments: argparse.Namespace, console: Console) -> int:
    """Show what a case declares."""
    for at, e in enumerate(cases.select(arguments.case, cases.find())):
        if at:
            console.print()
        _show(e, console)
    return EXIT_AS_EXPECTED


def _show(e: Entry, console: Console) -> None:
    case = e.case
    say = partial(layout.paragraph, console, hanging=2)
    console.print(e.name, style="bold", soft_wrap=True)
    say(f"{case.report} ({case.kind}, {case.status}): {case.title}")
    console.print(case.url, markup=False, soft_wrap=True)
    say(f"who is hit: {case.trigger} ({case.severity})")
    if case.also:
        layout.names(console, "see also: ", case.also)
    console.print()
    layout.prose(console, e.doc)
    console.print()
    for claim in case.claims:
        numbers = "; ".join(f"{name}: {value}" for name, value in claim.reported.items())
        say(f"claim: {claim.text}" + (f" ({numbers})" if numbers else ""))
    if case.proposes:
        say(f"proposed fix: {case.proposes}")
    if case.fix:
        say(f"fixed upstream by: {case.fix}")
    for told, names in _alike(e).items():
        console.print()
        layout.names(console, "condition: " if len(names) == 1 else "conditions: ", names)
        for line in told:
            layout.paragraph(console, line, 2, hanging=2)


def _alike(e: Entry) -> dict[tuple[str, ...], list[str]]:
    """Return what is declared of conditions, in lines -> the names of those of which it is the same."""
    found: dict[tuple[str, ...], list[str]] = {}
    for condition in e.case.conditions:
        budget, arms = condition.budget, (*e.arms_of(condition), *condition.remedy_arms())
        lines = (
            condition.note,
            f"{budget.figure} of at most {show(budget.limit, budget.unit)}; arms: {', '.join(arms)}",
            f"affected: {affected(condition)}",
            *(
                f"{arm}: {one.text}" + (f" (recommended by {one.recommended})" if one.recommended else "")
                for arm, one in condition.remedy_arms().items()
            ),
        )
        found.setdefault(tuple(filter(None, lines)), []).append(condition.name)
    return found


def affected(condition: Condition) -> str:
    """Return in words which releases are recorded as affected under a condition."""
    if condition.control:
        return "none, as the report says (a control condition)"
    if condition.affected is None:
        return "nothing recorded yet"
    windows = [
        ", ".join(f"{name} {spec}" for name, spec in window.versions.items()) + f" ({window.source})"
        for window in condition.affected
    ]
    return "; or ".join(windows) or "no release that was tried"
