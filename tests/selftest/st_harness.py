"""Arms that pass, break their budget, hang, crash, exhaust memory, print garbage and leave children behind.

Not an upstream report: the harness on trial. Each arm does what the condition's parameter of its name says; the
budget allows one tensor of SIZE bytes to be held from forward to backward.
"""

import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from repros.case import Case, Claim, Condition, Needs, Remedy, Symptom, held

SIZE = 1 << 20


HELD = Claim("one tensor too many is held")


def condition(name: str, subject: str = "inside", witness: str = "", **arms: str) -> Condition:
    does = {"subject": subject, "reference": "inside", "planted": "over", "proposed": "inside", **arms}
    return Condition(name, held(SIZE + SIZE // 4), {"does": does}, affected=(), claims=(HELD,), witness=witness)


REMEDIES = (
    Remedy("hold one tensor", params={"does": {"subject": "inside"}}, recommended="the report"),
    Remedy("hold them all the same", arm="remedy_does_nothing"),
    Remedy("raise", arm="remedy_fails"),
    Remedy("set `REPROS_HOLDS=inside`", env={"REPROS_HOLDS": "inside"}),
    Remedy("compute something else", arm="remedy_is_wrong"),
    Remedy("use what no release has", arm="remedy_of_the_future", needs=Needs({"torch": ">=99"})),
)


def remedied(name: str, remedies: tuple[Remedy, ...], **does: str) -> Condition:
    """Declare a condition of which nothing is recorded: there remedies are tried."""
    return replace(condition(name, **does), remedies=remedies, affected=None, proposed=False)


CASE = Case(
    report="repros#0",
    title="the harness",
    kind="selftest",
    status="open",
    severity="memory",
    trigger="nothing: the harness itself is on trial",
    claims=(HELD,),
    conditions=(
        condition("passes"),
        condition("breaks", "over"),
        condition("hangs", "hang"),
        condition("ignores-signals", "hang_hard"),
        condition("crashes", "segfault"),
        condition("exits", "exit"),
        condition("exhausts-memory", "allocate"),
        condition("prints-garbage", "garbage"),
        condition("prints-100mb", "print_100mb"),
        condition("leaves-child", "leave_child"),
        condition("leaves-daemon", "leave_daemon"),
        condition("leaves-daemon-and-hangs", "leave_daemon_and_hang"),
        condition("raises-symptom", "symptom"),
        condition("raises-other", "raise_other"),
        condition("raises-symptom-in-its-second-line", "symptom_below"),
        condition("raises-what-no-file-can-hold", "raise_odd"),
        condition("raises-what-has-no-text", "raise_mute"),
        condition("returns-a-bool", "bool"),
        condition("planted-silent", planted="inside"),
        condition("planted-crashes", planted="segfault"),
        condition("planted-hangs", planted="hang"),
        condition("reference-fires", "over", reference="over"),
        condition("reference-raises", "over", reference="raise_other"),
        condition("reference-imports-a-package", reference="import_package"),
        condition("planted-asks-for-a-version", "over", planted="over_by_version"),
        condition("fix-cures", "over", proposed="inside"),
        condition("fix-changes-nothing", "over", proposed="over"),
        condition("fix-makes-wrong", "over", proposed="wrong"),
        condition("fix-fails", "over", proposed="raise_other"),
        condition("hidden-from-one-instrument", "hidden"),
        condition("witness-agrees", witness="witness_good.py"),
        condition("witness-agrees-that-it-is-bad", "over", witness="witness_bad.py"),
        condition("witness-disagrees", witness="witness_bad.py"),
        condition("witness-cannot-tell", "over", witness="witness_skip.py"),
        condition("witness-raises", "over", witness="witness_raises.py"),
        condition("witness-hangs", witness="witness_hangs.py"),
        condition("witness-of-an-error", "raise_other", witness="witness_good.py"),
        remedied("remedies", REMEDIES, subject="over", subject_heeds_env="yes"),
        remedied("remedies-where-nothing-is-wrong", REMEDIES[:1]),
        remedied("remedies-of-what-is-unsettled", REMEDIES[:1], planted="inside"),
        replace(condition("remedies-of-what-is-not-affected"), remedies=REMEDIES[:1]),
        replace(condition("control"), control=True),
        replace(condition("control-breaks", "over"), control=True),
        replace(condition("nothing-recorded"), affected=None),
    ),
    symptoms=(Symptom("KeyError", "reported"), Symptom("RuntimeError", "the reported one$")),
    proposes="nothing in earnest",
    timeout_s=4.0,
)


def oracle(c):
    import torch

    return {"output": torch.ones(4, dtype=torch.float64)}


def subject(c):
    heeds = os.environ.get("REPROS_HOLDS") if "subject_heeds_env" in c.does else None
    yield from act(heeds or c.does["subject"])
    return output(c.does["subject"])


def reference(c):
    yield from act(c.does["reference"])
    return output(c.does["reference"])


def planted(c):
    yield from act(c.does["planted"])
    return output(c.does["planted"])


def proposed(c):
    yield from act(c.does["proposed"])
    return output(c.does["proposed"])


def remedy_does_nothing(c):
    return subject(c)


def remedy_fails(c):
    return subject(c.but(does={"subject": "raise_other"}))


def remedy_is_wrong(c):
    return subject(c.but(does={"subject": "wrong"}))


def remedy_of_the_future(c):
    return subject(c.but(does={"subject": "segfault"}))


def output(what):
    import torch

    return {
        "output": torch.full((4,), 3.0 if what == "wrong" else 1.0),
        **({"held_bytes": True} if what == "bool" else {}),
    }


def act(what):
    import torch

    yield "forward"
    kept = [torch.zeros(SIZE, dtype=torch.uint8) for _ in range(2 if what.startswith("over") else 1)]
    if what == "hidden":
        kept.append(bytearray(2 * SIZE))  # on the heap, but no tensor
    elif what in ACTIONS:
        ACTIONS[what]()
    yield "backward"
    del kept


def work():
    time.sleep(0.2)


def hang():
    time.sleep(3600)


def hang_hard():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    hang()


def segfault():
    os.kill(os.getpid(), signal.SIGSEGV)


def leave():
    os._exit(0)


def allocate():
    import torch

    torch.empty(1 << 40, dtype=torch.uint8).fill_(1)


def garbage():
    print('{"arm": "subject", "state": "done", "figures": {"held_bytes": 0}}', flush=True)
    os.write(1, b"\x00\xff{not json\n" * 100)
    os.write(2, b"\xde\xad\xbe\xef")
    Path("observation.json").write_text("{broken")


def print_100mb():
    for _ in range(100):
        os.write(1, b"x" * (1 << 20))


def leave_child():
    if os.fork() == 0:
        time.sleep(3600)


def leave_daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(3600)
        os._exit(0)


def leave_daemon_and_hang():
    leave_daemon()
    hang()


def symptom():
    raise KeyError("the reported one")


def symptom_below():
    raise RuntimeError("while loading:\n\n" + "a layer\n" * 60 + "  the reported one")


def raise_odd():
    raise ValueError("no file \udcff here")


class MuteError(Exception):
    def __str__(self):
        raise TypeError


def raise_mute():
    raise MuteError


def raise_other():
    sys.stdout.write("before it raised\n")
    raise ValueError("something else")


def import_package():
    with suppress(ImportError):  # as code does that goes another way without it
        import tokenizers  # noqa: F401


def ask_for_a_version():
    with suppress(metadata.PackageNotFoundError):
        metadata.version("huggingface-hub")


ACTIONS = {
    "import_package": import_package,
    "over_by_version": ask_for_a_version,
    "work": work,
    "hang": hang,
    "hang_hard": hang_hard,
    "segfault": segfault,
    "exit": leave,
    "allocate": allocate,
    "garbage": garbage,
    "print_100mb": print_100mb,
    "leave_child": leave_child,
    "leave_daemon": leave_daemon,
    "leave_daemon_and_hang": leave_daemon_and_hang,
    "symptom": symptom,
    "symptom_below": symptom_below,
    "raise_odd": raise_odd,
    "raise_mute": raise_mute,
    "raise_other": raise_other,
}
