"""Hunt for departures: lives of a quantized layer, led by the installed package and by the reference side by side.

``life`` (what a life is) -> ``upstream``, ``fixed`` (its steps on either side) -> ``arms`` (as arms of a case) ->
``probe`` (both sides compared, in a cell) ; ``known`` -> ``search`` (Hypothesis, in the parent) -> ``findings`` (kept
as JSON, and read again) -> ``write`` (made from it: a page, cases, scripts).
"""

from __future__ import annotations
