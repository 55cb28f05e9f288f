"""Reproducers for memory and numerics bugs of the quantized-LLM stack, each tried as a controlled experiment."""

from pathlib import Path

__version__ = "0.1.0"
#: The checkout: the folder that holds the package, matrix, fixtures and reports.
ROOT = Path(__file__).resolve().parents[1]
