"""Hungarian matching of queries and objects (DETR, arXiv 2005.12872, section 3.1).

The cost is the sum of class, box and, as in Mask DINO (arXiv 2206.02777), mask costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from maskline.models.iou import box_giou, dice_loss, point_sample
from maskline.models.layers import box_cxcywh_to_xyxy, to_fp32
from maskline.models.mask_rtdetr.decoder import Prediction
from maskline.models.mask_rtdetr.denoising import Denoising, UnitTarget

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0  # focal loss, arXiv 1708.02002
IMPOSSIBLE = 1e6  # cost of a NaN prediction: the training loop reports a loss that is not finite, not the matcher


class LossWeights(NamedTuple):
    """Weights of the terms of the matching cost or of the loss."""

    label: float = 4.0
    box: float = 5.0
    giou: float = 2.0
    mask: float = 5.0
    dice: float = 5.0


class Matches(NamedTuple):
    """K queries and their objects."""

    image: Tensor  # (K,) int64
    query: Tensor  # (K,) int64, within the image
    object: Tensor  # (K,) int64, index into `Objects`


@dataclass(frozen=True, slots=True)
class Objects:
    """The N true objects of a batch, in order of images."""

    labels: Tensor  # (N,) int64
    boxes: Tensor  # (N, 4) centre and size in [0, 1]
    counts: tuple[int, ...]  # objects per image
    framed: Tensor  # (N, H + 2, W + 2) uint8 masks with a border of zeros; bytes, because there may be hundreds

    @classmethod
    def of(cls, targets: list[UnitTarget]) -> Objects:
        """From targets whose masks have the same size."""
        return cls(
            torch.cat([t.labels for t in targets]),
            torch.cat([t.boxes for t in targets]),
            tuple(len(t.labels) for t in targets),
            torch.cat([F.pad(t.masks.to(torch.uint8), (1, 1, 1, 1)) for t in targets]),
        )

    def first(self) -> list[int]:
        """Index of the first object of each image."""
        return [sum(self.counts[:i]) for i in range(len(self.counts))]

    def rows(self) -> Iterator[slice]:
        """Slice of the objects of each image."""
        return (slice(first, first + n) for first, n in zip(self.first(), self.counts, strict=True))

    def masks_at(self, index: Tensor, points: Tensor) -> Tensor:
        """Sample masks of objects (K,) at points (K, P, 2), x and y in [0, 1]: (K, P), bilinear, zero outside.

        As `point_sample`, but without a floating-point copy of the masks.
        """
        height, width = self.framed.shape[1:]
        place = points * points.new_tensor([width - 2, height - 2]) + 0.5  # shifted by the border
        cell = place.floor()
        right, down = (place - cell).unbind(dim=-1)
        x, y = cell.long().unbind(dim=-1)
        corner, cells = (index[:, None] * height + y) * width + x, self.framed.flatten()
        a, b, c, d = (cells.take(corner + step).to(right) for step in (0, 1, width, width + 1))
        return torch.lerp(torch.lerp(a, b, right), torch.lerp(c, d, right), down)

    def resized_masks(self, size: tuple[int, int]) -> Tensor:
        """All masks resized to ``size``, (N, h, w) bool: bilinear, above 0.5."""
        parts = [self.framed[rows, 1:-1, 1:-1] for rows in self.rows()]  # by image, to bound the floating-point copy
        return torch.cat([F.interpolate(p[:, None].float(), size, mode="bilinear")[:, 0] > 0.5 for p in parts])


def match(prediction: Prediction, objects: Objects, points: Tensor, weights: LossWeights) -> Matches:
    """Match objects to queries, one to one, at least total cost; takes the arguments of `match_costs`.

    With fewer queries than objects, every query gets an object.
    """
    costs = [
        cost.nan_to_num(IMPOSSIBLE, IMPOSSIBLE, -IMPOSSIBLE).cpu().numpy()
        for cost in match_costs(prediction, objects, points, weights)
    ]
    assigned = [[torch.from_numpy(index) for index in linear_sum_assignment(cost)] for cost in costs]
    return pairs_of(assigned, objects, points.device)


@torch.no_grad()
def match_costs(prediction: Prediction, objects: Objects, points: Tensor, weights: LossWeights) -> list[Tensor]:
    """Cost of matching each query with each object of its image: (Q, n) per image.

    Args:
        prediction: logits (B, Q, classes), boxes (B, Q, 4), masks (B, Q, h, w).
        points: (B, P, 2) in [0, 1], where the masks of each image are compared.
        weights: weights of the cost terms.
    """
    logits, boxes, masks = (to_fp32(t) for t in prediction)
    values = point_sample(masks, points)
    costs = []
    for i, rows in enumerate(objects.rows()):
        index = torch.arange(rows.start, rows.stop, device=points.device)
        true = objects.masks_at(index, points[i].expand(len(index), -1, -1)).to(masks.dtype)
        costs.append(
            class_cost(logits[i], objects.labels[rows]) * weights.label
            + box_cost(boxes[i], objects.boxes[rows], weights)
            + mask_cost(values[i], true, weights)
        )
    return costs


def denoising_pairs(groups: Denoising, objects: Objects) -> Matches:
    """Match denoising queries to the objects they were made from."""
    counts = objects.counts
    assigned = [[p.cpu(), torch.arange(n).repeat(groups.groups)] for p, n in zip(groups.positions, counts, strict=True)]
    return pairs_of(assigned, objects, objects.labels.device)


def pairs_of(assigned: list[list[Tensor]], objects: Objects, device: torch.device) -> Matches:
    """Join the pairs of query and object of all images, with object indices into the batch."""
    image = torch.cat([torch.full_like(query, i) for i, (query, _) in enumerate(assigned)])
    row = torch.cat([index + first for (_, index), first in zip(assigned, objects.first(), strict=True)])
    return Matches(image.to(device), torch.cat([query for query, _ in assigned]).to(device), row.to(device))


def class_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (Q, classes) and labels (n,) to (Q, n): focal loss as positive minus as negative."""
    logits = logits[:, labels]
    score = logits.sigmoid()
    positive = -FOCAL_ALPHA * (1 - score) ** FOCAL_GAMMA * F.logsigmoid(logits)
    negative = -(1 - FOCAL_ALPHA) * score**FOCAL_GAMMA * F.logsigmoid(-logits)
    return positive - negative


def box_cost(boxes: Tensor, true: Tensor, weights: LossWeights) -> Tensor:
    """Boxes (Q, 4) and (n, 4), centre and size, to (Q, n): L1 distance and generalised IoU."""
    distance = (boxes[:, None] - true).abs().sum(dim=-1)
    return weights.box * distance - weights.giou * box_giou(
        box_cxcywh_to_xyxy(boxes)[:, None], box_cxcywh_to_xyxy(true)
    )


def mask_cost(logits: Tensor, true: Tensor, weights: LossWeights) -> Tensor:
    """Logits (Q, P) and masks (n, P) in [0, 1] at P points to (Q, n): mean cross-entropy and dice loss."""
    entropy = (F.softplus(logits).sum(dim=1)[:, None] - logits @ true.T) / logits.shape[1]
    score = logits.sigmoid()
    dice = dice_loss(score @ true.T, score.sum(dim=1)[:, None] + true.sum(dim=1))
    return weights.mask * entropy + weights.dice * dice
