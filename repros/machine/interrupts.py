"""Ctrl-C and SIGTERM: a run ends the same way at whatever moment, and however often, they come.

The first signal raises KeyboardInterrupt; one that follows at once is the same wish. While a run closes, signals wait
until it has closed. Standard library alone: it stands before every import of ours.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

#: Within this time of a signal another one adds nothing; after it, the first was not heeded, and the next is raised.
SAME_S = 1.0
#: So long after one that was raised where nothing can be raised, another try.
AGAIN_S = 0.02
WORDS = "interrupted; finished trials are kept\nhint: the same command goes on with `--resume`"
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _State:
    first: int = 0  #: the signal that came first
    raised: float = float("-inf")
    held: int = 0
    waiting: bool = False


def _on_signal(number: int, frame: FrameType | None) -> None:
    _State.first = _State.first or number
    if _State.held:
        _State.waiting = True
    elif time.monotonic() - _State.raised > SAME_S:
        _State.raised = time.monotonic()
        raise KeyboardInterrupt


def raise_what_is_lost() -> None:
    """Raise again what was raised in a finalizer or a weak reference's callback: Python prints and drops it there.

    Each import runs such a callback.
    """
    before = sys.unraisablehook

    def hook(lost: sys.UnraisableHookArgs) -> None:
        if not (_State.first and issubclass(lost.exc_type, KeyboardInterrupt)):
            before(lost)
            return
        _State.raised = float("-inf")
        signal.signal(signal.SIGALRM, lambda number, frame: _on_signal(_State.first, frame))
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)

    sys.unraisablehook = hook


def exit_code(otherwise: int = 0) -> int:
    """Return 128 and the number of the signal that came first: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + _State.first if _State.first else otherwise


def on_lines(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without its entries on no line: an interrupt may come at an instruction that has none."""
    entries = []
    while trace is not None:
        entries += [trace] if trace.tb_lineno is not None and trace.tb_frame.f_lineno is not None else []
        trace = trace.tb_next
    found = None
    for one in reversed(entries):
        found = TracebackType(found, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return found


def heard() -> None:
    """Raise none any more: the program ends on account of one, by an exit code of ours."""
    _State.held += 1
    # Python notes a KeyboardInterrupt that leaves the text of an `exec`, which every dataclass is made by, and kills
    # itself by SIGINT at its end although it was caught; the next such text clears the note.
    exec("")  # noqa: S102


@contextmanager
def held() -> Iterator[None]:
    """Let signals wait until the block is done: what it does is done whole."""
    _State.held += 1
    try:
        yield
    finally:
        _State.held -= 1
    if _State.waiting and not _State.held:
        _State.waiting = False
        if _State.raised == float("-inf"):
            _State.raised = time.monotonic()
            raise KeyboardInterrupt


def take() -> dict[signal.Signals, object]:
    """Take the signals from here on, those not that somebody has the process ignore; return what was done with them."""
    _State.first, _State.raised, _State.held, _State.waiting = 0, float("-inf"), 0, False
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in (number for number, handler in before.items() if handler is not signal.SIG_IGN):
        signal.signal(number, _on_signal)
    raise_what_is_lost()
    return dict(before)


@contextmanager
def taken() -> Iterator[None]:
    """Take the signals while the block runs; after one, the process is to end, and others are ignored."""
    hook = sys.unraisablehook
    before = take()
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if _State.first else handler)  # type: ignore[arg-type]


def guard(main: Callable[[], int]) -> int:
    """Run a program to its exit code, as the last thing that the process does: a signal after it no longer counts."""
    take()
    try:
        return main()
    except KeyboardInterrupt:
        heard()
        print(WORDS, file=sys.stderr)
        return exit_code(130)
    finally:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
