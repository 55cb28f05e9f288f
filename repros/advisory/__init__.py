"""Advisories: what is known of each report as a file in OSV form, and what they say of somebody's versions.

What reads them imports the standard library, msgspec and packaging alone: an answer takes less than a second.
"""
