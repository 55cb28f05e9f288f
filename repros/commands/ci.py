"""What a CI calls: ``watch`` for newer releases, ``shard`` and ``merge`` for a tier on several machines."""

from __future__ import annotations

import argparse
import io
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from repros import cases
from repros.cells.matrix import Cell, load_matrix
from repros.cells.uv import pip_settings
from repros.commands.arguments import (
    EXIT_AS_EXPECTED,
    MATRIX,
    MOST_AT_ONCE,
    Add,
    a_folder,
    a_run,
    need_checkout,
    whole,
)
from repros.commands.run import chosen_trials, every_trial, recorded, take
from repros.errors import UserError
from repros.evidence import committed, merging
from repros.files import claim
from repros.redaction.redact import Redactor
from repros.report import terminal
from repros.report.clean import redacted
from repros.report.escape import line
from repros.report.terminal import layout
from repros.run import ending, results
from repros.run.results import Record, Run
from repros.run.shards import Shard, shards
from repros.watch import page as watched
from repros.watch.changes import Change, Kind, before, changes
from repros.watch.newer import WATCHED, Newer, newer, newest

#: The folder of evidence of cells with one package newer or older.
EDGES = "cpu-edges"
EXIT_MISSING = EXIT_CHANGED = 1
#: Trials that are missing in a cell beyond this are counted.
MOST_NAMED = 4


def register(add: Add) -> None:
    """Add the commands to the command line."""
    watch = add("watch", cmd_watch, "try releases that are newer than the evidence, and say what changes with them")
    watch.add_argument("case", nargs="*", help="a case's name, or the number of its report (default: every case)")
    watch.add_argument("--package", action="append", choices=WATCHED, help="a package to look for (default: each)")
    watch.add_argument("--pre", action="store_true", help="take pre-releases too")
    watch.add_argument(
        "--base", metavar="CELL", help="the cell whose other pins are kept (default: the newest of smoke)"
    )
    watch.add_argument(
        "--evidence", type=a_run, nargs="+", metavar="DIR", help="what is known (default: all committed)"
    )
    watch.add_argument("--no-bisect", action="store_true", help="do not look for the release that changed it")
    watch.add_argument("--commit", action="store_true", help="add the trials to the committed evidence")
    watch.add_argument("--jobs", type=whole(1, MOST_AT_ONCE), help="arms at a time (default: cores and one)")
    watch.add_argument("--reports", type=a_folder, help="folder in place of reports/")

    shard = add("shard", cmd_shard, "cut a tier into parts that take equally long, as a CI's matrix takes them")
    shard.add_argument("--tier", required=True, help="the tier to cut")
    shard.add_argument("--shards", required=True, type=whole(1, MOST_AT_ONCE), metavar="N", help="how many parts")
    shown = shard.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print the matrix of a job on GitHub, for `fromJSON`")
    shown.add_argument("--gitlab", action="store_true",
                       help="print a child pipeline for GitLab, whose jobs extend `.shard`")  # fmt: skip

    merge = add("merge", cmd_merge, "join runs into one: what is missing, what is there twice, what disagrees")
    merge.add_argument("run", nargs="+", type=a_run, help="folders of runs, such as those of a tier's shards")
    merge.add_argument("--out", required=True, type=a_folder, metavar="DIR", help="folder of the run that they become")
    merge.add_argument("--tier", help="what should be there (default: the tier that the runs set out to try)")


