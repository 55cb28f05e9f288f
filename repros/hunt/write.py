"""Write findings down: a case file, a one-file script that needs the pinned packages alone, a page with the cells."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repros.files import Folder
from repros.hunt import upstream
from repros.hunt.known import number_of
from repros.hunt.life import Step, call
from repros.hunt.search import Finding

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


def write_finding(finding: Finding, out: Folder, cell: str, pins: Mapping[str, Mapping[str, str]]) -> None:
    """Write ``<slug>.py``, a case, and ``<slug>_script.py``. ``pins``: cell -> package -> version."""
    out.write(f"{finding.slug}.py", case_text(finding, out.path, cell, pins))
    out.write(f"{finding.slug}_script.py", script_text(finding, cell, pins[cell]))


CASE = '''"""{title}.

Found by the hunt in {cell}, as the shortest life that shows it:

    {life}

{says}
Budget: {budget_says}
"""

from repros.case import Affected, Budget, Case, Claim, Condition, Symptom
from repros.hunt.arms import {limit}, error_limit, oracle, planted, prepare, reference, subject

__all__ = ["CASE", "oracle", "planted", "prepare", "reference", "subject"]

LIFE = {life_json}

CASE = Case(
    package="bitsandbytes",
    number={number},
    title={title!r},
    kind="finding of the hunt",
    status="{status}",
    claims=(Claim({claim!r}),),
    conditions=(Condition("life", {params}),),
    budget=Budget({figure!r}, {limit_value}),
    numbers=error_limit,
    symptoms=({symptoms}),
    affected=({affected}),
    url="{url}",
)
'''


def case_text(finding: Finding, folder: Path, cell: str, pins: Mapping[str, Mapping[str, str]]) -> str:
    """Return a case file that runs as it is."""
    life, departure = finding.life, finding.departure
    number = number_of(life, departure)
    figure, limit = {
        "held": ("held_bytes", "held_limit"),
        "unnoticed": ("unnoticed", "lambda p: 0.5"),
        "gradient": ("error", "error_limit"),
    }.get(departure.what, ("error", "error_limit"))
    budget_says = {
        "held_bytes": "`repros.hunt.arms.held_limit`, from shapes and dtypes.",
        "unnoticed": "a change is noticed (0) or not (1).",
        "error": "`repros.hunt.arms.error_limit`, from code steps and the epsilon of the dtype.",
    }[figure]
    params: dict[str, Any] = {"what": departure.what}
    symptoms = ""
    if departure.what.startswith(("raises", "killed")):
        kind = departure.types[0] if departure.types else departure.what.removeprefix("killed by ")
        text = (departure.detail.splitlines() or [""])[0][:100] if departure.types else ""
        params["what"] = f"raises {kind}: {text}" if departure.types else departure.what
        symptoms = f"Symptom({kind!r}, {re.escape(text)!r}),"
    affected = "".join(
        f"\n        Affected({dict(pins[name])!r}, source={str(folder.name)!r}),"
        for name, said in finding.cells.items()
        if said == departure.what
    )
    exact = re.sub(r"'([a-z]+)': '(\d)", r"'\1': '==\2", affected)
    title = f"{life.full()['kind']}: {meaning(departure.what)}"
    return CASE.format(
        title=title[:100].rstrip("."), cell=cell, life=life.words(), says=textwrap.fill(departure.detail, 110) + "\n",
        budget_says=budget_says, limit="held_limit" if limit == "held_limit" else "life_of",
        life_json=json.dumps(life.to_json()).replace("true", "True").replace("false", "False"), number=number,
        status="known" if number else "not reported", claim=meaning(departure.what),
        params="{" + f'"life": LIFE, "what": {params["what"]!r}' + "}", figure=figure, limit_value=limit,
        symptoms=symptoms, affected=f"{exact}\n    " if exact else "",
        url=f"https://github.com/bitsandbytes-foundation/bitsandbytes/issues/{number}" if number else "",
    ).replace("import life_of, error_limit", "import error_limit")  # fmt: skip


def script_text(finding: Finding, cell: str, pins: Mapping[str, str]) -> str:
    """Return a script of one file: the functions that this life needs, then the life, then what it shows."""
    life = finding.life
    steps = list(life.steps)
    if not steps or steps[-1][0] not in ("step", "forward"):
        steps.append(("forward", {}))
    wanted = needed([name for name, _ in steps])
    sources = "\n\n".join(inspect.getsource(getattr(upstream, name)).rstrip() + "\n" for name in wanted)
    body = "\n".join(line for step in steps for line in lines_of(step))
    requirements = " ".join(f"{name}=={version}" for name, version in pins.items())
    return (
        f'"""{sentence(finding.departure.what)}.\n\n'
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
    """Return the functions of `upstream` that steps use, in the order in which they are defined there."""
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


def page(findings: Sequence[Finding], about: Mapping[str, Any]) -> str:
    """Return the page of a hunt: what was found, by which life, in which cells."""
    known = [f for f in findings if number_of(f.life, f.departure)]
    rows = [
        f"# The hunt in {about['cell']}",
        "",
        f"{about['lives']} lives in {about['seconds']:.0f} s on {about['cores']} cores ({about['cpu_model']}), "
        f"{about['date']}, seed {about['seed']}, known departures {'hidden' if about['hidden'] else 'told apart'}. "
        f"{len(findings)} departures found, {len(known)} of them with an upstream number.",
        "",
        f"Again: `{about['command']}`",
    ]
    if about["met"]:
        rows += [
            "",
            "Known departures met and passed over: " + "; ".join(f"{t} ({n})" for t, n in about["met"].items()),
        ]
    for finding in findings:
        number = number_of(finding.life, finding.departure)
        steps = " → ".join(map(call, finding.life.steps)) or "build"
        spec = ", ".join(f"`{k}={v}`" for k, v in finding.life.spec.items()) or "defaults"
        rows += [
            "",
            f"## {finding.life.full()['kind']}: {finding.departure.what}",
            "",
            f"{sentence(finding.departure.what)}. "
            + (f"Upstream: bitsandbytes#{number}." if number else "No upstream number is recorded here."),
            "",
            f"- layer: {spec}",
            f"- shortest sequence: {steps}",
            f"- observed: {finding.departure.detail}",
            f"- found after {finding.seconds:.0f} s and {finding.lives} lives; "
            f"{'again in a fresh process' if finding.confirmed else 'not seen again in a fresh process'}",
            f"- [case]({finding.slug}.py), [script]({finding.slug}_script.py)",
        ]
        if finding.cells:
            rows += ["", "| cell | the same life |", "|---|---|"]
            rows += [f"| {cell} | {said.replace('|', '')} |" for cell, said in finding.cells.items()]
    return "\n".join(rows) + "\n"


def as_json(findings: Sequence[Finding], about: Mapping[str, Any]) -> str:
    """Return the results file of a hunt."""
    found = [
        {
            "life": f.life.to_json(), "what": f.departure.what, "at": f.departure.at, "detail": f.departure.detail,
            "number": number_of(f.life, f.departure), "lives": f.lives, "seconds": round(f.seconds, 1),
            "confirmed": f.confirmed, "cells": f.cells, "case": f"{f.slug}.py",
        }
        for f in findings
    ]  # fmt: skip
    return json.dumps({**about, "findings": found}, indent=1) + "\n"
