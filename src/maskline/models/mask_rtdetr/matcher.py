"""Which query should find which object: the assignment of least cost (DETR, arXiv 2005.12872, section 3.1).

The cost adds up a class, a box and, as in Mask DINO (arXiv 2206.02777), a mask part.
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
IMPOSSIBLE = 1e6  # cost of a prediction that is not a number: whoever sees the loss reports it, not the assignment


class LossWeights(NamedTuple):
    """How much each part counts, in the cost of a match or in the loss."""

    label: float = 4.0
    box: float = 5.0
    giou: float = 2.0
    mask: float = 5.0
    dice: float = 5.0


class Matches(NamedTuple):
    """K queries and the objects they should find."""

    image: Tensor  # (K,) int64
    query: Tensor  # (K,) int64, within the image
    object: Tensor  # (K,) int64, a row of `Objects`


@dataclass(frozen=True, slots=True)
class Objects:
    """The N true objects of a batch, image by image."""

    labels: Tensor  # (N,) int64
    boxes: Tensor  # (N, 4) centre and size in [0, 1]
    counts: tuple[int, ...]  # objects of each image
    framed: Tensor  # (N, H + 2, W + 2) uint8 masks in a frame of zeros; bytes, as there may be hundreds

    @classmethod
    def of(cls, targets: list[UnitTarget]) -> Objects:
        """Targets whose masks all have one size."""
        return cls(
            torch.cat([t.labels for t in targets]),
            torch.cat([t.boxes for t in targets]),
            tuple(len(t.labels) for t in targets),
            torch.cat([F.pad(t.masks.to(torch.uint8), (1, 1, 1, 1)) for t in targets]),
        )

    def first(self) -> list[int]:
        """The first row of each image."""
        return [sum(self.counts[:i]) for i in range(len(self.counts))]

    def rows(self) -> Iterator[slice]:
        """The rows of each image."""
        return (slice(first, first + n) for first, n in zip(self.first(), self.counts, strict=True))

    def masks_at(self, index: Tensor, points: Tensor) -> Tensor:
        """Masks of objects (K,) at points (K, P, 2), x and y in [0, 1]: (K, P) in [0, 1], bilinear, zero outside.

        The same as `point_sample`, but without a copy of the masks in floating point.
        """
        height, width = self.framed.shape[1:]
        place = points * points.new_tensor([width - 2, height - 2]) + 0.5  # the frame moves all by one cell
        cell = place.floor()
        right, down = (place - cell).unbind(dim=-1)
        x, y = cell.long().unbind(dim=-1)
        corner, cells = (index[:, None] * height + y) * width + x, self.framed.flatten()
        a, b, c, d = (cells.take(corner + step).to(right) for step in (0, 1, width, width + 1))
        return torch.lerp(torch.lerp(a, b, right), torch.lerp(c, d, right), down)

    def resized_masks(self, size: tuple[int, int]) -> Tensor:
        """All masks, (N, h, w) bool: more than half after bilinear resizing to ``size``."""
        parts = [self.framed[rows, 1:-1, 1:-1] for rows in self.rows()]  # by image, as this copies to floating point
        return torch.cat([F.interpolate(p[:, None].float(), size, mode="bilinear")[:, 0] > 0.5 for p in parts])


def match(prediction: Prediction, objects: Objects, points: Tensor, weights: LossWeights) -> Matches:
    """The best query for each object, none twice; with fewer queries than objects, the best object for each query.

    Arguments are those of `match_costs`.
    """
    costs = [
        cost.nan_to_num(IMPOSSIBLE, IMPOSSIBLE, -IMPOSSIBLE).cpu().numpy()
        for cost in match_costs(prediction, objects, points, weights)
    ]
    assigned = [[torch.from_numpy(index) for index in linear_sum_assignment(cost)] for cost in costs]
    return pairs_of(assigned, objects, points.device)


@torch.no_grad()
def match_costs(prediction: Prediction, objects: Objects, points: Tensor, weights: LossWeights) -> list[Tensor]:
    """What it costs each query to answer for each object of its image: (Q, n), image by image.

    Args:
        prediction: logits (B, Q, classes), boxes (B, Q, 4), masks (B, Q, h, w).
        points: (B, P, 2) in [0, 1]; where all masks of an image are compared.
        weights: of the parts of the cost.
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
    """Denoising queries and the objects they were made from, known without a search."""
    counts = objects.counts
    assigned = [[p.cpu(), torch.arange(n).repeat(groups.groups)] for p, n in zip(groups.positions, counts, strict=True)]
    return pairs_of(assigned, objects, objects.labels.device)


def pairs_of(assigned: list[list[Tensor]], objects: Objects, device: torch.device) -> Matches:
    """Queries and objects of each image, both counted within it, as one list of pairs."""
    image = torch.cat([torch.full_like(query, i) for i, (query, _) in enumerate(assigned)])
    row = torch.cat([index + first for (_, index), first in zip(assigned, objects.first(), strict=True)])
    return Matches(image.to(device), torch.cat([query for query, _ in assigned]).to(device), row.to(device))


def class_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (Q, classes) and labels (n,) to (Q, n): what the focal loss gains by calling the query an object."""
    logits = logits[:, labels]
    score = logits.sigmoid()
    positive = -FOCAL_ALPHA * (1 - score) ** FOCAL_GAMMA * F.logsigmoid(logits)
    negative = -(1 - FOCAL_ALPHA) * score**FOCAL_GAMMA * F.logsigmoid(-logits)
    return positive - negative


def box_cost(boxes: Tensor, true: Tensor, weights: LossWeights) -> Tensor:
    """Boxes (Q, 4) and (n, 4), centre and size, to (Q, n): sum of distances, and generalised IoU."""
    distance = (boxes[:, None] - true).abs().sum(dim=-1)
    return weights.box * distance - weights.giou * box_giou(
        box_cxcywh_to_xyxy(boxes)[:, None], box_cxcywh_to_xyxy(true)
    )


def mask_cost(logits: Tensor, true: Tensor, weights: LossWeights) -> Tensor:
    """Logits (Q, P) and masks (n, P) in [0, 1], both at P points, to (Q, n): mean cross-entropy, and dice loss."""
    entropy = (F.softplus(logits).sum(dim=1)[:, None] - logits @ true.T) / logits.shape[1]
    score = logits.sigmoid()
    dice = dice_loss(score @ true.T, score.sum(dim=1)[:, None] + true.sum(dim=1))
    return weights.mask * entropy + weights.dice * dice