def cmd_watch(arguments: argparse.Namespace, console: Console) -> int:
    """Try what is newer than the evidence, print and keep what changes."""
    from repros.bisect.releases import releases

    matrix = load_matrix(MATRIX)
    base = matrix.cell(arguments.base) if arguments.base else matrix.tier("smoke")[-1]
    if arguments.commit:
        need_checkout("watch --commit")
        if base.device != "cpu":
            raise UserError(
                f"--commit: {base.name} is for a card", "add it by hand: `report RUN --commit-to reports/NAME`"
            )
    evidence, _ = results.load_all(arguments.evidence or results.committed())
    evidence = [record for record in evidence if record.device == base.device]
    found = newer(arguments.package or WATCHED, evidence, releases, pre=arguments.pre)
    able = [new for new in found if new.releases]
    for new in found:
        for release, why in new.left_out:
            console.print(f"{new.package} {release} is left out: {why}", markup=False, soft_wrap=True)
    if not able:
        known = ", ".join(f"{name} {newest(evidence, name)}" for name in arguments.package or WATCHED)
        console.print(f"nothing new: {known}", markup=False, soft_wrap=True)
        return EXIT_AS_EXPECTED
    wanted = chosen_trials(arguments.case, "*", [new.cell(base) for new in able])
    run = Run(results.new_run("watch", arguments.reports))
    records, _ = take(wanted, run, console, jobs=arguments.jobs)

    clean = Redactor.here(settings=pip_settings())
    told = []
    for new in able:
        mine = [redacted(record, clean) for record in records if record.cell == new.cell(base).label]
        known_before = {key: redacted(one, clean) for key, one in before(evidence, base, new.package).items()}
        told.append((new, mine, changes(mine, known_before, new.package)))
    changed = [change for _, _, several in told for change in several]
    bisected = {} if arguments.no_bisect else _bisected(told, base, arguments.reports, console)
    known_cases = {entry.name: entry for entry in cases.find()}
    outputs = committed.Outputs(records, known_cases, [run.folder], place=run.folder)
    pages = {
        "watch.md": watched.page(told, {name: clean.text(text) for name, text in bisected.items()}),
        committed.PAGE: outputs.html(),
        "junit.xml": outputs.junit(),
    }
    pages |= {f"to-file/{name}": text for name, text in watched.texts(changed, known_cases).items()}
    watched.write(run.folder, pages)
    _say_changes(told, run.folder, console)
    if arguments.commit:
        target = str(results.REPORTS / EDGES)
        _call(console, "report", target, str(run.folder), "--commit-to", target)
        for command in ("advisories", "stories", "readme"):
            _call(console, command)
    return EXIT_CHANGED if changed else EXIT_AS_EXPECTED


def _bisected(
    told: Sequence[tuple[Newer, Sequence[Record], Sequence[Change]]], base: Cell, reports: Path | None, console: Console
) -> dict[str, str]:
    """Look, for each package with releases in between, for the one that changed a verdict; return what was said."""
    found = {}
    for new, _, several in told:
        settled = [change.now for change in several if change.kind is not Kind.UNTOLD]
        if not settled or len(new.releases) < 2:
            continue
        names = list(dict.fromkeys(record.case for record in settled))
        conditions = " ".join(dict.fromkeys(record.condition for record in settled))
        words = ["bisect", *names, "--package", new.package, "--condition", conditions, "--base", base.name,
                 "--from", str(new.known), "--to", new.newest]  # fmt: skip
        words += ["--reports", str(reports)] if reports else []
        both = _Both(console)
        try:
            _call(terminal.console(file=both), *words)
        except UserError as error:  # the index may no longer list what the evidence was made with
            both.write(f"{error}\n")
        # What was said before the answer is of each probe, and stands in the bisection's own page.
        found[new.package] = "".join(both.getvalue().rpartition(f"{new.package}, the rest as in ")[1:])
    return found


class _Both(io.StringIO):
    """Keeps what is printed, and prints it."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def write(self, text: str) -> int:
        """Take a text."""
        self._console.file.write(text)
        return super().write(text)


def _call(console: Console, *words: str) -> None:
    """Run another command of this program."""
    from repros.commands import cli

    arguments = cli.parser(words[:1]).parse_args(words)
    arguments.rest = ()
    arguments.command(arguments, console)


def _say_changes(
    told: Sequence[tuple[Newer, Sequence[Record], Sequence[Change]]], folder: Path, console: Console
) -> None:
    """Print a line a package, and one a change; where none of a package's trials could be told, each reason once."""
    for new, mine, several in told:
        counts = ", ".join(f"{sum(one.kind is kind for one in several)} {kind.value}" for kind in Kind)
        says = f"{new.package} {new.newest} (known: {new.known}): {len(mine)} trials, {counts}"
        console.print(says, markup=False, soft_wrap=True)
        untold = Counter(one.now.reason for one in several if one.kind is Kind.UNTOLD)
        for reason, count in untold.most_common():
            layout.paragraph(console, f"no longer told in {count}: {line(reason)}", indent=2, hanging=4)
        for one in several:
            if one.kind is not Kind.UNTOLD:
                says = f"{one.kind.value}: {one.now.case}[{one.now.condition}]: {one.now.reason}"
                layout.paragraph(console, line(says), indent=2, hanging=4)
    console.print(f"page: {results.shown(folder / 'watch.md')}", markup=False, soft_wrap=True)
    if any(several for _, _, several in told):
        console.print(f"ready to file: {results.shown(folder / 'to-file')}", markup=False, soft_wrap=True)


