"""Releases that came after the newest in committed evidence: which there are, and what changes with each."""
