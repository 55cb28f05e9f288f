"""A finding in words: a case file, a one-file script that needs the pinned packages alone, a page with the cells."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from repros.errors import printable
from repros.hunt import upstream
from repros.hunt.known import number_of
from repros.hunt.life import Step, call
from repros.hunt.search import Finding
from repros.report.escape import Safe, code, markdown, table

MEANING = {
    "output": "the output is wrong, and nothing says so",
    "gradient": "the gradient of the input is wrong, and nothing says so",
    "held": "more is held from forward to backward than input, output and the packed weight",
    "unnoticed": "codes changed in place between forward and backward go unnoticed, where a dense layer raises",
}


def meaning(what: str) -> str:
    """Say a departure in words."""
    return MEANING.get(what, f"it {what}, where the reference goes on")


def sentence(what: str) -> str:
    """Return `meaning` with a capital letter, and no other letter changed."""
    text = meaning(what)
    return text[:1].upper() + text[1:]


def in_docstring(text: str) -> str:
    """Return a text that ends no docstring and starts no escape: it may be what an exception said."""
    return printable(text, keep="\n").replace("\\", r"\\").replace('"""', r"\"\"\"")


CASE_SAYS = """{title}.

Found by the hunt in {cell}, as the shortest life that shows it:

    {life}

{says}
Budget: {budget_says}
"""
CASE = '''"""{docstring}"""

from repros.case import Affected, Budget, Case, Claim, Condition, Symptom
from repros.hunt.arms import {limit}inputs, oracle, planted, reference, subject
from repros.hunt.life import Life

__all__ = ["CASE", "inputs", "oracle", "planted", "reference", "subject"]

LIFE = Life.from_json({life_json})
DEPARTS = Claim({claim!r})

CASE = Case(
    report="bitsandbytes#{number}",
    title={title!r},
    kind="finding of the hunt",
    status="{status}",
    severity="{severity}",
    trigger={trigger!r},
    claims=(DEPARTS,),
    conditions=(
        Condition(
            "life",
            Budget({figure!r}, {limit_value}),
            {params},
            affected={affected},
            claims=(DEPARTS,),
        ),
    ),
    symptoms=({symptoms}),
)
'''


def case_text(finding: Finding, source: str, cell: str, pins: Mapping[str, Mapping[str, str]]) -> str:
    """Return a case file that runs as it is.

    ``source``: the folder of the hunt, from the project's root. ``pins``: cell -> package -> version.
    """
    life, departure = finding.life, finding.departure
    number = number_of(life, departure)
    figure, limit = {"held": ("held_bytes", "held_limit"), "unnoticed": ("unnoticed", "")}.get(
        departure.what, ("error", "error_limit")
    )
    raises = departure.what.startswith(("raises", "killed"))
    budget_says = {
        "held_bytes": "`repros.hunt.arms.held_limit`, from shapes and dtypes.",
        "unnoticed": "a change is noticed (0) or not (1).",
        "error": "`repros.hunt.arms.error_limit`, from code steps and the epsilon of the dtype.",
    }[figure]
    what, symptoms = departure.what, ""
    if raised := re.match(r"raises (\w+): ", what):
        text = (departure.detail.splitlines() or [""])[0][:100]
        what = f"raises {raised[1]}: {text}"
        symptoms = f"Symptom({raised[1]!r}, {re.escape(text)!r}),"
    elif what.startswith("killed by "):
        symptoms = f"Symptom({what.removeprefix('killed by ')!r}, ''),"
    affected = "".join(
        f"\n                Affected({exact(pins[name])!r}, source={source!r}),"
        for name, said in finding.cells.items()
        if said == departure.what
    )
    title = f"{life.full()['kind']}: {meaning(departure.what)}"[:100].rstrip(".")
    return CASE.format(
        title=title, docstring=in_docstring(CASE_SAYS.format(
            title=title, cell=cell, life=life.words(), says=textwrap.fill(departure.detail, 110) + "\n",
            budget_says=budget_says,
        )),
        limit=f"{limit}, " if limit else "", limit_value=f"{limit}(LIFE)" if limit else "0.5", trigger=life.words(),
        severity="raises" if raises else "memory" if figure == "held_bytes" else "wrong numbers",
        life_json=json.dumps(life.to_json()).replace("true", "True").replace("false", "False"), number=number,
        status="known" if number else "not reported", claim=meaning(departure.what),
        params="{" + f'"life": LIFE, "what": {what!r}' + "}", figure=figure,
        symptoms=symptoms, affected=f"({affected}\n            )" if affected else "()" if finding.cells else None,
    )  # fmt: skip


def exact(pins: Mapping[str, str]) -> dict[str, str]:
    """Return pins as specifiers."""
    return {package: f"=={version}" for package, version in pins.items()}


