"""``python -m repros``: the suite in pieces, a command a file.

Exit codes: 0 as expected, 1 a regression or a stale record, 2 usage or environment, 3 a fault of the harness,
130 interrupted (143 by SIGTERM).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from rich.console import Console

from repros import __version__
from repros.commands import advisories, bisect, bundle, cells, hunt, new, pages, report, run, show, tries
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
from repros.report import terminal

COMMANDS = (run, tries, show, cells, report, pages, advisories, bundle, hunt, bisect, new)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] != ["probe"]:
        return _main(words)
    return bisect.as_probe(_main(words))


def _main(argv: Sequence[str]) -> int:
    console = terminal.console()
    try:
        check_words(argv)
        words, rest = with_rest(argv)
        arguments = parser().parse_args(words)
        arguments.rest = rest
        command: Callable[[argparse.Namespace, Console], int] = arguments.command
        return command(arguments, console)
    except UserError as error:
        print(error, file=sys.stderr)
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


def parser() -> Parser:
    """Return the command line."""
    top = Parser(prog="python -m repros", description=__doc__.partition("\n")[0] if __doc__ else None)
    top.add_argument("--version", action="version", version=f"repros {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace, Console], int], text: str) -> Parser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        return sub

    for command in COMMANDS:
        command.register(add)
    return top