def cmd_shard(arguments: argparse.Namespace, console: Console) -> int:
    """Print the parts of a tier."""
    cells = load_matrix(MATRIX).tier(arguments.tier)
    trials = every_trial(cells)
    if not trials:
        raise UserError(f"--tier {arguments.tier}: no trials", "name a tier of matrix.yaml that has cells")
    known = recorded()
    found = shards(trials, known, arguments.shards)
    jobs = [_job(shard, arguments.tier) for shard in found]
    if arguments.json:
        print(json.dumps({"include": jobs}))
    elif arguments.gitlab:
        print(
            json.dumps({f"shard {job['shard']}": {"extends": ".shard", "variables": _variables(job)} for job in jobs})
        )
    else:
        _table(found, console)
        new = sum(trial.key not in known for trial, _ in trials)
        unlike = f"; {new} trials are not in committed evidence, and are estimated" if new else ""
        longest = max(shard.seconds for shard in found) * len(found) / sum(shard.seconds for shard in found)
        console.print(f"longest over mean: {longest:.2f}{unlike}", markup=False)
    return EXIT_AS_EXPECTED


def _job(shard: Shard, tier: str) -> dict[str, str | int]:
    command = f"python -m repros run --tier {tier} --shard {shard.name}"
    return {
        "shard": shard.name, "number": shard.number, "tier": tier, "cells": " ".join(shard.cells),
        "trials": len(shard.trials), "seconds": round(shard.seconds), "command": command,
    }  # fmt: skip


def _variables(job: dict[str, str | int]) -> dict[str, str]:
    return {f"SHARD_{name.upper()}" if name != "shard" else "SHARD": str(value) for name, value in job.items()}


def _table(found: Sequence[Shard], console: Console) -> None:
    columns = [layout.Column("shard"), layout.Column("trials"), layout.Column("arms' seconds"),
               layout.Column("cells", text=True)]  # fmt: skip
    rows = [[one.name, str(len(one.trials)), f"{one.seconds:.0f}", " ".join(one.cells)] for one in found]
    layout.table(console, columns, rows)


def cmd_merge(arguments: argparse.Namespace, console: Console) -> int:
    """Join runs, and say what is missing, doubled and disputed."""
    merged = merging.merge(arguments.run)
    plans = [line for run in arguments.run for line in _plans(run)]
    tiers = {str(plan["tier"]) for plan in plans if plan["tier"]}
    if not arguments.tier and len(tiers) > 1:
        raise UserError(f"runs of the tiers {', '.join(sorted(tiers))}", "name the tier that is to be whole: `--tier`")
    tier = arguments.tier or next(iter(tiers), "")
    wanted = every_trial(load_matrix(MATRIX).tier(tier)) if tier else []
    if (arguments.out / results.RESULTS).exists():
        raise UserError(f"{results.shown(arguments.out)}: there is a run already", "name a new folder")
    claim(arguments.out, "run")
    for run in arguments.run:
        if (logs := run / "logs").is_dir():
            shutil.copytree(logs, arguments.out / "logs", dirs_exist_ok=True)
    results.keep(arguments.run, arguments.out / results.RESULTS, merged.records)

    known = {entry.name: entry for entry in cases.find()}
    records, notices = ending.judged([arguments.out], known)
    terminal.summary(records, console)
    for notice in (*merged.notices, *notices):
        console.print(notice, markup=False)
    if merged.again:
        console.print(f"in several runs, with one verdict, and kept once: {len(merged.again)}", markup=False)
    for key in merged.rivals:
        (one,) = (record for record in records if record.key == key)
        layout.paragraph(console, f"{one.case}[{one.condition}] in {one.cell}: {one.reason}", hanging=2)
    missing = merged.missing(trial.key for trial, _ in wanted)
    for name in _absent(plans):
        console.print(f"shard {name} is not among these runs", markup=False)
    for cell, names in merging.by_cell(missing).items():
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        layout.paragraph(console, f"missing in {cell}: {len(names)}: {', '.join(names[:MOST_NAMED])}{more}", hanging=2)
    if not tier:
        console.print("no run says what it set out to try: name a tier with `--tier` to learn what is missing")
    console.print(f"results: {results.shown(arguments.out / results.RESULTS)}", markup=False, soft_wrap=True)
    return EXIT_MISSING if missing else ending.code(records)


def _plans(run: Path) -> list[dict[str, str]]:
    return [line for line in results.notes(run) if line["kind"] == "plan"]


def _absent(plans: Sequence[dict[str, str]]) -> list[str]:
    """Return the parts of a tier that no run set out to try."""
    told = {plan["shard"] for plan in plans if plan["shard"]}
    of = {name.partition("/")[2] for name in told}
    return [f"{number}/{n}" for n in sorted(of) for number in range(1, int(n) + 1) if f"{number}/{n}" not in told]
