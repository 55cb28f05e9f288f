"""What stands on a command line: a parser that says faults in two lines, and the types of what it reads."""

from __future__ import annotations

import argparse
import math
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from repros import INSTALLED, ROOT
from repros.cells.matrix import Cell, chosen_cells, load_matrix
from repros.errors import UserError, nearest, shortened
from repros.files import FORCED

MATRIX = ROOT / "matrix.yaml"
#: Exit codes of a command.
EXIT_AS_EXPECTED, EXIT_USAGE, EXIT_FAULT, EXIT_INTERRUPTED = 0, 2, 3, 130
#: Characters of one word: Linux takes no longer path.
MOST_WORD = 4096
#: Commands that run a user's script.
SCRIPTED = ("try", "bisect", "probe")
#: Arms, revisions or environments at a time.
MOST_AT_ONCE = 1024
#: A card's size in GB.
MOST_GB = 4096


#: How argparse refuses a word that is none of a list.
_CHOICE = re.compile(r"argument (.+?): invalid choice: '(.*)' \(choose from (.+)\)")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are two lines, as all others are."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError: what is wrong with which argument; the nearest names, or where the arguments are told."""
        if chosen := _CHOICE.fullmatch(message):
            what, wrong, choices = chosen.groups()
            known = [choice.strip("'") for choice in choices.split(", ")]
            raise UserError(f"{what.lower()}: there is no `{shortened(wrong)}`", nearest(wrong, known))
        raise UserError(shortened(message.removeprefix("argument "), 500), f"{self.prog} --help")


#: Adds a command to the command line: its name, what it does, its help.
Add = Callable[[str, Callable[[argparse.Namespace, Console], int], str], Parser]


def check_words(words: Iterable[str]) -> None:
    """Refuse words that no file, case or cell can be called, and that no terminal shows as they are."""
    rest = False
    for word in words:
        if len(word) > MOST_WORD:
            raise UserError(f"an argument of {len(word):,} characters: `{shortened(word)}`", f"at most {MOST_WORD:,}")
        rest = rest or word == "--"
        if not rest and re.fullmatch(r"--?[\w-]+=--", word):  # argparse takes it for an option without a value
            raise UserError(f"`{word}` gives the option no value", "write its value after the `=`")
        wrong = next((c for c in word if unicodedata.category(c) in ("Cc", "Cs")), None)
        if wrong is not None:
            what = f"the character U+{ord(wrong):04X} in the argument `{shortened(word)}`"
            raise UserError(what, "write it without; rename a file that is called so")


def with_rest(words: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Return a command's own words, and what a command that runs a script hands on to it: what follows ``--``."""
    if words[:1] and words[0] in SCRIPTED and "--" in words:
        at = list(words).index("--")
        return words[:at], words[at + 1 :]
    return words, ()


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return the type of whole numbers in a range."""

    def read(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,20}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"`{shortened(text)}` is not a whole number from {least:,} to {most:,}")
        return int(text)

    return read


def number(over: float, most: float) -> Callable[[str], float]:
    """Return the type of numbers above one bound and up to another."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not over < value <= most:
            raise argparse.ArgumentTypeError(f"`{shortened(text)}` is not a number above {over:g}, up to {most:,g}")
        return value

    return read


def python_version(text: str) -> str:
    """Read a Python such as ``3.12``."""
    if not re.fullmatch(r"3\.[0-9]{1,2}", text):
        raise argparse.ArgumentTypeError(f"`{shortened(text)}` is not a Python, such as `3.12`")
    return text


def word(text: str) -> str:
    """Read a name, which is not nothing."""
    if not text.strip():
        raise argparse.ArgumentTypeError("nothing is written there")
    return text


def a_run(text: str) -> Path:
    """Read the path of a run: its folder or its file; a pipe or a device may have no end."""
    path, mode = _looked_at(text)
    if mode is not None and not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise argparse.ArgumentTypeError(f"`{path}` is neither a folder nor a file")
    return path


def a_folder(text: str) -> Path:
    """Read the path of a folder, which need not be there."""
    path, mode = _looked_at(text)
    if mode is not None and not stat.S_ISDIR(mode):
        raise argparse.ArgumentTypeError(f"`{path}` is not a folder")
    above = next((one for one in path.absolute().parents if one.exists()), None)
    if mode is None and above is not None and not above.is_dir():
        raise argparse.ArgumentTypeError(f"`{path}` cannot be a folder: `{above}` is a file")
    return path


def a_file(text: str) -> Path:
    """Read the path of a file, which need not be there; ``-`` is the terminal."""
    path, mode = _looked_at(text)
    if text != "-" and mode is not None and not stat.S_ISREG(mode):
        raise argparse.ArgumentTypeError(f"`{path}` is not a file")
    return path


def _looked_at(text: str) -> tuple[Path, int | None]:
    """Return a path, with its home folder written out, and what it is; None where nothing is there."""
    try:
        path = Path(word(text)).expanduser()
        return path, path.stat().st_mode
    except FileNotFoundError:
        return path, None
    except NotADirectoryError:
        return path, None
    except (OSError, RuntimeError, ValueError) as error:  # too long, unreadable, a loop, no such user, a NUL
        says = getattr(error, "strerror", None) or str(error)
        raise argparse.ArgumentTypeError(f"`{shortened(text)}`: {says}") from None


def need_checkout(command: str) -> None:
    """Refuse a command that reads the evidence or writes into the project where that is a wheel's."""
    if INSTALLED:
        raise UserError(f"{command}: it needs a checkout, and this package is installed from a wheel",
                        "clone the project and run it there")  # fmt: skip


def add_cell_options(sub: Parser) -> None:
    """Add the options that choose cells."""
    sub.add_argument("--cell", action="append", default=[], help="a cell of matrix.yaml (may be given again)")
    sub.add_argument("--tier", help="all cells of a tier")
    sub.add_argument("--with", action="append", default=[], dest="overrides", metavar="PACKAGE=SPEC",
                     help="a version, wheel or checkout in place of a cell's pin")  # fmt: skip


def add_executor(sub: Parser) -> None:
    """Add the options that choose where trials and probes are made."""
    sub.add_argument("--executor", choices=("here", "dask"), default="here",
                     help="dask: the workers of a dask.distributed cluster (default: this process)")  # fmt: skip
    sub.add_argument("--scheduler", metavar="ADDRESS", help="its scheduler (default: a cluster on this machine)")


def check_executor(arguments: argparse.Namespace, without: Iterable[str]) -> None:
    """Refuse a scheduler that nothing asks, and options that workers cannot heed."""
    if arguments.scheduler is not None and arguments.executor != "dask":
        raise UserError(f"--scheduler {shortened(arguments.scheduler)}: trials are made here", "add `--executor dask`")
    if arguments.executor == "dask":
        for name in without:
            if getattr(arguments, name):
                raise UserError(f"--executor dask: not with `--{name}`", "leave one of the two out")


def cells_of(arguments: argparse.Namespace) -> tuple[Cell, ...]:
    """Return the cells that the options name."""
    return chosen_cells(load_matrix(MATRIX), arguments.tier, arguments.cell, arguments.overrides)


def add_force(*subs: Parser) -> None:
    """Add ``--force`` to commands that write."""
    for sub in subs:
        sub.add_argument("--force", action="store_true", help=FORCED)
