"""``python -m repros``."""

import sys

from repros.machine import interrupts


def main() -> int:
    """Run the command line, interruptible from its first import on."""
    return interrupts.guard(_main)


def _main() -> int:
    try:
        from repros.commands.cli import main as command_line
    except ModuleNotFoundError as missing:
        if missing.name not in ("yaml", "packaging", "rich", "orjson", "jinja2"):
            raise
        print(f"repros: the package {missing.name} is missing\nhint: python3 -m pip install -e .", file=sys.stderr)
        return 2
    return command_line()


if __name__ == "__main__":
    sys.exit(main())
