"""What is private by its form alone, one module a kind of form; `repros.redaction.redact` puts them together.

Each module has functions from a text to a text. What goes is handed to `Remove`, which counts it and says what stands
in its place. All are linear in the text: a repetition is bounded, or what it ran over is removed.
"""

from collections.abc import Callable

#: Takes a kind and what was found of it; returns what stands in its place.
Remove = Callable[[str, str], str]
