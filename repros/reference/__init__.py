"""Hold the fixed implementation that every trial is compared with: plain torch.

It imports no package under test.  Imports point one way: ``chunks`` and ``codebook`` -> ``blockwise``, ``int8`` ->
``ops`` -> ``linear`` -> ``modules`` (with ``base``); ``checkpoint``, ``prefetch`` and ``converter`` -> ``loader``.
This file imports nothing, so a process that asks for one part does not pay for the rest.
"""

from __future__ import annotations
