"""``list`` and ``show``: the cases, and what one declares."""

from __future__ import annotations

import argparse

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from repros import cases
from repros.case import Condition
from repros.cases.search import search
from repros.commands.arguments import (
    EXIT_AS_EXPECTED,
    Add,
)
from repros.errors import UserError
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
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("case", "report", "conditions", "line" if arguments.search else "title"):
        table.add_column(name, no_wrap=name in ("case", "report"))
    for e, line in found:
        table.add_row(e.name, e.case.report, str(len(e.case.conditions)), Text(line))
    if not table.row_count:
        raise UserError(
            f"no case has all of: {', '.join(arguments.search)}", "try fewer words, or one of the error's text"
        )
    console.print(table)
    return EXIT_AS_EXPECTED


def cmd_show(arguments: argparse.Namespace, console: Console) -> int:
    """Show what a case declares."""
    for e in cases.select(arguments.case, cases.find()):
        case = e.case
        console.print(Text(e.name, "bold"), f" {case.report} ({case.kind}, {case.status})")
        console.print(f"{case.title}\n\n{e.doc}\n", markup=False)
        if case.also:
            console.print(f"see also: {', '.join(case.also)}", markup=False)
        for claim in case.claims:
            numbers = "; ".join(f"{name}: {value}" for name, value in claim.reported.items())
            console.print(f"claim: {claim.text}" + (f" ({numbers})" if numbers else ""), markup=False)
        if case.proposes:
            console.print(f"proposed fix: {case.proposes}", markup=False)
        if case.fix:
            console.print(f"fixed upstream by: {case.fix}", markup=False)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("condition", "figure", "budget", "arms", "note"):
            table.add_column(name, no_wrap=name == "condition")
        for condition in case.conditions:
            budget, arms = condition.budget, ", ".join([*e.arms_of(condition), *condition.remedy_arms()])
            table.add_row(condition.name, budget.figure, show(budget.limit, budget.unit), arms, condition.note)
        console.print(table)
        for condition in case.conditions:
            console.print(f"affected: {condition.name}: {affected(condition)}", markup=False)
            for arm, one in condition.remedy_arms().items():
                says = f" (recommended by {one.recommended})" if one.recommended else ""
                console.print(f"{arm}: {condition.name}: {one.text}{says}", markup=False)
    return EXIT_AS_EXPECTED


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
