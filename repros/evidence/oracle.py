"""What reports/README.md says of the oracle: properties, mutants and hunts, each from its committed results file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repros.errors import UserError
from repros.run.folders import shown
from repros.run.schema import Attack, Hunted, Mutants, Peer, Proof, document

AGAIN = "run `nox -s prove`, `nox -s mutants` again and keep its file"
AGAIN_PEER = "run `nox -s peer` again and keep its file"


def block(reports: Path) -> str:
    """Return the figures below ``reports/oracle`` and ``reports/hunt``; raise UserError where there are none."""
    proofs = [document(path, Proof, AGAIN) for path in sorted((reports / "oracle").glob("prove-*.json"))]
    if not proofs:
        raise UserError(
            f"{shown(reports / 'oracle')}: no results of the properties",
            "run `nox -s prove` and keep its files there as prove-CELL.json",
        )
    rows = [*properties(proofs), *mutants(document(reports / "oracle" / "mutants.json", Mutants, AGAIN))]
    rows += attacks(document(reports / "oracle" / "attack.json", Attack, "run `nox -s attack` and keep its file there"))
    peers = [document(path, Peer, AGAIN_PEER) for path in sorted((reports / "oracle").glob("peer-*.json"))]
    rows += [line for found in peers for line in by_peer(found)]
    pages = sorted((reports / "hunt").glob("*/findings.json"))
    hunts = [(path.parent, document(path, Hunted, "hunt again with `nox -s hunt`")) for path in pages]
    rows += [line for folder, found in hunts for line in hunted(folder, found)]
    return "\n".join(rows)


def properties(proofs: list[dict[str, Any]]) -> list[str]:
    """Return one line a cell, and the largest counts of upstream's own departures."""
    lines = []
    for proof in proofs:
        tried = {name: p for name, p in proof["properties"].items() if p.get("examples")}
        passed = [p for p in proof["properties"].values() if p.get("outcome") == "passed"]
        failed = [p for p in proof["properties"].values() if p.get("outcome") not in (None, "passed")]
        least = min((p["examples"] for p in tried.values()), default=0)
        packages = proof["packages"]
        lines.append(
            f"- **Properties**, bitsandbytes {packages['bitsandbytes']}, torch {packages['torch']}, {proof['date']}: "
            f"{len(tried)} properties of {least:,} examples or more, {sum(p['examples'] for p in tried.values()):,} in "
            f"all; {len(passed)} tests passed, {len(failed)} failed. Counted of upstream: {counted(tried)}."
        )
    return lines


def counted(tried: dict[str, dict[str, Any]]) -> str:
    """Say what was counted of upstream, the rest of the counts being of modes and checkpoints."""
    found = [
        f"{what}: {number:,}"
        for p in tried.values()
        for what, number in p.get("counted", {}).items()
        if not what.startswith(("examples", "checkpoints", "shards", "headers"))
    ]
    return "; ".join(found) or "nothing"


def mutants(results: dict[str, Any]) -> list[str]:
    """Return a line of the campaign and one for each survivor."""
    rows = results["mutants"]
    survivors = [row for row in rows if not row["caught"]]
    lines = [f"- **Mutants**, {results['date']}: {len(rows) - len(survivors)} of {len(rows)} bugs put in are caught."]
    return lines + [
        f"  - survives: {row['file']}, {row['bug']}: {row.get('reason', 'no reason is recorded')}" for row in survivors
    ]


def attacks(found: dict[str, Any]) -> list[str]:
    """Return a line of the damaged inputs, and one of each other attack."""
    doors = ", ".join(f"{door} {sum(how.values()):,}" for door, how in found["doors"].items())
    refused = sum(how.get("refused", 0) for how in found["doors"].values())
    lines = [
        f"- **Attack**, {found['date']}: {found['inputs']:,} damaged inputs ({doors}), {refused:,} refused in two "
        f"lines, the others read; {found['tests'].get('failed', 0)} tests failed."
    ]
    return lines + [
        f"  - {name}: {', '.join(f'{count:,} {what}' for what, count in counts.items())}"
        for name, counts in found["counts"].items()
    ]


def by_peer(found: dict[str, Any]) -> list[str]:
    """Return a line of bitsandbytes' own tests over the reference, and one for each that ends otherwise."""
    alike = sum(count for pair, count in found["outcomes"].items() if len(set(pair.split(", "))) == 1)
    passed, spoiled, differ = found["outcomes"].get("passed, passed", 0), found["spoiled"], found["differ"]
    lines = [
        f"- **bitsandbytes' own tests**, release {found['release']} on {found['device']}, torch "
        f"{found['packages']['torch']}, {found['date']}: {passed:,} pass over its kernels and over the reference in "
        f"their place ({sum(found['calls'].values()):,} calls reached it), {alike - passed:,} end alike in another "
        f"way, {len(differ)} differ. With every scale spoiled {spoiled['failed']:,} of {spoiled['tests']:,} fail."
    ]
    return lines + [
        f"  - {one['test']}: {one['installed']} over its kernels, {one['reference']} over the reference"
        for one in differ
    ]


def hunted(folder: Path, found: dict[str, Any]) -> list[str]:
    """Return a line of a hunt."""
    findings = found["findings"]
    numbered = [f for f in findings if f["number"]]
    hidden = "known departures hidden, " if found["hidden"] else ""
    first = {
        what: f"the first silently wrong {what} after {min(seconds):.0f} s"
        for what in ("output", "gradient")
        if (seconds := [f["seconds"] for f in findings if f["what"] == what])
    }
    when = f", {', '.join(first.values())}" if first else ""
    return [
        f"- **Hunt** in {found['cell']}, {found['date']}, {hidden}{found['lives']} lives in {found['seconds']:.0f} s: "
        f"{len(findings)} departures, {len(numbered)} of them with an upstream number{when} "
        f"([page]({folder.parent.name}/{folder.name}/README.md))."
    ]
