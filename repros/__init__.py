"""Reproducers for memory and numerics bugs of the quantized-LLM stack, each tried as a controlled experiment."""

from pathlib import Path

__version__ = "0.1.0"

_HERE = Path(__file__).resolve().parent
#: The checkout: the folder that holds package, matrix, fixtures and advisories. A wheel has it whole, in `repros/root`.
ROOT = _HERE / "root" if (_HERE / "root").is_dir() else _HERE.parent
__path__[:] = [str(ROOT / "repros")]

#: Whether that is a wheel's, which nothing is written into.
INSTALLED = (ROOT.parent / "__init__.py").is_file()
#: Where runs, pages and bundles go if nobody says: of an installed package, into the current folder.
REPORTS = Path("reports").absolute() if INSTALLED else ROOT / "reports"
