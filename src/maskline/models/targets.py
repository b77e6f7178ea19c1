"""What a network is trained on, whatever its family."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from torch import Tensor

#: From what a process has of a total (objects, say) to what it divides its sums by: max(1, the total over all
#: processes) / processes. Gradients that are then averaged over processes are those of one batch.
Divisor: TypeAlias = Callable[[Tensor], Tensor]


class Target(NamedTuple):
    """The true objects of one image; none is legal."""

    labels: Tensor  # (n,) int64
    boxes: Tensor  # (n, 4) float32 x1 y1 x2 y2, in pixels of the network's input
    masks: Tensor  # (n, H, W) uint8, 0 or 1, over the whole input
    size: tuple[int, int]  # (height, width) of the image inside the input; right of it and below is padding


def alone(count: Tensor) -> Tensor:
    """The `Divisor` where there is one process."""
    return count.clamp(min=1)
