"""Reproducers for memory and numerics bugs of the quantized-LLM stack, each tried as a controlled experiment."""

__version__ = "0.1.0"
