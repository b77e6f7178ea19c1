"""From what the head of SOLOv2 says to masks, best first: peaks, scores of masks, matrix NMS, boxes.

Source: SOLOv2 (arXiv 2003.10152, section 3.4). Everything has a fixed number of rows, so that it can be a graph.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STRIDE = 4  # pixels of the padded input for a cell of a mask


def points_nms(scores: Tensor) -> Tensor:
    """Scores (B, C, g, g) in which a cell is 0 if the one above, left or above left has a better one (points NMS)."""
    best = F.max_pool2d(scores, 2, stride=1, padding=1)[:, :, :-1, :-1]
    return torch.where(best == scores, scores, 0)


def matrix_nms(scores: Tensor, labels: Tensor, iou: Tensor, sigma: float) -> Tensor:
    """Scores lowered by how much better masks of the same class cover the same place (matrix NMS, gaussian).

    Args:
        scores, labels: (B, M), best first.
        iou: (B, M, M) IoU of masks.
        sigma: how sharply.
    """
    alike = labels[:, :, None] == labels[:, None]
    squared = torch.where(alike, iou, 0).triu(1).square()  # (B, better, worse)
    covered = squared.amax(dim=1)  # of each mask, by better ones: as much less does it cover worse ones
    return scores * torch.exp(-sigma * (squared - covered[:, :, None]).amax(dim=1))


def mask_ious(shared: Tensor, area: Tensor) -> Tensor:
    """IoU (B, N, N) of masks that share so many cells (B, N, N) and have so many (B, N)."""
    return shared / (area[:, :, None] + area[:, None] - shared).clamp(min=1)


def covering(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (B, K, h, w) of a padded input, as masks that cover just the input of ``size`` (height, width).

    The result has ceil(height / STRIDE) x ceil(width / STRIDE) cells. Where a side divides by STRIDE they are the first
    ones of ``masks``. Where it does not, they are smaller than STRIDE pixels by up to one pixel in all, and
    interpolated.
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
    """Boxes (B, K, 4) in pixels around what is positive in masks (B, K, h, w) that cover an input of ``size``.

    Between the centres of its cells a mask is interpolated, beyond the outermost ones it goes on: no point outside the
    box is positive, and on each of its sides one is on the edge of being so. Without a positive cell the box is empty.
    """
    (top, bottom), (left, right) = extent(masks, size[0]), extent(masks.mT, size[1])
    return torch.stack([left, top, right, bottom], dim=-1)


def extent(masks: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """First and last height (B, K), in [0, pixels], at which masks (B, K, h, w) are positive."""
    rows = masks.shape[2]
    at, positive = torch.arange(rows, device=masks.device), masks.amax(dim=3) > 0
    first, last = torch.where(positive, at, rows - 1).amin(dim=2), torch.where(positive, at, 0).amax(dim=2)
    start = (first - reach(masks, first, -1)).clamp(min=-0.5)
    end = (last + reach(masks, last, 1)).clamp(max=rows - 0.5).maximum(start)
    return (start + 0.5) * pixels / rows, (end + 0.5) * pixels / rows


def reach(masks: Tensor, row: Tensor, step: int) -> Tensor:
    """How far on the way from a row (B, K) of masks (B, K, h, w) to the next one they are positive; 1 at the border.

    Between a positive and a negative cell the sign changes at a share of the way that depends on their values; and no
    mixture of neighbouring columns is positive where neither of them is.
    """
    _, _, h, w = masks.shape
    own, beyond = (
        masks.gather(2, i[..., None, None].expand(-1, -1, 1, w))[:, :, 0] for i in (row, (row + step).clamp(0, h - 1))
    )
    return torch.where(own > 0, own / (own - beyond.clamp(max=0)), 0).amax(dim=2)
