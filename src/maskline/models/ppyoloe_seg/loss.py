"""What PP-YOLOE-seg is trained to make small.

* class: varifocal loss (arXiv 2008.13367) at every place;
* box: generalised IoU (arXiv 1902.09630), and how far the distributions of distances are from the true distances
  (distribution focal loss, arXiv 2006.04388), at places that answer for an object, weighted by their quality;
* mask: cross-entropy over the object's box (YOLACT, arXiv 1904.02689, section 3.1), at the same places.

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
from maskline.models.ppyoloe_seg.head import BINS, AnchorPoints, Predictions, boxes_around, mean_distances

VARIFOCAL_ALPHA, VARIFOCAL_GAMMA = 0.75, 2.0
FARTHEST = BINS - 1 - 0.01  # strides: a distance lies between two bins
MASK_STRIDE = 4
SMALLEST_BUCKET = 64  # cells


@dataclass(frozen=True, slots=True)
class LossConfig:
    """The reference's values.

    Attributes:
        mask_cells: what a cell of a true mask says. ``corner``: its first pixel, as in the reference, which shifts
            predicted masks by about half a cell; the cells in the box count. ``mean``: the share of its pixels; all
            cells count that pixels in the box are interpolated from. Better for small objects.
        mask_weights: how much the masks of a place count that answers for an object. ``same``: all the same, as in the
            reference, so that the loss is large as long as boxes are bad. ``quality``: as much as its box.
    """

    label: float = 1.0
    box: float = 2.5
    distances: float = 0.5
    mask: float = 2.5
    assigner: AssignerConfig = field(default_factory=AssignerConfig)
    mask_cells: Literal["corner", "mean"] = "corner"
    mask_weights: Literal["same", "quality"] = "same"


def losses(
    predictions: Predictions,
    targets: list[Target],
    *,
    bins: Tensor,
    config: LossConfig,
    normalizer: Normalizer = local_normalizer,
) -> dict[str, Tensor]:
    """Parts of the loss, weighted: the loss is their sum.

    Args:
        targets: the true objects of each image; images without any are legal, also all of them.
        bins: (1, BINS, 1, 1) strides.
        normalizer: what sums over objects are divided by.

    Returns:
        Scalars in float32, each connected with its predictions.
    """
    with torch.autocast(predictions.classes.device.type, enabled=False):
        classes, distances, coefficients, prototypes = (to_fp32(t) for t in predictions[:4])
        places = predictions.places
        found = assign(
            classes.detach().sigmoid(),
            boxes_at(distances.detach(), places, bins),
            places.points,
            targets,
            config.assigner,
        )
        labels = torch.cat([t.labels for t in targets])
        true_boxes = torch.cat([t.boxes for t in targets])[found.object]
        total = normalizer(found.quality.sum())
        box, distance = box_losses(distances, places, bins, found, true_boxes)
        return {
            "loss_cls": config.label * class_loss(classes, found, labels[found.object]) / total,
            "loss_iou": config.box * box / total,
            "loss_dfl": config.distances * distance / total,
            "loss_mask": config.mask * mask_loss(coefficients, prototypes, found, targets, config) / total,
        }


def boxes_at(distances: Tensor, places: AnchorPoints, bins: Tensor) -> Tensor:
    """Boxes (B, L, 4) in pixels from logits (B, 4 * BINS, L)."""
    return boxes_around(places.points, mean_distances(distances, bins) * places.strides[:, None])


def class_loss(logits: Tensor, found: Assignment, labels: Tensor) -> Tensor:
    """Varifocal loss of logits (B, C, L), summed.

    A place that answers for an object should score its quality in the object's class, which also is its weight; all
    other scores should be 0, with a weight that falls as they get there. labels: (P,) of the objects answered for.
    """
    at = (found.image, labels, found.place)
    target, positive = torch.zeros_like(logits), torch.zeros_like(logits, dtype=torch.bool)
    target[at], positive[at] = found.quality.to(logits.dtype), True
    weight = torch.where(positive, target, VARIFOCAL_ALPHA * logits.sigmoid() ** VARIFOCAL_GAMMA)
    return (weight * F.binary_cross_entropy_with_logits(logits, target, reduction="none")).sum()


def box_losses(
    distances: Tensor, places: AnchorPoints, bins: Tensor, found: Assignment, true: Tensor
) -> tuple[Tensor, Tensor]:
    """1 - generalised IoU, and the distribution focal loss, both weighted by quality and summed.

    Args:
        distances: (B, 4 * BINS, L) logits.
        true: (P, 4) boxes of the objects answered for, in pixels.
    """
    logits = distances[found.image, :, found.place]  # (P, 4 * BINS)
    points, strides = places.points[found.place], places.strides[found.place, None]
    boxes = boxes_around(points, mean_distances(logits[..., None], bins)[:, 0] * strides)
    giou_loss = ((1 - box_giou(boxes, true)) * found.quality).sum()

    goal = (torch.cat([points - true[:, :2], true[:, 2:] - points], dim=1) / strides).clamp(0, FARTHEST)  # (P, 4)
    below = goal.floor()
    log_share = logits.view(-1, 4, BINS).log_softmax(dim=-1)
    near, far = (log_share.gather(2, (below.long() + i)[..., None])[..., 0] for i in (0, 1))
    entropy = -(near * (below + 1 - goal) + far * (goal - below))
    return giou_loss, (entropy.mean(dim=1) * found.quality).sum()


class Cells(NamedTuple):
    """The cells of the prototypes that count for each of n objects, object after object: E in all."""

    place: Tensor  # (E,) int64, in maps (h, w) of all images one after the other
    true: Tensor  # (E,) in [0, 1]: what the object's mask says there
    number: Tensor  # (n,) int64, of each object; 0 is legal
    area: Tensor  # (n,) what the sum over an object's cells is divided by


def mask_loss(
    coefficients: Tensor, prototypes: Tensor, found: Assignment, targets: list[Target], config: LossConfig
) -> Tensor:
    """Mean cross-entropy over the object's cells, weighted, and summed over the places that answer for it.

    Nothing is computed outside the objects' boxes. Objects with about as many cells go together, so that little is
    filled up; each object's cells are the same for all its places.
    """
    h, w = prototypes.shape[-2:]
    cells = cells_of(targets, (h, w), config.mask_cells)
    places = torch.bincount(found.object, minlength=len(cells.number))
    rows = prototypes.permute(0, 2, 3, 1).flatten(0, 2)  # (B * h * w, M)
    order = found.object.argsort(stable=True)
    own = coefficients[found.image[order], :, found.place[order]]  # (P, M), object after object
    share = found.quality[order] if config.mask_weights == "quality" else torch.ones_like(found.quality)

    first_cell, first_place = (counts.cumsum(0) - counts for counts in (cells.number, places))
    loss = 0 * (own.sum() + prototypes.sum())
    for some in buckets(cells.number, places):
        cell, real_cell = ragged(first_cell[some], cells.number[some])  # (n, E)
        place, real_place = ragged(first_place[some], places[some])  # (n, K)
        logits = torch.bmm(F.embedding(place, own), F.embedding(cells.place[cell], rows).transpose(1, 2))  # (n, K, E)
        true = cells.true[cell].to(logits.dtype)[:, None].expand_as(logits)
        entropy = F.binary_cross_entropy_with_logits(logits, true, reduction="none")
        weight = (share[place] * real_place)[..., None] * (real_cell / cells.area[some, None])[:, None]
        loss = loss + (entropy * weight).sum()
    return loss


def cells_of(targets: list[Target], size: tuple[int, int], rule: Literal["corner", "mean"]) -> Cells:
    """The cells of all objects of a batch, in maps of ``size`` (h, w). See `LossConfig.mask_cells`."""
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
    """First cells (n, 2), x y, and the cells after the last, for boxes (n, 4) in cells, inside a map (h, w)."""
    near, far = torch.split(boxes, 2, dim=1)
    first, end = (near.ceil(), far.ceil()) if rule == "corner" else ((near - 0.5).floor(), (far - 0.5).floor() + 2)
    limit = torch.tensor([size[1], size[0]], device=boxes.device)
    nothing = torch.zeros_like(limit)
    return first.long().clamp(min=nothing, max=limit), end.long().clamp(min=nothing, max=limit)


def mask_values(masks: Tensor, row: Tensor, y: Tensor, x: Tensor, rule: Literal["corner", "mean"]) -> Tensor:
    """What masks (n, H, W) of 0 and 1 say, by ``row``, at cells y x of MASK_STRIDE pixels: (E,) in [0, 1]."""
    n, H, W = masks.shape
    split = masks.view(n, H // MASK_STRIDE, MASK_STRIDE, W // MASK_STRIDE, MASK_STRIDE)
    pixels: Tensor = split.transpose(2, 3)[row, y, x]  # (E, stride, stride)
    return pixels[:, 0, 0].float() if rule == "corner" else pixels.flatten(1).float().mean(dim=1)


def buckets(cells: Tensor, places: Tensor) -> Iterator[Tensor]:
    """Objects that have both, in groups in which none has more than twice another's cells, unless it has few."""
    doublings = torch.log2((cells / SMALLEST_BUCKET).clamp(min=1)).ceil().long()
    doublings = torch.where((cells > 0) & (places > 0), doublings, -1)
    for level in range(int(doublings.max()) + 1 if len(doublings) else 0):
        some = torch.nonzero(doublings == level).flatten()
        if len(some):
            yield some


def ragged(first: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Of n runs, each beginning at ``first`` (n,) and ``counts`` (n,) long, the indices (n, longest), and which of them
    are real; the others repeat the last."""
    step = torch.arange(int(counts.max()), device=counts.device)
    return first[:, None] + step.minimum(counts[:, None] - 1), step < counts[:, None]
