"""Box deltas and anchors (Faster R-CNN, arXiv 1506.01497, section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LARGEST_GROWTH = math.log(1000 / 16)  # log of a side's largest growth in one decoding

DeltaWeights = tuple[float, float, float, float]  # factors of the deltas of x, y, width, height
UNIT: DeltaWeights = (1.0, 1.0, 1.0, 1.0)


def encode_boxes(boxes: Tensor, anchors: Tensor, weights: DeltaWeights) -> Tensor:
    """Deltas (..., 4) from anchors to boxes, both (..., 4) ``x1 y1 x2 y2`` with sides above 0.

    Shift of the centre relative to the anchor's sides, and log growth of the sides; times weights.
    """
    centre, size = _centre_size(boxes)
    anchor_centre, anchor_size = _centre_size(anchors)
    deltas = torch.cat([(centre - anchor_centre) / anchor_size, torch.log(size / anchor_size)], dim=-1)
    return deltas * deltas.new_tensor(weights)


def decode_boxes(deltas: Tensor, anchors: Tensor, weights: DeltaWeights) -> Tensor:
    """The inverse of `encode_boxes`; log growth is at most `LARGEST_GROWTH`."""
    shift, growth = torch.split(deltas / deltas.new_tensor(weights), 2, dim=-1)
    centre, size = _centre_size(anchors)
    centre, half = centre + shift * size, 0.5 * size * torch.exp(growth.clamp(max=LARGEST_GROWTH))
    return torch.cat([centre - half, centre + half], dim=-1)


def _centre_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = torch.split(boxes, 2, dim=-1)
    size = high - low
    return low + 0.5 * size, size


def clip_boxes(boxes: Tensor, size: Tensor) -> Tensor:
    """Clip boxes (..., 4) to images of ``size`` (..., 2), height and width in pixels."""
    limit = torch.cat([size, size], dim=-1).flip(-1)  # width, height, width, height
    return boxes.clamp(min=0).minimum(limit)


def base_anchors(sizes: Sequence[int], ratios: Sequence[float]) -> Tensor:
    """Anchors centred at the origin, ordered by size, then ratio: (A, 4) float64.

    Args:
        sizes: square roots of the areas, in pixels.
        ratios: height to width.
    """
    half = [(0.5 * size / math.sqrt(r), 0.5 * size * math.sqrt(r)) for size in sizes for r in ratios]
    return torch.tensor([(-w, -h, w, h) for w, h in half], dtype=torch.float64)


def anchors_of(base: Tensor, cells: Tensor, stride: int) -> Tensor:
    """Anchors at the upper left corner of each cell of a map: (h * w * A, 4), row by row.

    Args:
        base: (A, 4) around the origin.
        cells: (h, w), any values; a tensor rather than a size, so that the exported graph does not compute the size.
    """
    y, x = (stride * (torch.ones_like(cells, dtype=base.dtype).cumsum(dim) - 1) for dim in (0, 1))
    corner = torch.stack([x, y, x, y], dim=-1).flatten(0, 1)
    return (corner[:, None] + base).flatten(0, 1)
