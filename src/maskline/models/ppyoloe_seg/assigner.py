"""Task-aligned assignment of objects to anchor points (TOOD, arXiv 2108.07755, section 3.2).

The alignment of an anchor point with an object grows with its score in the object's class and the IoU of its box. The
best-aligned anchor points inside an object's box are its positives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from maskline.models.iou import box_iou
from maskline.models.network import Target

INSIDE = 1e-9  # pixels between an anchor point and the border of a box it is inside of
EPS = 1e-9


@dataclass(frozen=True, slots=True)
class AssignerConfig:
    """PaddleDetection's values."""

    top_k: int = 13  # largest number of anchor points per object
    score_power: float = 1.0
    iou_power: float = 6.0


class Assignment(NamedTuple):
    """P positive anchor points, each with one object."""

    image: Tensor  # (P,) int64
    point: Tensor  # (P,) int64
    object: Tensor  # (P,) int64: index among all objects of the batch
    quality: Tensor  # (P,) in [0, 1]: target score


class Candidates(NamedTuple):
    """Anchor points and objects of one image that might be matched."""

    object: Tensor  # (P,) int64
    point: Tensor  # (P,) int64
    fitness: Tensor  # (P,) at least 0
    iou: Tensor  # (P,) of the boxes


@torch.no_grad()
def assign(scores: Tensor, boxes: Tensor, points: Tensor, targets: list[Target], config: AssignerConfig) -> Assignment:
    """Assign the objects of a batch to anchor points.

    Args:
        scores: (B, C, L) in [0, 1].
        boxes: (B, L, 4) predicted, in pixels like the targets.
        points: (L, 2) x y of the anchor points, in pixels.
        targets: the true objects; may be empty.
    """
    first, parts = 0, []
    for i, target in enumerate(targets):
        found = _assign_one(scores[i], boxes[i], points, target, config)
        image = torch.full_like(found.point, i)
        quality = _quality(found, len(target.labels))
        parts.append(Assignment(image, found.point, found.object + first, quality))
        first += len(target.labels)
    return Assignment(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _assign_one(scores: Tensor, boxes: Tensor, points: Tensor, target: Target, config: AssignerConfig) -> Candidates:
    """Pairs of one image; each anchor point occurs at most once. scores: (C, L), boxes: (L, 4)."""
    object_, point = torch.nonzero(_inside(points, target.boxes), as_tuple=True)
    pairs = _fittest(_pairs(object_, point, scores, boxes, target, config), config.top_k)

    # An anchor point claimed by several objects goes to the one with the largest IoU, even if that did not claim it.
    claims = torch.bincount(pairs.point, minlength=len(points))
    disputed = torch.nonzero(claims > 1).flatten()
    if not len(disputed):
        return pairs
    winner = box_iou(target.boxes[:, None], boxes[disputed]).argmax(dim=0)
    alone = claims[pairs.point] == 1
    settled = _pairs(winner, disputed, scores, boxes, target, config)
    return Candidates(*(torch.cat([a[alone], b]) for a, b in zip(pairs, settled, strict=True)))


def _inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Whether points (L, 2) are inside boxes (n, 4): (n, L) bool."""
    x, y = points.T
    x1, y1, x2, y2 = boxes.T[..., None]
    inside: Tensor = (x - x1 > INSIDE) & (x2 - x > INSIDE) & (y - y1 > INSIDE) & (y2 - y > INSIDE)
    return inside


def _pairs(
    object_: Tensor, point: Tensor, scores: Tensor, boxes: Tensor, target: Target, config: AssignerConfig
) -> Candidates:
    iou = box_iou(target.boxes[object_], boxes[point])
    score = scores[target.labels[object_], point]
    return Candidates(object_, point, score**config.score_power * iou**config.iou_power, iou)


def _fittest(pairs: Candidates, number: int) -> Candidates:
    """Keep the ``number`` best-aligned anchor points of each object; pairs are sorted by object."""
    order = pairs.fitness.argsort(descending=True, stable=True)
    order = order[pairs.object[order].argsort(stable=True)]  # by object, best first
    at = torch.arange(len(order), device=order.device)
    rank = at - torch.searchsorted(pairs.object, pairs.object)  # within the object, whose rows stay in the same range
    return Candidates(*(column[order[rank < number]] for column in pairs))


def _quality(pairs: Candidates, objects: int) -> Tensor:
    """Fitness, scaled so that the best value of an object equals its largest IoU."""
    fitness, iou = (
        pairs.fitness.new_zeros(objects).scatter_reduce(0, pairs.object, values, "amax")
        for values in (pairs.fitness, pairs.iou)
    )
    return pairs.fitness / (fitness + EPS)[pairs.object] * iou[pairs.object]
