"""Loss of PP-YOLOE-seg.

* class: varifocal loss (arXiv 2008.13367) at all anchor points;
* box: generalised IoU (arXiv 1902.09630) and distribution focal loss (arXiv 2006.04388) at positive anchor points,
  weighted by their quality;
* mask: cross-entropy over the object's box (YOLACT, arXiv 1904.02689, section 3.1) at positive anchor points.

All four are divided by the sum of qualities.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from maskline.models.iou import box_giou
from maskline.models.layers import to_fp32
from maskline.models.network import Normalizer, Target, local_normalizer
from maskline.models.ppyoloe_seg.assigner import AssignerConfig, Assignment, assign
from maskline.models.ppyoloe_seg.head import BINS, AnchorPoints, Predictions, boxes_from_distances, mean_distances

VARIFOCAL_ALPHA, VARIFOCAL_GAMMA = 0.75, 2.0
FARTHEST = BINS - 1 - 0.01  # strides; the largest target distance, below the last bin
MASK_STRIDE = 4
SMALLEST_BUCKET = 64  # cells


@dataclass(frozen=True, slots=True)
class LossConfig:
    """PaddleDetection's values.

    Attributes:
        mask_cells: downsampling of true masks. ``corner``: a cell's first pixel, as in PaddleDetection, which shifts
            predicted masks by about half a cell; the loss covers the cells in the box. ``mean``: the mean of a cell's
            pixels; the loss covers all cells that pixels in the box are interpolated from. Better for small objects.
        mask_weighting: weight of a positive anchor point in the mask loss. ``same``: 1, as in PaddleDetection, so the
            loss is large while boxes are bad. ``quality``: its quality, as for boxes.
    """

    class_weight: float = 1.0
    iou_weight: float = 2.5
    dfl_weight: float = 0.5
    mask_weight: float = 2.5
    assigner: AssignerConfig = field(default_factory=AssignerConfig)
    mask_cells: Literal["corner", "mean"] = "corner"
    mask_weighting: Literal["same", "quality"] = "same"


def losses(
    predictions: Predictions,
    targets: list[Target],
    *,
    bins: Tensor,
    config: LossConfig,
    normalizer: Normalizer = local_normalizer,
) -> dict[str, Tensor]:
    """Return the weighted loss terms; the loss is their sum.

    Args:
        targets: the true objects of each image; any may be empty.
        bins: (1, BINS, 1, 1) strides.
        normalizer: divisor of sums over objects.

    Returns:
        Scalars in float32, all connected to their predictions.
    """
    with torch.autocast(predictions.classes.device.type, enabled=False):
        classes, distances, coefficients, prototypes = (to_fp32(t) for t in predictions[:4])
        anchor_points = predictions.anchor_points
        found = assign(
            classes.detach().sigmoid(),
            boxes_at(distances.detach(), anchor_points, bins),
            anchor_points.points,
            targets,
            config.assigner,
        )
        labels = torch.cat([t.labels for t in targets])
        true_boxes = torch.cat([t.boxes for t in targets])[found.object]
        total = normalizer(found.quality.sum())
        box, distance = box_losses(distances, anchor_points, bins, found, true_boxes)
        return {
            "loss_cls": config.class_weight * class_loss(classes, found, labels[found.object]) / total,
            "loss_iou": config.iou_weight * box / total,
            "loss_dfl": config.dfl_weight * distance / total,
            "loss_mask": config.mask_weight * mask_loss(coefficients, prototypes, found, targets, config) / total,
        }


def boxes_at(distances: Tensor, anchor_points: AnchorPoints, bins: Tensor) -> Tensor:
    """Decode logits of distances (B, 4 * BINS, L) to boxes (B, L, 4), in pixels."""
    return boxes_from_distances(anchor_points.points, mean_distances(distances, bins) * anchor_points.strides[:, None])


def class_loss(logits: Tensor, found: Assignment, labels: Tensor) -> Tensor:
    """Varifocal loss of logits (B, C, L), summed.

    The target of a positive anchor point in its object's class is its quality, also its weight. All other targets are
    0, with a weight that falls with the score. labels: (P,) classes of the assigned objects.
    """
    at = (found.image, labels, found.point)
    target, positive = torch.zeros_like(logits), torch.zeros_like(logits, dtype=torch.bool)
    target[at], positive[at] = found.quality.to(logits.dtype), True
    weight = torch.where(positive, target, VARIFOCAL_ALPHA * logits.sigmoid() ** VARIFOCAL_GAMMA)
    return (weight * F.binary_cross_entropy_with_logits(logits, target, reduction="none")).sum()


def box_losses(
    distances: Tensor, anchor_points: AnchorPoints, bins: Tensor, found: Assignment, true: Tensor
) -> tuple[Tensor, Tensor]:
    """GIoU loss and distribution focal loss, both weighted by quality and summed.

    Args:
        distances: (B, 4 * BINS, L) logits.
        true: (P, 4) boxes of the assigned objects, in pixels.
    """
    logits = distances[found.image, :, found.point]  # (P, 4 * BINS)
    points, strides = anchor_points.points[found.point], anchor_points.strides[found.point, None]
    boxes = boxes_from_distances(points, mean_distances(logits[..., None], bins)[:, 0] * strides)
    giou_loss = ((1 - box_giou(boxes, true)) * found.quality).sum()

    goal = (torch.cat([points - true[:, :2], true[:, 2:] - points], dim=1) / strides).clamp(0, FARTHEST)  # (P, 4)
    below = goal.floor()
    log_share = logits.view(-1, 4, BINS).log_softmax(dim=-1)
    near, far = (log_share.gather(2, (below.long() + i)[..., None])[..., 0] for i in (0, 1))
    entropy = -(near * (below + 1 - goal) + far * (goal - below))
    return giou_loss, (entropy.mean(dim=1) * found.quality).sum()


class Cells(NamedTuple):
    """The E prototype cells in the mask loss of n objects, in order of objects."""

    location: Tensor  # (E,) int64, into the concatenated maps (h, w) of all images
    true: Tensor  # (E,) in [0, 1]: value of the object's mask
    number: Tensor  # (n,) int64, cells per object; may be 0
    area: Tensor  # (n,) divisor of the sum over an object's cells


def mask_loss(
    coefficients: Tensor, prototypes: Tensor, found: Assignment, targets: list[Target], config: LossConfig
) -> Tensor:
    """Mean cross-entropy over an object's cells, weighted and summed over its positive anchor points.

    Nothing is computed outside boxes. Objects with similar numbers of cells are batched, to keep padding small; all
    anchor points of an object share its cells.
    """
    h, w = prototypes.shape[-2:]
    cells = cells_of(targets, (h, w), config.mask_cells)
    num_points = torch.bincount(found.object, minlength=len(cells.number))
    rows = prototypes.permute(0, 2, 3, 1).flatten(0, 2)  # (B * h * w, M)
    order = found.object.argsort(stable=True)
    own = coefficients[found.image[order], :, found.point[order]]  # (P, M), object after object
    share = found.quality[order] if config.mask_weighting == "quality" else torch.ones_like(found.quality)

    first_cell, first_point = (counts.cumsum(0) - counts for counts in (cells.number, num_points))
    loss = 0 * (own.sum() + prototypes.sum())
    for some in buckets(cells.number, num_points):
        cell, real_cell = ragged(first_cell[some], cells.number[some])  # (n, E)
        point, real_point = ragged(first_point[some], num_points[some])  # (n, K)
        logits = torch.bmm(
            F.embedding(point, own), F.embedding(cells.location[cell], rows).transpose(1, 2)
        )  # (n, K, E)
        true = cells.true[cell].to(logits.dtype)[:, None].expand_as(logits)
        entropy = F.binary_cross_entropy_with_logits(logits, true, reduction="none")
        weight = (share[point] * real_point)[..., None] * (real_cell / cells.area[some, None])[:, None]
        loss = loss + (entropy * weight).sum()
    return loss


def cells_of(targets: list[Target], size: tuple[int, int], rule: Literal["corner", "mean"]) -> Cells:
    """Return the cells of all objects of a batch, in maps of ``size`` (h, w). See `LossConfig.mask_cells`."""
    h, w = size
    boxes = torch.cat([t.boxes for t in targets]) / MASK_STRIDE
    image = torch.cat([torch.full_like(t.labels, i) for i, t in enumerate(targets)])
    first, end = window(boxes, size, rule)
    width, height = (end - first).clamp(min=0).T
    counts = width * height
    owner = torch.repeat_interleave(counts)
    step = torch.arange(len(owner), device=owner.device) - (counts.cumsum(0) - counts)[owner]
    x, y = first[owner, 0] + step % width[owner], first[owner, 1] + step // width[owner]
    true, n = [], 0
    for i, target in enumerate(targets):
        own = image[owner] == i
        true.append(mask_values(target.masks, owner[own] - n, y[own], x[own], rule))
        n += len(target.masks)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1) if rule == "corner" else counts
    return Cells((image[owner] * h + y) * w + x, torch.cat(true), counts, area)


def window(boxes: Tensor, size: tuple[int, int], rule: Literal["corner", "mean"]) -> tuple[Tensor, Tensor]:
    """First and end cells (n, 2), x y, of boxes (n, 4) in cells, clipped to a map (h, w)."""
    near, far = torch.split(boxes, 2, dim=1)
    first, end = (near.ceil(), far.ceil()) if rule == "corner" else ((near - 0.5).floor(), (far - 0.5).floor() + 2)
    limit = torch.tensor([size[1], size[0]], device=boxes.device)
    nothing = torch.zeros_like(limit)
    return first.long().clamp(min=nothing, max=limit), end.long().clamp(min=nothing, max=limit)


def mask_values(masks: Tensor, row: Tensor, y: Tensor, x: Tensor, rule: Literal["corner", "mean"]) -> Tensor:
    """Values (E,) in [0, 1] of masks ``row`` of (n, H, W), 0 and 1, at cells y x of MASK_STRIDE pixels."""
    n, H, W = masks.shape
    split = masks.view(n, H // MASK_STRIDE, MASK_STRIDE, W // MASK_STRIDE, MASK_STRIDE)
    pixels: Tensor = split.transpose(2, 3)[row, y, x]  # (E, stride, stride)
    return pixels[:, 0, 0].float() if rule == "corner" else pixels.flatten(1).float().mean(dim=1)


def buckets(cells: Tensor, points: Tensor) -> Iterator[Tensor]:
    """Group objects that have cells and anchor points by number of cells, within a factor of 2 unless small."""
    doublings = torch.log2((cells / SMALLEST_BUCKET).clamp(min=1)).ceil().long()
    doublings = torch.where((cells > 0) & (points > 0), doublings, -1)
    for level in range(int(doublings.max()) + 1 if len(doublings) else 0):
        some = torch.nonzero(doublings == level).flatten()
        if len(some):
            yield some


def ragged(first: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (n, longest) of runs that start at ``first`` (n,), ``counts`` (n,) long, and a mask of the real ones.

    Padding repeats the last index.
    """
    step = torch.arange(int(counts.max()), device=counts.device)
    return first[:, None] + step.minimum(counts[:, None] - 1), step < counts[:, None]
