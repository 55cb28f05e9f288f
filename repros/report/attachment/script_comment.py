"""The comment of a script's attachment: where it is bad, the script, a vote a release; the rest in ``<details>``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from repros.errors import printable, shortened
from repros.report import escape, tries
from repros.report.attachment import tried
from repros.report.attachment.comment import CHARACTERS, MOST, shortest
from repros.report.kept import KeptTry
from repros.report.machine import described
from repros.report.tries import Row, Tries
from repros.run.vote import BAD, GOOD, NO_CONTROLS

#: Lines and characters of a script that is shown in the comment.
MOST_LINES, MOST_SCRIPT = 80, 12_000
#: Characters of a name or a rule at the head.
MOST_NAME = 60
RULES = {
    "exit": "it ends with an exit code other than 0 and 125 (could not tell), or by a signal",
    "timeout": "it does not end in time",
}


def comment(kept: KeptTry, script: str, bisected: Sequence[Mapping[str, str]], redacted: str) -> str:
    """Return the comment of a try without private words: as many characters as GitHub takes.

    ``script`` is the source as it is attached.
    """
    head = {**top(kept.tries), **shown(script), "bisected": bisected, "redacted": redacted.capitalize()}
    shorter = (
        {"rows": head["edge"]},
        {"rows": head["edge"], "reason": "", "bisected": bisected[:2]},
        {"rows": [], "reason": "", "bisected": []},
    )
    text = ""
    for output, width, rows in ((8000, 2000, 60), (1000, 400, 30), (200, 100, 10)):
        values = {**head, **behind(kept, output, width, rows)}
        text = shortest("script.md.j2", values, *shorter)
        if len(text) < CHARACTERS:
            return text
    return escape.cut(text, CHARACTERS - 1, "(cut)\n")


def votes(found: Tries) -> list[tuple[str, str]]:
    """Return name and vote of each row."""
    return [(shortened(one.name, MOST_NAME), one.vote) for one in found.rows]


def edge(rows: Sequence[Row]) -> tuple[Row | None, Row | None]:
    """Return the newest bad row and the first good one above it; the rows are in their order of age."""
    at = max((i for i, one in enumerate(rows) if one.vote == BAD), default=None)
    if at is None:
        return None, None
    return rows[at], next((one for one in rows[at + 1 :] if one.vote == GOOD), None)


def top(found: Tries) -> dict[str, Any]:
    """Return what the head of the comment says: headline, sentence, table."""
    bad, good = edge(found.rows)
    over, kind = shortened(found.over, 40), "cell" if found.over == "cell" else "release"
    names = [shortened(one.name, MOST_NAME) for one in found.rows]
    span = " to ".join(dict.fromkeys((names[0], names[-1])))
    if bad is None:
        word = "good" if any(one.vote == GOOD for one in found.rows) else "no answer"
        tried_in = f"{span}" if kind == "cell" else f"{over} {span}"
        headline = f"{word} in every {kind} tried, {tried_in}"
        if word == "good" and any(one.vote != GOOD for one in found.rows):
            headline = f"bad in no {kind} tried, {tried_in}"
    elif good is None:
        newest = f"no newer {kind} is good; newest tried: {names[-1]}"
        headline = f"bad in {over} {shortened(bad.name, MOST_NAME)}; {newest}"
    else:
        headline = f"bad in {over} {shortened(bad.name, MOST_NAME)}, good from {shortened(good.name, MOST_NAME)}"
    return {
        "script": shortened(found.script, MOST_NAME),
        "headline": headline,
        "place": f"{over} {shortened(bad.name, MOST_NAME)}" if bad else "",
        "reason": shortened(bad.reason, MOST) if bad else "",
        "rule": RULES.get(found.rule) or escape.code(shortened(found.rule, MOST_NAME)),
        "no_controls": NO_CONTROLS,
        "over": over,
        "rows": tried.rows(votes(found), together=True),
        "edge": [[shortened(one.name, MOST_NAME), one.vote] for one in (bad, good) if one],
    }


def shown(script: str) -> dict[str, str]:
    """Return the script as it stands in the comment, or why it does not."""
    lines = len(script.splitlines())
    if lines > MOST_LINES or len(script) > MOST_SCRIPT:
        return {"inline": "", "why": f"{lines} lines"}
    if printable(script, keep="\n\t") != script or "`" * (escape.MOST_BACKTICKS + 1) in script or not script.strip():
        return {"inline": "", "why": "a comment would not show all of its characters"}
    return {"inline": script, "why": ""}


def behind(kept: KeptTry, output: int, width: int, most: int) -> dict[str, Any]:
    """Return what stands behind ``<details>``: so many characters of an output and of any other text, so many rows."""
    found = kept.tries
    columns, rows, _ = tries.cells(found)
    same, differing = tries.packages(found.rows)
    outputs = zip(tries.differences(found.rows), tries.groups(found.rows).values(), strict=True)
    return {
        "summary": shortened(tries.summary(found), width),
        "columns": [shortened(text, width) for text in columns],
        "table_rows": [[shortened(text, width) for text in one] for one in rows[:most]],
        "outputs": [
            {
                "says": shortened(says, width),
                "text": printable("\n".join(lines) or several[0].seen.output.strip(), keep="\n\t", most=output),
            }
            for (says, lines), several in list(outputs)[:most]
        ],
        "same": shortened(listed(same), width),
        "packages": [
            (shortened(one.name, width), shortened(listed(only(one.packages, differing)), width))
            for one in found.rows[:most]
            if differing and one.packages
        ],
        "machine": shortened(described(kept.machine), width),
        "command": shortened(kept.command, width),
        "made_by": f"python -m repros bundle {shortened(found.script, MOST_NAME)}",
        "date": shortened(kept.date, MOST_NAME),
    }


def only(packages: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """Return the packages of these names."""
    return {name: packages[name] for name in names if name in packages}


def listed(packages: Mapping[str, str]) -> str:
    """Return packages and their versions in a line."""
    return ", ".join(f"{name} {version}" for name, version in packages.items())
