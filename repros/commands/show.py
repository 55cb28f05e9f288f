"""``list`` and ``show``: the cases, and what one declares."""

from __future__ import annotations

import argparse

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from repros import cases
from repros.commands.arguments import (
    EXIT_AS_EXPECTED,
    Add,
)
from repros.verdict import show


def register(add: Add) -> None:
    """Add the commands to the command line."""
    add("list", cmd_list, "list the cases")
    shown = add("show", cmd_show, "show a case: claim, mechanism, budget, conditions, record")
    shown.add_argument("case")


def cmd_list(arguments: argparse.Namespace, console: Console) -> int:
    """List the cases."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("case", "report", "conditions", "title"):
        table.add_column(name)
    for e in cases.find():
        table.add_row(e.name, f"{e.case.package}#{e.case.number}", str(len(e.case.conditions)), e.case.title)
    console.print(table)
    return EXIT_AS_EXPECTED


def cmd_show(arguments: argparse.Namespace, console: Console) -> int:
    """Show what a case declares."""
    for e in cases.select(arguments.case, cases.find()):
        case = e.case
        console.print(Text(e.name, "bold"), f" {case.package}#{case.number} ({case.kind}, {case.status})")
        console.print(f"{case.title}\n\n{e.doc}\n", markup=False)
        for claim in case.claims:
            numbers = "; ".join(f"{name}: {value}" for name, value in claim.reported.items())
            console.print(f"claim: {claim.text}" + (f" ({numbers})" if numbers else ""), markup=False)
        if case.proposes:
            console.print(f"proposed fix: {case.proposes}", markup=False)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("condition", "figure", "budget", "arms", "note"):
            table.add_column(name, no_wrap=name == "condition")
        for condition in case.conditions:
            budget = case.budget_of(condition)
            limit = show(budget.limit(condition.params), budget.unit)
            arms = ", ".join(e.arms_of(condition))
            table.add_row(condition.name, budget.figure, limit, arms, condition.note)
        console.print(table)
        for window in case.affected:
            versions = ", ".join(f"{name} {spec}" for name, spec in window.versions.items()) or "every version"
            console.print(f"affected: {window.conditions}: {versions} ({window.source})", markup=False)
        if not case.affected:
            console.print("affected: no version in the matrix")
    return EXIT_AS_EXPECTED
