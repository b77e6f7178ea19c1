"""What a network is trained on, whatever its family."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from torch import Tensor

#: Turns a count on this process (of objects, say) into the divisor of its loss sums: max(1, total over all processes) /
#: number of processes. Gradients averaged over processes then equal those of one batch.
Normalizer: TypeAlias = Callable[[Tensor], Tensor]


class Target(NamedTuple):
    """The true objects of one image; none is legal."""

    labels: Tensor  # (n,) int64
    boxes: Tensor  # (n, 4) float32 x1 y1 x2 y2, in pixels of the network's input
    masks: Tensor  # (n, H, W) uint8, 0 or 1, over the whole input
    size: tuple[int, int]  # (height, width) of the image inside the input; right of it and below is padding


def local_normalizer(count: Tensor) -> Tensor:
    """The `Normalizer` of a single process."""
    return count.clamp(min=1)
