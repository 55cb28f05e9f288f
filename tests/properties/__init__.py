"""Hypothesis properties of the reference: numbers, gradients, memory, loader. `nox -s prove` runs them in depth."""
