"""What a network is trained on, whatever its family."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from torch import Tensor

#: Of a number that each process has, the mean over all processes.
Average: TypeAlias = Callable[[Tensor], Tensor]


class Target(NamedTuple):
    """The true objects of one image; none is legal."""

    labels: Tensor  # (n,) int64
    boxes: Tensor  # (n, 4) float32 x1 y1 x2 y2, in pixels of the network's input
    masks: Tensor  # (n, H, W) uint8, 0 or 1, over the whole input


def alone(number: Tensor) -> Tensor:
    """The `Average` where there is one process."""
    return number
