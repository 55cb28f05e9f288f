"""The search: a Hypothesis state machine makes lives, a cell leads them, and what departs is shrunk.

The parent has Hypothesis and never imports torch; the cell has the packages and nothing of ours. Each life is one
request to the cell's fork server, so a life that crashes or leaks takes nothing with it.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from repros.errors import UserError
from repros.hunt.known import Known
from repros.hunt.life import BETWEEN, MODES, ONLY, SPEC, STEPS, Departure, Life, Step, matches
from repros.hunt.probe import STEP_MARK
from repros.verdict import Observation

STEPS_OF_A_LIFE = 6
LIVES_A_ROUND = 150
LIFE_TIMEOUT_S = 60.0
#: Of the lives that come upon a known departure, one in so many is led there all the same: it may show another one.
LOOK_AGAIN = 4
SHORTEN_S = 60.0  # for what was found last, where the time is up
NAME_LETTERS = 80
#: What an exception says may hold half a pair of surrogates, which no file can.
SURE: Mapping[str, str] = {"encoding": "utf-8", "errors": "backslashreplace"}


class Observer(Protocol):
    """Where lives are led."""

    def observe(self, request: Mapping[str, Any], log: Path, fresh: bool = False) -> Observation:
        """Run one arm."""


class FaultOfReferenceError(Exception):
    """The reference departs from its own oracle: a fault of ours, to be mended before anything is said of upstream."""


class OutOfTimeError(BaseException):
    """Ends Hypothesis wherever it is."""


@dataclass
class Finding:
    """A departure, the shortest life that shows it, and how often it was tried again."""

    life: Life
    departure: Departure
    lives: int
    seconds: float
    confirmed: bool = False
    cells: dict[str, str] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """Return a name for files: kind, what, spec, steps, and a digest of what those words leave out."""
        what = re.sub(r"[^a-z0-9]+", "_", self.departure.what.partition(":")[0].lower()).strip("_")
        spec = [f"{name}_{value}" for name, value in self.life.spec.items() if name != "kind"]
        steps = [name + "".join(f"_{v}" for v in p.values()) for name, p in self.life.steps] or ["build"]
        words = "_".join(["hunt", self.life.full()["kind"], what, *spec, *steps]).lower()
        digest = hashlib.sha256(f"{self.life.key} {self.departure.what}".encode(**SURE)).hexdigest()[:6]
        return f"{re.sub(r'[^a-z0-9]+', '_', words)[:NAME_LETTERS].rstrip('_')}_{digest}"

    def as_known(self) -> Known:
        """Return the pattern by which later lives that show the same are told apart."""
        steps = self.life.steps[: self.departure.at + 1]
        what = re.escape(self.departure.what)
        if self.departure.what in ("output", "gradient"):
            what = "output|gradient"  # which of them a lost scale shows in first is the last step's doing
        # The step that only looks (a forward or a plain training step) may be any other that computes.
        while len(steps) > 1 and steps[-1] in (("forward", {}), ("step", {})):
            steps = steps[:-1]
        if len(steps) == 1 and steps[0] in (("forward", {}), ("step", {})):
            steps = ()
        return Known(self.slug, Life(self.life.spec, steps), what)


class Hunt:
    """One cell's hunt."""

    def __init__(
        self,
        place: Observer,
        logs: Path,
        minutes: float,
        known: Sequence[Known],
        seed: int = 0,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._place, self._logs, self._say = place, logs, say
        self._ends = self._until = time.monotonic() + 60 * minutes
        self._began = time.monotonic()
        self._known = list(known)
        self._seed = seed
        self._seen: dict[str, Departure | None] = {}
        self._best: tuple[Life, Departure] | None = None
        self.lives = 0
        self.known_met: dict[str, int] = {}
        self.unsupported = 0
        #: Lives in which the reference departed from its own oracle: faults of ours.
        self.faults: dict[str, str] = {}
        self.findings: list[Finding] = []

    def run(self, most: int | None = None) -> list[Finding]:
        """Hunt until the time is up or ``most`` are found; return what is not known, each in its shortest form."""
        hypothesis_or_hint()
        rounds = 0
        while time.monotonic() < self._ends and len(self.findings) != most:
            rounds += 1
            self._best = None
            self._round(self._seed * 1000 + rounds)
            if self._best is not None:
                self._keep(*self._best)
        return self.findings

    def _round(self, seed: int) -> None:
        import hypothesis
        from hypothesis import HealthCheck, Phase, settings
        from hypothesis.stateful import run_state_machine_as_test

        options = settings(
            max_examples=LIVES_A_ROUND, stateful_step_count=STEPS_OF_A_LIFE, deadline=None, database=None,
            phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False, print_blob=False, verbosity=hypothesis.Verbosity.quiet,
        )  # fmt: skip
        machine = hypothesis.seed(seed)(machine_of(self.judge))
        try:
            run_state_machine_as_test(machine, settings=options)
        except OutOfTimeError:
            pass
        except BaseException as error:
            if self._best is None or isinstance(error, KeyboardInterrupt):
                raise

    def judge(self, life: Life) -> None:
        """Lead a life, or what of it lies before known ground; raise if it departs in a way that is not known yet."""
        shortened = self._before_known(life)
        if shortened is None:
            return
        life = shortened
        try:
            departure = self.lead(life)
        except FaultOfReferenceError as error:
            self.faults[life.words()] = str(error)
            self._seen[life.key] = None
            return
        if departure is None:
            return
        known = self._known_as(life, departure)
        if known is not None:
            self.known_met[known.title] = self.known_met.get(known.title, 0) + 1
            return
        life = Life(life.spec, life.steps[: departure.at + 1])
        if self._best is None or (self._best[1].what == departure.what and life.size < self._best[0].size):
            self._best = life, departure
        # A class for each departure, so that shrinking one does not slip into another.
        raise type("Found", (AssertionError,), {})(departure.what)

    def _before_known(self, life: Life) -> Life | None:
        """Cut a life before the step that makes it show a known departure, or most of its kind would be spent there.

        It goes on with its last step, if that computes; None if nothing is left. Where only the last step leads to
        what is known nothing lies behind it, and a mode of training may show more than one departure: such a life is
        led. One other in LOOK_AGAIN is led too: which one is a matter of the life alone, so that Hypothesis can
        shrink it.
        """
        if not life.steps or not zlib.crc32(life.key.encode()) % LOOK_AGAIN:
            return life
        *before, last = life.steps
        clean = next(n for n in range(len(before), -1, -1) if n == 0 or not self._leads_to_known(life, n))
        if self._leads_to_known(life, clean):
            return None
        if last[0] in ("step", "forward"):
            return replace(life, steps=(*before[:clean], last))
        return life if clean == len(before) else replace(life, steps=tuple(before[:clean])) if clean else None

    def _known_as(self, life: Life, departure: Departure) -> Known | None:
        return next((known for known in self._known if known.covers(life, departure)), None)

    def _leads_to_known(self, life: Life, steps: int) -> bool:
        first = replace(life, steps=life.steps[:steps])
        return any(matches(first, known.pattern) for known in self._known)

    def lead(self, life: Life, fresh: bool = False) -> Departure | None:
        """Return how a life departs, from memory if it was led before."""
        if life.key in self._seen and not fresh:
            return self._seen[life.key]
        if time.monotonic() > self._until:
            raise OutOfTimeError
        self.lives += 1
        log = self._logs / f"life{self.lives}.log"
        request = {
            "module": "repros.hunt.probe", "condition": "life", "arm": "subject", "params": {"life": life.to_json()},
            "env": {}, "timeout_s": LIFE_TIMEOUT_S,
        }  # fmt: skip
        found = read(self._place.observe(request, log, fresh), log)
        if found == "unsupported":
            self.unsupported += 1
            found = None
        log.unlink(missing_ok=True)
        assert found is None or isinstance(found, Departure)
        self._seen[life.key] = found
        return found

    def _keep(self, life: Life, departure: Departure) -> None:
        """Shorten what Hypothesis left, and tell it apart from now on."""
        seconds = round(time.monotonic() - self._began, 1)
        self._until = max(self._ends, time.monotonic() + SHORTEN_S)
        life, departure = self._shortest(life, departure)
        self._until = self._ends
        finding = Finding(life, departure, self.lives, seconds)
        self._known.append(finding.as_known())
        self.findings.append(finding)
        self._say(f"found after {finding.seconds:.0f} s, {self.lives} lives: {departure.what}: {life.words()}")

    def confirm(self) -> None:
        """Lead the life of each finding again, in an interpreter of its own; takes no time from the hunt."""
        self._until = time.monotonic() + LIFE_TIMEOUT_S * (1 + len(self.findings))
        for finding in self.findings:
            again = self.lead(finding.life, fresh=True)
            finding.confirmed = again is not None and again.what == finding.departure.what

    def _shortest(self, life: Life, departure: Departure) -> tuple[Life, Departure]:
        """Leave out each step, each parameter and each field in turn, as long as the same thing is found.

        A life that is known is not the same thing, though it may look so: 8 bits are what 4 bits shrink towards, and
        both may give a wrong output for reasons of their own.
        """
        changed = True
        while changed:
            changed = False
            for candidate in smaller(life):
                try:
                    found = self.lead(candidate)
                except FaultOfReferenceError:
                    continue
                except OutOfTimeError:
                    return life, departure
                if found is not None and found.what == departure.what and not self._known_as(candidate, found):
                    life, departure = Life(candidate.spec, candidate.steps[: found.at + 1]), found
                    changed = True
                    break
        return life, departure


def smaller(life: Life) -> list[Life]:
    """Return the lives that lack one thing of this one."""
    steps, found = life.steps, []
    for i in range(len(steps)):
        found.append(replace(life, steps=(*steps[:i], *steps[i + 1 :])))
    for i, (name, parameters) in enumerate(steps):
        for key in parameters:
            less = {k: v for k, v in parameters.items() if k != key}
            found.append(replace(life, steps=(*steps[:i], (name, less), *steps[i + 1 :])))
        if name == "step":
            found.append(replace(life, steps=(*steps[:i], ("forward", {}), *steps[i + 1 :])))
    for key in life.spec:
        found.append(Life.of({k: v for k, v in life.spec.items() if k != key}, steps))
    return found


def read(seen: Observation, log: Path) -> Departure | str | None:
    """Return what an observation of a life says: a departure, None, or ``unsupported``."""
    types = (seen.exception or {}).get("types", [])
    text = str((seen.exception or {}).get("text", ""))
    if "FaultError" in types:
        raise FaultOfReferenceError(text)
    if "Departed" in types:
        data = json.loads(text)
        if NO_KERNEL.search(data["detail"]):
            return "unsupported"
        what, detail = (data[name].encode(**SURE).decode() for name in ("what", "detail"))
        return Departure(what, data["at"], detail)
    if seen.state == "crashed":
        return Departure(f"killed by {types[0] if types else 'something'}", step_reached(log), seen.reason)
    if seen.state == "unsupported":
        return "unsupported"
    if seen.state != "done":
        raise FaultOfReferenceError(f"a life was not led: {seen.state}: {seen.reason}")
    return None


#: What a package says of a kernel or a shape that it does not have; a refusal in so many words is no departure.
NO_KERNEL = re.compile(r"Could not run 'bitsandbytes::|not (implemented|supported) (for|on) the CPU|on CPU, got fp4")


def step_reached(log: Path) -> int:
    """Return the step that a process was killed in."""
    try:
        marks = re.findall(rf"{STEP_MARK}(-?\d+)", log.read_text(errors="replace"))
    except OSError:
        marks = []
    return int(marks[-1]) if marks else -1


def hypothesis_or_hint() -> None:
    """Raise UserError where Hypothesis is missing."""
    try:
        import hypothesis  # noqa: F401
    except ImportError:
        raise UserError(
            "hunt: hypothesis is not installed", "`python3 -m pip install hypothesis`, or `nox -s hunt`"
        ) from None


def machine_of(judge: Callable[[Life], None]) -> type:
    """Return a rule-based state machine whose rules are the steps of a life, and which has it judged at its end."""
    from hypothesis import strategies as st
    from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

    class LifeOfALayer(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.spec: dict[str, Any] = {}
            self.steps: list[Step] = []
            self.last: Step = ("step", {})

        def construct(self, mode: str, between: str, **spec: Any) -> None:
            self.spec = spec
            self.last = ("step", {"mode": mode, "between": between})

        def teardown(self) -> None:
            # A life ends with a training step: what an earlier one broke must have its chance to show. How it trains
            # is drawn at the start, or a mode would come up only where the rule of one step in twenty did.
            if self.spec:
                trained = bool(self.steps) and self.steps[-1][0] == "step"
                judge(Life.of(self.spec, self.steps if trained else [*self.steps, self.last]))

    # Rules come from the tables of `life`, so they are put on the class here and not written out.
    beginning: Any = initialize
    taken: Any = rule
    drawn = {**SPEC, "mode": MODES, "between": BETWEEN}
    constructing: Any = beginning(**{n: st.sampled_from(v) for n, v in drawn.items()})
    LifeOfALayer.construct = constructing(LifeOfALayer.construct)  # type: ignore[method-assign]

    def suits(kind: str) -> Callable[[Any], bool]:
        return lambda machine: machine.spec.get("kind") == kind

    def taking(name: str) -> Callable[..., None]:
        def take(self: LifeOfALayer, **parameters: Any) -> None:
            self.steps.append((name, parameters))

        take.__name__ = name
        return take

    for name, parameters in STEPS.items():
        strategies = {key: st.sampled_from(values) for key, values in parameters.items()}
        made: Any = taken(**strategies)(taking(name))
        if name in ONLY:
            made = precondition(suits(ONLY[name]))(made)
        setattr(LifeOfALayer, name, made)
    return LifeOfALayer
