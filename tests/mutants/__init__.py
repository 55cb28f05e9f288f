"""Bugs put into the reference on purpose, one at a time: the tests must notice each. `nox -s mutants` runs them."""
