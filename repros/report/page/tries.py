"""The page of a script over cells or releases: one HTML file that asks no network for anything and needs no script."""

from __future__ import annotations

from repros import __version__
from repros.errors import printable
from repros.report import tries
from repros.report.kept import KeptTry
from repros.report.machine import described
from repros.report.page import html
from repros.run.vote import BAD, GOOD, SKIP

#: A sign for each vote: colour is never the only one.
SIGNS = {BAD: "●", GOOD: "○", SKIP: "–"}
#: Characters of one output that are shown.
MOST_OUTPUT = 20_000


def page(kept: KeptTry, redacted: str) -> str:
    """Return the page of a try in which nothing is private any more; ``redacted`` says what was taken out."""
    found = kept.tries
    columns, rows, _ = tries.cells(found)
    outputs = [
        {"says": says, "lines": lines, "whole": printable(several[0].seen.output, keep="\n\t", most=MOST_OUTPUT)}
        for (says, lines), several in zip(tries.differences(found.rows), tries.groups(found.rows).values(), strict=True)
    ]
    template = html.environment().from_string(html.asset("tries.html.j2"))
    return template.render(
        title=f"{found.script}: over {found.places}",
        summary=tries.summary(found),
        signs=SIGNS,
        columns=columns,
        rows=rows,
        outputs=outputs,
        script=found.script,
        source=kept.text,
        command=kept.command,
        date=kept.date,
        machine=described(kept.machine),
        packages=[(one.name, sorted(one.packages.items())) for one in found.rows if one.packages],
        redacted=redacted,
        version=__version__,
        css=html.asset("page.css") + html.asset("tries.css"),
    )
