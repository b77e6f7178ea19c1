"""What every network returns at inference, whatever its family."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Detections(NamedTuple):
    """The contract between a network and the runtime; B images, K rows each, best first.

    Frames are the network's input, padding included, in pixels.
    """

    boxes: Tensor  # (B, K, 4) x1 y1 x2 y2
    scores: Tensor  # (B, K) in [0, 1]; 0 where there is no object
    labels: Tensor  # (B, K) int64
    masks: Tensor  # (B, K, h, w), foreground where positive (logits, or probabilities - 0.5); frames: `runtime.graph`
