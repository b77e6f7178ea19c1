"""Overlap of boxes and masks: IoU, generalised IoU, dice; and point sampling of masks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

EPS = 1e-9  # in units of area; avoids division by zero for empty boxes


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU in [0, 1] of boxes ``x1 y1 x2 y2``: (..., 4) and (..., 4), broadcast, to (...)."""
    shared, union = _shared_and_union(a, b)
    return shared / (union + EPS)


def box_giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU in (-1, 1] (arXiv 1902.09630): IoU minus the empty share of the enclosing box."""
    shared, union = _shared_and_union(a, b)
    around = (a[..., 2:].maximum(b[..., 2:]) - a[..., :2].minimum(b[..., :2])).prod(dim=-1)
    return shared / (union + EPS) - (around - union) / (around + EPS)


def _shared_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    shared = (a[..., 2:].minimum(b[..., 2:]) - a[..., :2].maximum(b[..., :2])).clamp(min=0).prod(dim=-1)
    area_a, area_b = ((box[..., 2:] - box[..., :2]).prod(dim=-1) for box in (a, b))
    return shared, area_a + area_b - shared


def dice_loss(shared: Tensor, total: Tensor) -> Tensor:
    """1 - dice in [0, 1) (V-Net, arXiv 1606.04797), from the sum of products and the sum of both masks.

    One is added to numerator and denominator, so two empty masks agree.
    """
    return 1 - (2 * shared + 1) / (total + 1)


def mask_iou(logits: Tensor, true: Tensor) -> Tensor:
    """Pairwise IoU in (0, 1] of mask logits (K, h, w) and bool masks (K, h, w), to (K,); 1 where both are empty."""
    found = logits > 0
    shared, union = (found & true).flatten(1).sum(dim=1), (found | true).flatten(1).sum(dim=1)
    return (shared + 0.01) / (union + 0.01)


def point_sample(maps: Tensor, points: Tensor) -> Tensor:
    """Sample maps (B, C, h, w) at points (B, P, 2), x and y in [0, 1], to (B, C, P); bilinear, zero outside."""
    grid = (2 * points - 1).to(maps.dtype)[:, None]
    return F.grid_sample(maps, grid, align_corners=False)[:, :, 0]
