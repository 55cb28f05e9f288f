"""Show how far a load is, with whatever draws bars where this runs: tqdm, else rich, else nothing.

Neither is a dependency of the reference: a cell has tqdm by way of transformers, the project's own tools have rich.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def bar(title: str, total_bytes: int, wanted: bool = True) -> Iterator[Callable[[int], Any]]:
    """Yield what is told of each number of bytes done; nothing is drawn unless ``wanted``."""
    if not wanted:
        yield lambda nbytes: None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        pass
    else:
        with tqdm(total=total_bytes, desc=title, unit="B", unit_scale=True, unit_divisor=1024) as drawn:
            yield drawn.update
        return
    try:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        yield lambda nbytes: None
        return
    with Progress(TextColumn(title), BarColumn(), DownloadColumn(True), TimeRemainingColumn()) as progress:
        task = progress.add_task(title, total=total_bytes)
        yield lambda nbytes: progress.advance(task, nbytes)
