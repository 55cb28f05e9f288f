"""What a script's run counts as, by each rule: tables, nothing is run."""

from __future__ import annotations

import re

import pytest

from repros.errors import UserError
from repros.run.vote import EXIT, Seen, cast, parse, settled, signature

FINE = Seen(0, "exit 0", figures={"peak_live_bytes": 3 << 20, "seconds": 2.0}, output="bnb 1\nerr 0.0095\n")
WRONG = Seen(0, "exit 0", figures={"peak_live_bytes": 8 << 20, "seconds": 9.0}, output="bnb 2\nerr 1.3878\n")
ASSERTS = Seen(1, "exit 1", exception=("AssertionError", "Exception"), text="error 0.3 over 0.1")
KEY = Seen(1, "exit 1", exception=("KeyError", "LookupError", "Exception"), text="'a.b.0.weight'\nmore")
IMPORT = Seen(1, "exit 1", exception=("ModuleNotFoundError", "ImportError", "Exception"), text="No module named 'x'")
HANGS = Seen(None, "no end after 60 s", late=True, output="err 1.4")


@pytest.mark.parametrize(
    ("rule", "seen", "vote"),
    [
        ("exit", FINE, "good"),
        ("exit", Seen(125, "exit 125"), "skip"),
        ("exit", Seen(3, "exit 3"), "bad: exit 3"),
        ("exit", Seen(-11, "killed by SIGSEGV"), "bad: killed by SIGSEGV"),
        ("exit", ASSERTS, "bad: AssertionError"),
        ("exit", KEY, "bad: KeyError: 'a.b.N.weight'"),
        ("exit", IMPORT, "skip"),
        ("exit", HANGS, "skip"),
        ("exit", Seen(None, "no wheel for this platform and Python"), "skip"),
        ("timeout", HANGS, "bad: timeout"),
        ("timeout", FINE, "good"),
        ("timeout", KEY, "skip"),
        ("raises KeyError", KEY, "bad: raises KeyError"),
        ("raises LookupError", KEY, "bad: raises LookupError"),
        ("raises builtins.KeyError: weight", KEY, "bad: raises builtins.KeyError: weight"),
        ("raises KeyError: bias", KEY, "skip"),
        ("raises KeyError", ASSERTS, "skip"),
        ("raises KeyError", FINE, "good"),
        ("raises ImportError", IMPORT, "bad: raises ImportError"),
        ("output: err [1-9]", WRONG, "bad: output: err [1-9]"),
        ("output: err [1-9]", FINE, "good"),
        ("output: ^err [1-9]", HANGS, "bad: output: ^err [1-9]"),
        ("output: err [1-9]", KEY, "skip"),
        ("peak_live_bytes > 4 MiB", WRONG, "bad: peak_live_bytes > 4 MiB"),
        ("peak_live_bytes > 4 MiB", FINE, "good"),
        ("peak_live_bytes > 8 MiB", WRONG, "good"),
        ("peak_live_bytes >= 8MiB", WRONG, "bad: peak_live_bytes >= 8MiB"),
        ("seconds > 8000 ms", WRONG, "bad: seconds > 8000 ms"),
        ("saved_bytes > 1 B", WRONG, "skip"),
        ("peak_live_bytes > 4 MiB", KEY, "skip"),
    ],
)
def test_a_run_is_voted_on_by_the_rule(rule: str, seen: Seen, vote: str) -> None:
    assert cast(parse(rule), seen)[0] == vote


@pytest.mark.parametrize(("factor", "vote"), [("1.5 * ", "bad"), ("2.7 * ", "good"), ("", "bad")])
def test_a_figure_is_held_against_a_good_cell(factor: str, vote: str) -> None:
    rule = parse(f"peak_live_bytes > {factor}tf4.57.5-bnb0.49.2")
    assert rule.cell == "tf4.57.5-bnb0.49.2" and rule.metered
    assert cast(rule, WRONG, FINE)[0].partition(":")[0] == vote
    assert cast(rule, FINE, FINE)[0] == "good"
    assert cast(rule, WRONG, KEY) == ("skip", "no peak_live_bytes in tf4.57.5-bnb0.49.2")


def test_a_release_is_a_good_cell_too() -> None:
    assert parse("seconds > 2 * 0.46.0").cell == "0.46.0"


def test_a_figure_and_its_limit_never_print_alike() -> None:
    over = Seen(0, "exit 0", figures={"peak_live_bytes": (4 << 20) + 1})
    value, limit = re.findall(r"[0-9.]+ MiB", cast(parse("peak_live_bytes > 4 MiB"), over)[1])
    assert value != limit


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("wrong", "`wrong` is no rule", "output: regex"),
        ("output:", "no regular expression", "output: err"),
        ("output: (", "is not a regular expression", "escape"),
        ("raises: x", "is no rule", "raises NAME"),
        ("peak_live_byte > 1 MiB", "no figure `peak_live_byte`", "one of: peak_live_bytes"),
        ("saved_bytes.float32 > 1 MiB", "no figure `saved_bytes.float32`", "saved_bytes"),
        ("peak_live_bytes > 1.5", "is in bytes: `1.5`", "MiB"),
        ("peak_live_bytes > 3 s", "is in bytes: `3 s`", "MiB"),
        ("seconds > 3 MiB", "is in seconds", "ms"),
        ("seconds > 1.2.3 * 0.46.0", "`1.2.3` is not a number", "1.5"),
    ],
)
def test_a_rule_that_is_none_is_two_lines(text: str, says: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text)
    assert says in caught.value.what and hint in caught.value.hint


def test_what_fails_otherwise_than_the_first_bad_one_is_a_skip() -> None:
    votes = [cast(EXIT, seen) for seen in (IMPORT, FINE, KEY, ASSERTS, KEY)]
    assert [vote for vote, _ in settled(votes)] == ["skip", "good", "bad", "skip", "bad"]
    assert settled(votes)[3][1] == "another failure: AssertionError: error 0.3 over 0.1"


def test_numbers_do_not_tell_failures_apart() -> None:
    assert signature(KEY) == signature(Seen(1, exception=KEY.exception, text="'a.b.17.weight'"))
    assert signature(ASSERTS) == signature(Seen(1, exception=ASSERTS.exception, text="other words"))
