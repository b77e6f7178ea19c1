"""Decoding of SOLOv2's predictions: points NMS, matrix NMS, mask crop, boxes.

Source: SOLOv2 (arXiv 2003.10152, section 3.4). All shapes are fixed, for export.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STRIDE = 4  # pixels of the padded input per mask cell


def points_nms(scores: Tensor) -> Tensor:
    """Points NMS: zero scores (B, C, g, g) of cells with a better neighbour above, left or above left."""
    best = F.max_pool2d(scores, 2, stride=1, padding=1)[:, :, :-1, :-1]
    return torch.where(best == scores, scores, 0)


def matrix_nms(scores: Tensor, labels: Tensor, iou: Tensor, sigma: float) -> Tensor:
    """Matrix NMS, gaussian: lower scores by the overlap with better masks of the same class.

    Args:
        scores, labels: (B, M), best first.
        iou: (B, M, M) IoU of masks.
        sigma: of the gaussian; higher decays more.
    """
    alike = labels[:, :, None] == labels[:, None]
    squared = torch.where(alike, iou, 0).triu(1).square()  # (B, better, worse)
    covered = squared.amax(dim=1)  # largest overlap with a better mask; it weakens the decay that the mask causes
    return scores * torch.exp(-sigma * (squared - covered[:, :, None]).amax(dim=1))


def mask_ious(shared: Tensor, area: Tensor) -> Tensor:
    """IoU (B, N, N) from intersections (B, N, N) and areas (B, N), in cells."""
    return shared / (area[:, :, None] + area[:, None] - shared).clamp(min=1)


def covering(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Crop masks (B, K, h, w) of a padded input to the input of ``size`` (height, width).

    The result has ceil(height / STRIDE) x ceil(width / STRIDE) cells: those of ``masks`` along a side that is a
    multiple of STRIDE; else slightly smaller ones, interpolated.
    """
    for dim, pixels in zip((-2, -1), size, strict=True):
        cells = (pixels + STRIDE - 1) // STRIDE
        centre = (torch.arange(cells, device=masks.device) + 0.5) * pixels / (STRIDE * cells) - 0.5
        before = centre.clamp(min=0).floor()
        share = (centre - before).clamp(min=0).to(masks.dtype)
        share = share[:, None] if dim == -2 else share
        first = before.long()
        after = (first + 1).clamp(max=masks.shape[dim] - 1)
        masks = masks.index_select(dim, first) * (1 - share) + masks.index_select(dim, after) * share
    return masks


def tight_boxes(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Tight boxes (B, K, 4), in pixels, around the positive area of masks (B, K, h, w) that cover an input of ``size``.

    Masks are interpolated between cell centres and constant beyond the outermost ones; each side of a box touches the
    zero level. The box of a mask without positive cells is empty.
    """
    (top, bottom), (left, right) = extent(masks, size[0]), extent(masks.mT, size[1])
    return torch.stack([left, top, right, bottom], dim=-1)


def extent(masks: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """First and last y (B, K), in [0, pixels], at which masks (B, K, h, w) are positive."""
    rows = masks.shape[2]
    at, positive = torch.arange(rows, device=masks.device), masks.amax(dim=3) > 0
    first, last = torch.where(positive, at, rows - 1).amin(dim=2), torch.where(positive, at, 0).amax(dim=2)
    start = (first - reach(masks, first, -1)).clamp(min=-0.5)
    end = (last + reach(masks, last, 1)).clamp(max=rows - 0.5).maximum(start)
    return (start + 0.5) * pixels / rows, (end + 0.5) * pixels / rows


def reach(masks: Tensor, row: Tensor, step: int) -> Tensor:
    """Zero crossing between a row (B, K) of masks (B, K, h, w) and the next, in [0, 1]; 1 at the border.

    The largest over columns suffices: a mixture of neighbouring columns is positive only where one of them is.
    """
    _, _, h, w = masks.shape
    own, beyond = (
        masks.gather(2, i[..., None, None].expand(-1, -1, 1, w))[:, :, 0] for i in (row, (row + step).clamp(0, h - 1))
    )
    return torch.where(own > 0, own / (own - beyond.clamp(max=0)), 0).amax(dim=2)
