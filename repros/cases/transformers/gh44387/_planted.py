"""The planted bug of this report's cases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor


def read_everything_first(loader):
    """Let threads read every source before the first is quantized."""
    with ThreadPoolExecutor(loader.threads) as pool:
        sources = dict(zip(loader.entries, pool.map(loader.read, loader.entries), strict=True))
    loader.read = sources.pop  # what is left to read is in memory
    return loader.load()