def script_text(finding: Finding, pins: Mapping[str, str]) -> str:
    """Return a script of one file: the functions that this life needs, then the life, then what it shows.

    ``pins``: package -> version, of the cell of the hunt.
    """
    life = finding.life
    steps = list(life.steps)
    if not steps or steps[-1][0] not in ("step", "forward"):
        steps.append(("forward", {}))
    wanted = needed([name for name, _ in steps])
    sources = "\n\n".join(inspect.getsource(getattr(upstream, name)).rstrip() + "\n" for name in wanted)
    body = "\n".join(line for step in steps for line in lines_of(step))
    requirements = " ".join(f"{name}=={version}" for name, version in pins.items())
    return (
        f'"""{in_docstring(sentence(finding.departure.what))}.\n\n'
        f"python3 -m pip install {requirements}\n"
        f'The shortest life that shows it: {life.words()}\n"""\n\n'
        "from types import SimpleNamespace\nfrom typing import Any\n\n\n"
        f"{sources}\n\n"
        f"spec = {life.full()!r}\n"
        "t = make_tensors(spec)\n"
        "s = SimpleNamespace(spec=spec, t=t)\n"
        "weight = dequantized(spec, t['weight'])\n"
        "exact = t['x'].double() @ weight.t() + (0 if t['bias'] is None else t['bias'].double())\n"
        "exact_grad = t['grad'].double() @ weight\n\n\n"
        "def show(name: str, got: Any, want: Any) -> None:\n"
        "    error = (got.detach().double() - want).abs().max() / want.abs().max()\n"
        '    print(f"{name}: relative error {float(error):.3g}")\n\n\n'
        "layer = build(spec, t)\n"
        f"{body}\n"
    )


def needed(steps: Sequence[str]) -> list[str]:
    """Return the functions of `upstream` that steps use, sorted by their names."""
    names = {"make_tensors", "dequantized", "build"}
    names |= {f"step_{name}" for name in steps if name not in ("step", "forward")}
    if "step" in steps:
        names |= {"run", "change", "reset"}
    if names & {"step_state_dict", "step_safetensors"}:
        names.add("load_into_new")
    if "step_lora_merge" in names:
        names.add("step_lora")
    return [name for name, _ in inspect.getmembers(upstream, inspect.isfunction) if name in names]


def lines_of(step: Step) -> list[str]:
    """Return the lines of a script that take a step."""
    name, parameters = step
    if name == "forward":
        return ["import torch", "", "with torch.no_grad():", '    show("output", layer(t["x"]), exact)']
    if name == "step":
        mode, between = parameters.get("mode", "plain"), parameters.get("between", "nothing")
        meanwhile = {"reset": ["reset(layer)"], "forward": ['layer(t["x"] * 3)'], "change": ["change(layer)"]}
        return [
            'x = t["x"].clone().requires_grad_()',
            f'out = run(layer, x, "{mode}")',
            *meanwhile.get(between, []),
            'out.backward(t["grad"])',
            'show("output", out, exact)',
            'show("gradient of x", x.grad, exact_grad)',
        ]
    arguments = "".join(f", {key}={value!r}" for key, value in parameters.items())
    return [f"layer = step_{name}(layer, s{arguments})"]


def page(
    findings: Sequence[Finding],
    about: Mapping[str, Any],
    make: str,
    cases_to: str,
    commands: Mapping[str, Sequence[str]],
) -> str:
    """Return the page of a hunt: what was found, by which life, in which cells.

    ``make``: what writes the cases to ``cases_to``; ``commands``: slug -> what prints its script, what runs its case.
    """
    known = [f for f in findings if number_of(f.life, f.departure)]
    hidden = "hidden" if about["hidden"] else "told apart"
    machine = f"{about['cores']} cores ({markdown(about['cpu_model'])})"
    rows = [
        f"# The hunt in {markdown(about['cell'])}",
        "",
        f"{about['lives']} lives in {about['seconds']:.0f} s on {machine}, {markdown(about['date'])}, "
        f"seed {about['seed']}, known departures {hidden}. "
        f"{len(findings)} departures found, {len(known)} of them with an upstream number.",
        "",
        f"Again: {code(about['command'])}",
        "",
        f"Cases: {code(make)} writes them to {code(cases_to)}, a file for each finding.",
    ]
    if about["met"]:
        met = "; ".join(f"{markdown(title)} ({times})" for title, times in about["met"].items())
        rows += ["", f"Known departures met and passed over: {met}"]
    for finding in findings:
        rows += section(finding, *map(code, commands[finding.slug]))
    return "\n".join(rows) + "\n"


def section(finding: Finding, script: str, run: str) -> list[str]:
    """Return what the page says of a finding."""
    life, departure = finding.life, finding.departure
    number = number_of(life, departure)
    steps = " → ".join(map(call, life.steps)) or "build"
    spec = ", ".join(code(f"{name}={value}") for name, value in life.spec.items()) or "defaults"
    what = markdown(departure.what)
    says = sentence(what) if what in MEANING else Safe(f"It {what}, where the reference goes on")
    rows = [
        "",
        f"## {life.full()['kind']}: {what}",
        "",
        f"{says}. " + (f"Upstream: bitsandbytes#{number}." if number else "No upstream number is recorded here."),
        "",
        f"- layer: {spec}",
        f"- shortest sequence: {markdown(steps)}",
        f"- observed: {markdown(' '.join(departure.detail.split()))}",
        f"- found after {finding.seconds:.0f} s and {finding.lives} lives; "
        f"{'again in a fresh process' if finding.confirmed else 'not seen again in a fresh process'}",
        f"- script: {script}",
        f"- case: {run}",
    ]
    if finding.cells:
        rows += ["", table(("cell", "the same life"), finding.cells.items())]
    return rows
