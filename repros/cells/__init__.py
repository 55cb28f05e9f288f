"""Cells of the matrix and their environments."""
