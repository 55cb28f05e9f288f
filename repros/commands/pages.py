"""``advisories``, ``stories``, ``readme``, ``site``, ``fits``, ``proxies``: what is made of committed evidence."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rich.console import Console

from repros import ROOT, cases, files
from repros.commands.arguments import (
    EXIT_AS_EXPECTED,
    Add,
    a_file,
    a_folder,
    a_run,
    add_force,
    need_checkout,
)
from repros.evidence import committed
from repros.run import results

if TYPE_CHECKING:
    from repros.evidence.advisories import Evidence

EXIT_STALE = 1


def register(add: Add) -> None:
    """Add the commands to the command line."""
    proxies = add("proxies", cmd_proxies, "hold verdicts on a GPU beside those of their proxies on a CPU")
    proxies.add_argument("gpu", type=a_run, help="folder of a run on a GPU")
    proxies.add_argument("cpu", type=a_run, nargs="+", help="folders of runs on a CPU")
    proxies.add_argument("--beside", type=a_run, metavar="GPU", help="a run on another kind of GPU, held against it")
    proxies.add_argument("--markdown", type=a_file, metavar="FILE", help="write the page there")

    fits = add("fits", cmd_fits, "say what trains on which card, and what a mixture of experts comes to")
    fits.add_argument("run", type=a_run, nargs="+", help="folders of runs")
    fits.add_argument("--markdown", type=a_file, metavar="FILE", help="write the page there")
    stories = add("stories", cmd_stories, "write the story of each report from committed evidence")
    stories.add_argument(
        "run", nargs="*", type=a_run,
        help="folders of results, read as one, a later one's trials before an earlier one's (default: all committed)",
    )  # fmt: skip
    stories.add_argument("--to", type=a_folder, metavar="DIR", help="folder of the stories (default: reports/stories)")
    readme = add("readme", cmd_readme, "make the figures of README.md and reports/README.md from committed evidence")
    readme.add_argument(
        "--evidence", type=a_folder, nargs="+", metavar="DIR",
        help="runs without a GPU, the one whose cost is told first (default: all that is committed)",
    )  # fmt: skip
    readme.add_argument(
        "--card", type=a_folder, nargs="+", metavar="DIR",
        help="runs on cards, the one whose cost is told first (default: all that is committed)",
    )  # fmt: skip
    readme.add_argument(
        "--benchmarks", type=a_file, metavar="FILE", help="keep these figures of `nox -s bench` as evidence first"
    )
    advisories = add("advisories", cmd_advisories, "write an advisory a report, in OSV form, from committed evidence")
    advisories.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 where one is not as evidence says"
    )
    advisories.add_argument(
        "--to", type=a_folder, metavar="DIR", help="folder of the advisories (default: reports/advisories)"
    )
    site = add(
        "site", cmd_site, "write what is published of the evidence: the answer in front, a page a run, the stories"
    )
    site.add_argument("--to", type=a_folder, metavar="DIR", required=True, help="folder of the site")
    site.add_argument(
        "--source", metavar="URL", required=True,
        help="where the project's files are read, such as https://github.com/OWNER/NAME/blob/main",
    )  # fmt: skip
    add_force(proxies, fits, stories, readme, advisories, site)


def cmd_proxies(arguments: argparse.Namespace, console: Console) -> int:
    """Count how often a proxy says what the card says."""
    from repros.evidence import cards, proxies

    known = {e.name: e for e in cases.find()}
    on_cpu = [record for folder in arguments.cpu for record in results.load(folder)[0]]
    on_gpu = results.load(arguments.gpu)[0]
    text = proxies.page(on_gpu, on_cpu, known, [arguments.gpu, *arguments.cpu])
    if arguments.beside:
        text += cards.section(on_gpu, results.load(arguments.beside)[0], [arguments.gpu, arguments.beside])
    _page(text, arguments, console)
    return EXIT_AS_EXPECTED


def cmd_fits(arguments: argparse.Namespace, console: Console) -> int:
    """Say what fits on which card."""
    from repros.evidence import fits

    _page(fits.page(results.load_all(arguments.run)[0], arguments.run), arguments, console)
    return EXIT_AS_EXPECTED


def _page(text: str, arguments: argparse.Namespace, console: Console) -> None:
    if arguments.markdown is None:
        console.print(text, markup=False)
    else:
        committed.write(arguments.markdown, text, force=arguments.force)


def cmd_stories(arguments: argparse.Namespace, console: Console) -> int:
    """Write the story of each report."""
    from repros.evidence import readme, story
    from repros.redaction.redact import Redactor
    from repros.report import rows
    from repros.report.clean import redacted

    target = arguments.to or story.STORIES
    kept = files.Folder(target, "stories", force=arguments.force)
    redactor = Redactor.here()
    runs = arguments.run or readme.committed().smallest_first()
    records = [redacted(record, redactor) for record in results.load_all(runs)[0]]
    known, sources = {e.name: e for e in cases.find()}, [results.shown(run) for run in runs]
    made = story.stories(records, known, sources, rows.over_all())
    with kept:
        for name, text in made.items():
            kept.write(name, text)
    for name in made:
        console.print(results.shown(target / name), markup=False)
    return EXIT_AS_EXPECTED


def cmd_readme(arguments: argparse.Namespace, console: Console) -> int:
    """Make the blocks of both pages anew."""
    import json

    from repros.evidence import oracle, readme
    from repros.report import rows

    need_checkout("readme")
    for run in (*(arguments.evidence or ()), *(arguments.card or ())):
        results.load(run)  # what is named wrong is told before all that is committed is read
    figures = readme.trimmed(arguments.benchmarks) if arguments.benchmarks else None
    found = None if arguments.evidence and arguments.card else readme.committed()
    evidence = readme.Evidence(
        arguments.evidence or (found.without if found else ()), arguments.card or (found.cards if found else ())
    )
    if figures:
        with files.Folder(evidence.without[0], "evidence", force=arguments.force) as out:
            out.write(readme.BENCHMARKS, json.dumps(figures, indent=1) + "\n")
    made = readme.blocks(evidence, {e.name: e for e in cases.find()}, rows.over_all().values())
    made["oracle"] = oracle.block(ROOT / "reports")
    texts = {page: readme.refreshed(page, (ROOT / page).read_text(encoding="utf-8"), made) for page in readme.PAGES}
    for page, text in texts.items():
        files.write(ROOT / page, text)
    sources = ", ".join(map(results.shown, (*evidence.without, *evidence.cards)))
    console.print(f"{' and '.join(texts)}: figures from {sources}", markup=False)
    return EXIT_AS_EXPECTED


def cmd_site(arguments: argparse.Namespace, console: Console) -> int:
    """Write the site."""
    from repros.advisory import model
    from repros.evidence import site

    front = site.front(results.REPORTS, {e.name: e for e in cases.find()}, model.load())
    with files.Folder(arguments.to, "site", force=arguments.force, prune=True) as out:
        for name, data in site.files(results.REPORTS, arguments.source, front):
            out.write(name, data)
    console.print(f"wrote {results.shown(arguments.to / 'index.html')}", markup=False)
    return EXIT_AS_EXPECTED


def cmd_advisories(arguments: argparse.Namespace, console: Console) -> int:
    """Write the advisories, or say which are stale."""
    from repros.advisory import model
    from repros.evidence import advisories

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


def evidence() -> Evidence:
    """Read all that is committed: trials as README reads them, every record of them, and bisections."""
    from repros.bisect import committed as bisections
    from repros.evidence import advisories, readme

    found = readme.committed()
    places = list(bisections.folders(results.REPORTS))
    every = [record for folder in (*found.without, *found.cards) for record in results.load(folder)[0]]
    every += [record for folder in places for record in bisections.of_releases(folder)]
    tried = dict.fromkeys((record.case, record.condition) for record in every)
    fixes = {key: commit.url for place in places for key in tried if (commit := bisections.fixed_by(place, *key))}
    trials = [*results.load_all(found.without)[0], *results.load_all(found.cards)[0]]
    return advisories.Evidence(trials, every, fixes)
