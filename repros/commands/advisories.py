"""``advisories``: an advisory a report, in OSV form, of committed evidence."""

from __future__ import annotations

import argparse

from rich.console import Console

from repros import cases, files
from repros.advisory import model
from repros.bisect import committed as bisections
from repros.commands.arguments import EXIT_AS_EXPECTED, Add, a_folder, add_force, need_checkout
from repros.evidence import advisories, readme
from repros.run import results

EXIT_STALE = 1


def register(add: Add) -> None:
    """Add the command to the command line."""
    sub = add("advisories", cmd_advisories, "write an advisory a report, in OSV form, from committed evidence")
    sub.add_argument("--check", action="store_true", help="write nothing; exit 1 where one is not as evidence says")
    sub.add_argument(
        "--to", type=a_folder, metavar="DIR", help="folder of the advisories (default: reports/advisories)"
    )
    add_force(sub)


def cmd_advisories(arguments: argparse.Namespace, console: Console) -> int:
    """Write the advisories, or say which are stale."""
    need_checkout("advisories")
    target = arguments.to or model.folder()
    made = advisories.files(advisories.advisories(evidence(), {e.name: e for e in cases.find()}))
    if arguments.check:
        wrong = advisories.stale(target, made)
        for name in wrong:
            console.print(f"{results.shown(target / name)}: not as the evidence says", markup=False, soft_wrap=True)
        console.print(f"{len(made) - len(wrong)} of {len(made)} advisories are as the evidence says", markup=False)
        return EXIT_STALE if wrong else EXIT_AS_EXPECTED
    with files.Folder(target, "advisories", force=arguments.force) as out:
        for name, text in made.items():
            out.write(name, text)
    for name in made:
        console.print(results.shown(target / name), markup=False)
    return EXIT_AS_EXPECTED


def evidence() -> advisories.Evidence:
    """Read all that is committed: trials as README reads them, every record of them, and bisections."""
    found = readme.committed()
    places = list(bisections.folders(results.REPORTS))
    every = [record for folder in (*found.without, *found.cards) for record in results.load(folder)[0]]
    every += [record for folder in places for record in bisections.of_releases(folder)]
    tried = dict.fromkeys((record.case, record.condition) for record in every)
    fixes = {key: commit.url for place in places for key in tried if (commit := bisections.fixed_by(place, *key))}
    trials = [*results.load_all(found.without)[0], *results.load_all(found.cards)[0]]
    return advisories.Evidence(trials, every, fixes)
