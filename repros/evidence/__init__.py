"""Committed evidence, and the pages that are made of it."""
