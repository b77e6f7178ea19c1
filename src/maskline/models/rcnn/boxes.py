"""Boxes relative to other boxes, and anchors (Faster R-CNN, arXiv 1506.01497, section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LARGEST_GROWTH = math.log(1000 / 16)  # of a side in one step, as a logarithm

DeltaWeights = tuple[float, float, float, float]  # what deltas of x, y, width, height are multiplied by
UNIT: DeltaWeights = (1.0, 1.0, 1.0, 1.0)


def encode_boxes(boxes: Tensor, anchors: Tensor, weights: DeltaWeights) -> Tensor:
    """Deltas (..., 4) that lead from anchors to boxes, both (..., 4) ``x1 y1 x2 y2``, of sides above 0.

    Shifts of the centre in sides of the anchor, and logarithms of the growth of sides; times weights.
    """
    centre, size = _centre_size(boxes)
    anchor_centre, anchor_size = _centre_size(anchors)
    deltas = torch.cat([(centre - anchor_centre) / anchor_size, torch.log(size / anchor_size)], dim=-1)
    return deltas * deltas.new_tensor(weights)


def decode_boxes(deltas: Tensor, anchors: Tensor, weights: DeltaWeights) -> Tensor:
    """The inverse of `encode_boxes`; sides grow by `LARGEST_GROWTH` at most."""
    shift, growth = torch.split(deltas / deltas.new_tensor(weights), 2, dim=-1)
    centre, size = _centre_size(anchors)
    centre, half = centre + shift * size, 0.5 * size * torch.exp(growth.clamp(max=LARGEST_GROWTH))
    return torch.cat([centre - half, centre + half], dim=-1)


def _centre_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = torch.split(boxes, 2, dim=-1)
    size = high - low
    return low + 0.5 * size, size


def clip_boxes(boxes: Tensor, size: Tensor) -> Tensor:
    """Boxes (..., 4) cut at the borders of images; size: (..., 2) height and width, in pixels."""
    limit = torch.cat([size, size], dim=-1).flip(-1)  # width, height, width, height
    return boxes.clamp(min=0).minimum(limit)


def base_anchors(sizes: Sequence[int], ratios: Sequence[float]) -> Tensor:
    """Boxes around the origin, size by size, ratio by ratio: (A, 4) float64.

    Args:
        sizes: sides of the squares of the same area, in pixels.
        ratios: height to width.
    """
    half = [(0.5 * size / math.sqrt(r), 0.5 * size * math.sqrt(r)) for size in sizes for r in ratios]
    return torch.tensor([(-w, -h, w, h) for w, h in half], dtype=torch.float64)


def anchors_of(base: Tensor, cells: Tensor, stride: int) -> Tensor:
    """Anchors around the upper left corner of each cell of a map: (h * w * A, 4), row by row.

    Args:
        base: (A, 4) around the origin.
        cells: (h, w), any values: the map itself tells its size, so that an exported graph need not compute it.
    """
    y, x = (stride * (torch.ones_like(cells, dtype=base.dtype).cumsum(dim) - 1) for dim in (0, 1))
    corner = torch.stack([x, y, x, y], dim=-1).flatten(0, 1)
    return (corner[:, None] + base).flatten(0, 1)
