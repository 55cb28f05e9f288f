"""``python -m repros``."""

import sys

try:
    from repros.cli import main
except ModuleNotFoundError as missing:
    if missing.name not in ("yaml", "packaging", "rich", "orjson", "jinja2"):
        raise
    print(f"repros: the package {missing.name} is missing\nhint: python3 -m pip install -e .", file=sys.stderr)
    sys.exit(2)

sys.exit(main())
