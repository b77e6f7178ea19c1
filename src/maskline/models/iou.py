"""How well boxes and masks agree: IoU, generalised IoU, dice, and masks seen at a few points."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

EPS = 1e-9  # of the input's area; keeps quotients of empty boxes finite


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU in [0, 1] of boxes ``x1 y1 x2 y2``; (..., 4) twice, broadcast, to (...)."""
    shared, union = _shared_and_union(a, b)
    return shared / (union + EPS)


def box_giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU in (-1, 1] (arXiv 1902.09630): less than IoU by the empty share of the box around both."""
    shared, union = _shared_and_union(a, b)
    around = (a[..., 2:].maximum(b[..., 2:]) - a[..., :2].minimum(b[..., :2])).prod(dim=-1)
    return shared / (union + EPS) - (around - union) / (around + EPS)


def _shared_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    shared = (a[..., 2:].minimum(b[..., 2:]) - a[..., :2].maximum(b[..., :2])).clamp(min=0).prod(dim=-1)
    area_a, area_b = ((box[..., 2:] - box[..., :2]).prod(dim=-1) for box in (a, b))
    return shared, area_a + area_b - shared


def dice_loss(shared: Tensor, total: Tensor) -> Tensor:
    """1 - dice in [0, 1) (V-Net, arXiv 1606.04797), of the sum of products and the sum of both masks.

    One is added above and below the line: two empty masks agree.
    """
    return 1 - (2 * shared + 1) / (total + 1)


def mask_iou(logits: Tensor, true: Tensor) -> Tensor:
    """IoU in (0, 1] of masks pair by pair, logits (K, h, w) and bool (K, h, w), to (K,); 1 where both are empty."""
    found = logits > 0
    shared, union = (found & true).flatten(1).sum(dim=1), (found | true).flatten(1).sum(dim=1)
    return (shared + 0.01) / (union + 0.01)


def point_sample(maps: Tensor, points: Tensor) -> Tensor:
    """Values (B, C, P) of maps (B, C, h, w) at points (B, P, 2), x and y in [0, 1]; bilinear, zero outside."""
    grid = (2 * points - 1).to(maps.dtype)[:, None]
    return F.grid_sample(maps, grid, align_corners=False)[:, :, 0]
