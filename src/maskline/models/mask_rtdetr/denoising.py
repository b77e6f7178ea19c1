"""Denoising queries for training (DN-DETR, arXiv 2203.01305): disturbed copies of the true objects.

The plain kind, without negatives: each copy should be turned back into the object it came from.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from maskline.models.layers import clip_probabilities


class UnitTarget(NamedTuple):
    """The true objects of one image, with boxes as the decoder has them (see `maskline.models.network.Target`)."""

    labels: Tensor  # (n,) int64
    boxes: Tensor  # (n, 4) centre and size in [0, 1]
    masks: Tensor  # (n, H, W) 0 or 1, at the network's input size


class Noise(NamedTuple):
    """How many copies, and how far they are moved."""

    num_queries: int = 100  # about so many denoising queries for each image
    label_share: float = 0.25  # share of labels replaced by a random one
    box_scale: float = 1.0  # 1 moves a centre by up to half the box, a side by up to its length


class Denoising(NamedTuple):
    """Denoising queries D = groups x most objects of an image."""

    content: Tensor  # (B, D, C)
    boxes: Tensor  # (B, D, 4) in [0, 1]
    may_attend: Tensor  # (D + Q, D + Q) bool
    positions: list[Tensor]  # for each image, which of its D queries are real: group by group, objects in order
    groups: int


def denoising_queries(targets: list[UnitTarget], embedding: Tensor, queries: int, noise: Noise) -> Denoising | None:
    """Disturbed copies of the targets, in groups that don't see each other; None where no image has an object.

    Args:
        targets: one for each image.
        embedding: (classes, C), a learned content for each class.
        queries: number of ordinary queries, which must not see the copies.
    """
    most = max((len(t.labels) for t in targets), default=0)
    if noise.num_queries <= 0 or most == 0:
        return None
    groups = max(noise.num_queries // most, 1)
    num_classes, device = len(embedding), embedding.device
    labels = torch.full((len(targets), most), num_classes, dtype=torch.int64, device=device)
    boxes = torch.zeros(len(targets), most, 4, device=device)
    for i, target in enumerate(targets):
        labels[i, : len(target.labels)] = target.labels
        boxes[i, : len(target.labels)] = target.boxes
    labels, boxes = labels.repeat(1, groups), boxes.repeat(1, groups, 1)
    real = labels < num_classes
    padded = torch.cat([embedding, embedding.new_zeros(1, embedding.shape[1])])  # a zero row for places left empty
    return Denoising(
        padded[_disturb_labels(labels, real, num_classes, noise.label_share)],
        _disturb_boxes(boxes, noise.box_scale),
        _may_attend(groups, most, queries, device),
        [row.nonzero().flatten() for row in real],
        groups,
    )


def _disturb_labels(labels: Tensor, real: Tensor, num_classes: int, share: float) -> Tensor:
    chosen = (torch.rand(labels.shape, device=labels.device) < share) & real
    return torch.where(chosen, torch.randint_like(labels, num_classes), labels)


def _disturb_boxes(boxes: Tensor, scale: float) -> Tensor:
    """Moved boxes (B, D, 4), pulled back into [0, 1]."""
    size = boxes[..., 2:]
    reach = torch.cat([size * 0.5, size], dim=-1) * scale
    return clip_probabilities(boxes + reach * (torch.rand_like(boxes) * 2 - 1))


def _may_attend(groups: int, most: int, queries: int, device: torch.device) -> Tensor:
    """Everyone sees the ordinary queries; a copy also sees its own group; ordinary queries see no copy."""
    copies = groups * most
    group = torch.arange(copies + queries, device=device) // most
    group[copies:] = -1
    return (group[:, None] == group[None, :]) | (group[None, :] == -1)
