"""The driver's figure of one process: summed over cards, and not to be had where this process is not told apart."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import pytest

from repros.meters import nvml

MINE, OTHER = os.getpid(), os.getpid() + 1


class Library:
    """Answers as NVML does: rows of (process number, bytes) on each card; a card that is None does not answer."""

    def __init__(self, *cards: list[tuple[int, int]] | None) -> None:
        self._cards = cards

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802 - NVML's name
        count._obj.value = len(self._cards)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, card: Any) -> int:  # noqa: N802
        card._obj.value = index + 1
        return 15 if self._cards[index] is None else 0

    def nvmlDeviceGetComputeRunningProcesses_v3(self, card: Any, room: Any, processes: Any) -> int:  # noqa: N802
        rows = self._cards[card.value - 1] or []
        assert len(rows) <= room._obj.value
        room._obj.value = len(rows)
        for slot, (pid, used) in zip(processes, rows, strict=False):
            slot.pid, slot.used = pid, used
        return 0


@pytest.mark.parametrize(
    ("cards", "own"),
    [
        ([[(OTHER, 5 << 30), (MINE, 808 << 20)]], 808 << 20),
        ([[(MINE, 100)], [(OTHER, 7), (MINE, 20)]], 120),
        ([None, [(MINE, 20)]], None),
        ([[(OTHER, 5 << 30)]], None),
        ([[(MINE, nvml.NOT_AVAILABLE)]], None),
        ([], None),
    ],
)
def test_own_bytes_are_those_of_this_process_on_all_cards(
    cards: list[list[tuple[int, int]] | None], own: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "_library", lambda: Library(*cards))
    assert nvml.own_bytes() == own


def test_a_row_is_laid_out_as_in_the_header_of_nvml() -> None:
    """unsigned int, unsigned long long, unsigned int, unsigned int."""
    row = nvml._Process
    assert (row.pid.offset, row.used.offset, row.gpu_instance.offset, row.compute_instance.offset) == (0, 8, 16, 20)
    assert ctypes.sizeof(row) == 24


def test_a_machine_without_nvml_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "_library", lambda: None)
    assert nvml.own_bytes() is None
