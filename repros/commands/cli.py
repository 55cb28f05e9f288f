"""``python -m repros``: the suite in pieces, a command a file.

Exit codes: 0 as expected, 1 a regression or a stale record, 2 usage or environment, 3 a fault of the harness,
130 interrupted (143 by SIGTERM).
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from repros import __version__
from repros.commands.arguments import (
    EXIT_AS_EXPECTED,
    EXIT_FAULT,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    Parser,
    check_words,
    with_rest,
)
from repros.errors import UserError
from repros.machine import interrupts

#: Module of `repros.commands` -> the commands that it adds, in the order of ``--help``.
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "audit": ("audit",),
    "run": ("run",),
    "ci": ("watch", "shard", "merge"),
    "tries": ("try",),
    "show": ("list", "show"),
    "cells": ("cells", "doctor", "env", "wheelhouse", "lock"),
    "report": ("report",),
    "pages": ("proxies", "fits", "stories", "readme", "advisories", "site"),
    "bundle": ("bundle",),
    "hunt": ("hunt", "findings", "peer"),
    "bisect": ("bisect", "probe"),
    "new": ("new",),
}
MODULE = "python -m repros"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] != ["probe"]:
        return _main(words)
    from repros.commands import bisect

    return bisect.as_probe(_main(words))


def _main(argv: Sequence[str]) -> int:
    from repros.report import terminal

    console, top = terminal.console(), parser(argv[:1])
    try:
        check_words(argv)
        words, rest = with_rest(argv)
        arguments = top.parse_args(words)
        arguments.rest = rest
        command: Callable[[argparse.Namespace, Console], int] = arguments.command
        return command(arguments, console)
    except UserError as error:
        print(str(error).replace(MODULE, called()), file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        interrupts.heard()
        print(interrupts.WORDS, file=sys.stderr)
        return interrupts.exit_code(EXIT_INTERRUPTED)
    except BrokenPipeError:
        return EXIT_AS_EXPECTED
    except OSError as error:
        if error.filename is None:
            return _fault(error)
        says = f"{os.fsdecode(error.filename)}: {error.strerror}"
        print(UserError(says, "check that path, its permissions, and the free space"), file=sys.stderr)
        return EXIT_USAGE
    except Exception as error:  # noqa: BLE001 - a fault of ours is told apart from a finding
        return _fault(error)


def _fault(error: Exception) -> int:
    import traceback

    traceback.print_exception(error)
    print(f"repros: a fault of the harness: {type(error).__name__}: {error}\nhint: report it with the lines above",
          file=sys.stderr)  # fmt: skip
    return EXIT_FAULT


def called() -> str:
    """Return how this program was called: ``repros`` where it is installed, else as a module."""
    return "repros" if Path(sys.argv[0]).name == "repros" else MODULE


def parser(first: Sequence[str] = ()) -> Parser:
    """Return the command line; where the first word is a command, of its module alone, which is quick."""
    top = Parser(prog=called(), description=__doc__.partition("\n")[0] if __doc__ else None)
    top.add_argument("--version", action="version", version=f"repros {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace, Console], int], text: str) -> Parser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        return sub

    named = [module for module, adds in COMMANDS.items() if {*first} & {*adds}]
    for module in named or COMMANDS:
        importlib.import_module(f"repros.commands.{module}").register(add)
    return top
