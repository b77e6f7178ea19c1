"""Shared code of the benchmarks: cases, alternating timings, and the printed table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

SIZES = ((480, 640), (1080, 1920), (3000, 4000))  # height, width of an image
KEPT = (1, 10, 100)  # detections above the threshold
ROWS = 100  # detections


def paired(ways: list[Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Median milliseconds of each.

    The functions alternate; each turn has four runs, of which the first is discarded, because it pays for the memory
    state left by the other function.
    """
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(max(rounds // 3, 1)):
        for way, own in zip(ways, times, strict=True):
            for i in range(4):
                start = clock()
                way()
                if i:
                    own.append(1000 * (clock() - start))
    return [statistics.median(own) for own in times]


def name(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    head = list(rows[0])
    lines = [head, ["---:"] * len(head), *[[str(row[key]) for key in head] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
