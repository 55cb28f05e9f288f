"""Which packages carry a change between a good and a bad cell: delta debugging over the pins.

`smallest` is Zeller's ddmin over a set of changes, with a test that answers `good`, `bad` or `skip`; a combination that
cannot be installed together is a `skip`, which proves nothing either way. What comes out is 1-minimal: leave any one
change out, and the bug is not shown any more. Two or more of them are an interaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from packaging.version import Version

from repros.bisect.probe import Kept, Probe, Workshop, identity
from repros.bisect.revisions import Revision
from repros.bisect.search import BAD, GOOD, SKIP, is_bad
from repros.cases import Entry
from repros.cells.matrix import ANY, FOLLOWERS, Cell, Matrix
from repros.errors import UserError

__all__ = ["between_cells", "smallest"]

Test = Callable[[frozenset[str]], str]


def smallest(changes: Sequence[str], test: Test) -> tuple[str, ...]:
    """Return a 1-minimal subset of the changes for which `test` says bad, given that it does for all of them.

    No subset is tested twice. Subsets that answer `skip` are passed over.
    """
    answers: dict[frozenset[str], str] = {frozenset(changes): BAD}

    def bad(subset: Sequence[str]) -> bool:
        key = frozenset(subset)
        if key not in answers:
            answers[key] = test(key) if key else GOOD
        return is_bad(answers[key])

    left, parts = list(changes), 2
    while len(left) > 1:
        size = -(-len(left) // parts)
        chunks = [left[i : i + size] for i in range(0, len(left), size)]
        narrower = next((chunk for chunk in chunks if bad(chunk)), None)
        if narrower is not None:
            left, parts = narrower, 2
            continue
        rests = [[change for change in left if change not in chunk] for chunk in chunks] if len(chunks) > 2 else []
        narrower = next((rest for rest in rests if bad(rest)), None)
        if narrower is not None:
            left, parts = narrower, max(2, parts - 1)
        elif size == 1:
            break
        else:
            parts = min(len(left), 2 * parts)
    return tuple(left)


def mixed(good: Cell, bad: Cell, taken: frozenset[str]) -> Revision:
    """Return the good cell with the taken packages as the bad cell pins them.

    What follows other packages (huggingface_hub, tokenizers) is pinned where it is taken itself, and left to the
    resolver otherwise as soon as another package was taken.
    """
    cell = good
    for name, pin in bad.pins.items():
        if name in taken:
            cell = cell.with_override(name, pin)
        elif name in FOLLOWERS and taken - set(FOLLOWERS):
            cell = cell.with_override(name, ANY)
    return Revision("+".join(f"{name}-{bad.pins[name]}" for name in bad.pins if name in taken) or "none", cell)


def between_cells(
    entry: Entry, condition: str, good: Cell, bad: Cell, matrix: Matrix, kept: Kept, say: Callable[[str], None]
) -> tuple[str, Cell, str, str]:
    """Find the packages that carry the change; return the one to walk, the cell to walk it in, and its ends in order.

    Of an interaction the first package is walked, with the others as in the bad cell. Raises
    UserError where the cells do not differ, are not good and bad, or differ in the device.
    """
    changes = [name for name, pin in bad.pins.items() if good.pins.get(name) != pin]
    if not changes or good.device != bad.device:
        what = "have the same pins" if not changes else f"are on {good.device} and on {bad.device}"
        raise UserError(f"{good.name} and {bad.name} {what}", "name two cells that differ in their pins")
    workshop = Workshop(entry.case.package, kept.folder / "logs", say=say, cases=[entry.module])

    def ask(revision: Revision) -> Probe:
        before = kept.find(entry.name, condition, identity(entry, revision), False)
        if before:
            return before[0]
        probe = workshop.try_here(entry, condition, revision, workshop.prepare(revision), False)
        kept.add(probe)
        workshop.trim(set())
        return probe

    def test(taken: frozenset[str]) -> str:
        revision = mixed(good, bad, taken)
        rule = matrix.excluded_by(revision.cell.pins, good.device)
        if rule:
            say(f"with {', '.join(sorted(taken))} as in {bad.name}: skip: excluded: {rule.reason}")
            return SKIP
        probe = ask(revision)
        say(f"with {', '.join(sorted(taken))} as in {bad.name}: {probe.votes[0].partition(':')[0]}: {probe.reason}")
        return probe.votes[0]

    try:
        for cell, wanted in ((good, GOOD), (bad, BAD)):
            probe = ask(Revision(cell.name, cell))
            if probe.votes[0].partition(":")[0] != wanted:
                what = f"{cell.name} was given as {wanted} and is {probe.votes[0].partition(':')[0]}: {probe.reason}"
                raise UserError(what, "name other cells, or swap them")
        followers = [name for name in changes if name in FOLLOWERS]
        leaders = [name for name in changes if name not in FOLLOWERS]
        # A follower is no suspect where its leader explains the change with the resolver's own choice for it.
        first = leaders if leaders and is_bad(test(frozenset(leaders))) else [*leaders, *followers]
        culprits = smallest(first, test)
    finally:
        workshop.close()
    kind = "an interaction of" if len(culprits) > 1 else "carried by"
    say(f"the change from {good.name} to {bad.name} is {kind} {' and '.join(culprits)}")
    package = culprits[0]
    base = good
    for name in culprits[1:]:
        base = base.with_override(name, bad.pins[name])
    first_version, last_version = sorted((good.pins[package], bad.pins[package]), key=Version)
    return package, base, first_version, last_version
