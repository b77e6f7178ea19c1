"""Which place answers for which object: task-aligned assignment (TOOD, arXiv 2108.07755, section 3.2).

A place is fit for an object where it scores high in the object's class and its box overlaps the object's. Of the places
inside an object's box the fittest answer for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from maskline.models.iou import box_iou
from maskline.models.network import Target

INSIDE = 1e-9  # pixels between a place and the border of a box it lies in
EPS = 1e-9


@dataclass(frozen=True, slots=True)
class AssignerConfig:
    """The reference's values."""

    top_k: int = 13  # at most, of one object
    score_power: float = 1.0
    iou_power: float = 6.0


class Assignment(NamedTuple):
    """The P places that answer for an object, each for one."""

    image: Tensor  # (P,) int64
    place: Tensor  # (P,) int64
    object: Tensor  # (P,) int64: its row among all objects of the batch, image after image
    quality: Tensor  # (P,) in [0, 1]: the score the place should give


class Candidates(NamedTuple):
    """Anchor points and objects of one image that might be matched."""

    object: Tensor  # (P,) int64
    place: Tensor  # (P,) int64
    fitness: Tensor  # (P,) not negative
    iou: Tensor  # (P,) of the boxes


@torch.no_grad()
def assign(scores: Tensor, boxes: Tensor, points: Tensor, targets: list[Target], config: AssignerConfig) -> Assignment:
    """Find the places that answer for objects, in every image of a batch.

    Args:
        scores: (B, C, L) in [0, 1].
        boxes: (B, L, 4) predicted, in pixels as the targets'.
        points: (L, 2) x y of the places, in pixels.
        targets: the true objects; none is legal.
    """
    first, parts = 0, []
    for i, target in enumerate(targets):
        found = _assign_one(scores[i], boxes[i], points, target, config)
        image = torch.full_like(found.place, i)
        quality = _quality(found, len(target.labels))
        parts.append(Assignment(image, found.place, found.object + first, quality))
        first += len(target.labels)
    return Assignment(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _assign_one(scores: Tensor, boxes: Tensor, points: Tensor, target: Target, config: AssignerConfig) -> Candidates:
    """The pairs of one image: each place at most once. scores: (C, L), boxes: (L, 4)."""
    object_, place = torch.nonzero(_inside(points, target.boxes), as_tuple=True)
    pairs = _fittest(_pairs(object_, place, scores, boxes, target, config), config.top_k)

    # Of several objects that want a place gets it the one that its box overlaps most, even if that did not want it.
    wanted = torch.bincount(pairs.place, minlength=len(points))
    disputed = torch.nonzero(wanted > 1).flatten()
    if not len(disputed):
        return pairs
    winner = box_iou(target.boxes[:, None], boxes[disputed]).argmax(dim=0)
    alone = wanted[pairs.place] == 1
    settled = _pairs(winner, disputed, scores, boxes, target, config)
    return Candidates(*(torch.cat([a[alone], b]) for a, b in zip(pairs, settled, strict=True)))


def _inside(points: Tensor, boxes: Tensor) -> Tensor:
    """(n, L) bool: whether points (L, 2) lie in boxes (n, 4)."""
    x, y = points.T
    x1, y1, x2, y2 = boxes.T[..., None]
    inside: Tensor = (x - x1 > INSIDE) & (x2 - x > INSIDE) & (y - y1 > INSIDE) & (y2 - y > INSIDE)
    return inside


def _pairs(
    object_: Tensor, place: Tensor, scores: Tensor, boxes: Tensor, target: Target, config: AssignerConfig
) -> Candidates:
    iou = box_iou(target.boxes[object_], boxes[place])
    score = scores[target.labels[object_], place]
    return Candidates(object_, place, score**config.score_power * iou**config.iou_power, iou)


def _fittest(pairs: Candidates, number: int) -> Candidates:
    """The ``number`` fittest places of each object; pairs come and go sorted by object."""
    order = pairs.fitness.argsort(descending=True, stable=True)
    order = order[pairs.object[order].argsort(stable=True)]  # by object, the fittest first
    at = torch.arange(len(order), device=order.device)
    rank = at - torch.searchsorted(pairs.object, pairs.object)  # within the object, which begins at the same row
    return Candidates(*(column[order[rank < number]] for column in pairs))


def _quality(pairs: Candidates, objects: int) -> Tensor:
    """Fitness scaled so that an object's fittest place has the object's largest IoU."""
    fitness, iou = (
        pairs.fitness.new_zeros(objects).scatter_reduce(0, pairs.object, values, "amax")
        for values in (pairs.fitness, pairs.iou)
    )
    return pairs.fitness / (fitness + EPS)[pairs.object] * iou[pairs.object]
