"""Denoising queries for training (DN-DETR, arXiv 2203.01305): noisy copies of the true objects.

The original kind, without negatives: each query should reconstruct its object.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from maskline.models.layers import clip_probabilities


class UnitTarget(NamedTuple):
    """The true objects of one image, with boxes in the decoder's form (see `maskline.models.network.Target`)."""

    labels: Tensor  # (n,) int64
    boxes: Tensor  # (n, 4) centre and size in [0, 1]
    masks: Tensor  # (n, H, W) 0 or 1, at the network's input size


class Noise(NamedTuple):
    """Number of denoising queries, and amount of noise."""

    num_queries: int = 100  # approximate number of denoising queries per image
    label_noise_ratio: float = 0.25  # fraction of labels replaced at random
    box_noise_scale: float = 1.0  # 1: centres move by up to half the box, sides change by up to their length


class Denoising(NamedTuple):
    """D denoising queries per image: groups x largest number of objects in an image."""

    content: Tensor  # (B, D, C)
    boxes: Tensor  # (B, D, 4) in [0, 1]
    may_attend: Tensor  # (D + Q, D + Q) bool
    positions: list[Tensor]  # per image, indices of its real queries: by group, objects in order
    groups: int


def denoising_queries(targets: list[UnitTarget], embedding: Tensor, queries: int, noise: Noise) -> Denoising | None:
    """Make noisy copies of the targets, in groups that don't attend to each other; None if no image has objects.

    Args:
        targets: one per image.
        embedding: (classes, C), learned content per class.
        queries: number of ordinary queries, which must not attend to denoising queries.
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
    padded = torch.cat([embedding, embedding.new_zeros(1, embedding.shape[1])])  # a zero row for padding
    return Denoising(
        padded[_disturb_labels(labels, real, num_classes, noise.label_noise_ratio)],
        _disturb_boxes(boxes, noise.box_noise_scale),
        _may_attend(groups, most, queries, device),
        [row.nonzero().flatten() for row in real],
        groups,
    )


def _disturb_labels(labels: Tensor, real: Tensor, num_classes: int, share: float) -> Tensor:
    chosen = (torch.rand(labels.shape, device=labels.device) < share) & real
    return torch.where(chosen, torch.randint_like(labels, num_classes), labels)


def _disturb_boxes(boxes: Tensor, scale: float) -> Tensor:
    """Add noise to boxes (B, D, 4), clipped to [0, 1]."""
    size = boxes[..., 2:]
    reach = torch.cat([size * 0.5, size], dim=-1) * scale
    return clip_probabilities(boxes + reach * (torch.rand_like(boxes) * 2 - 1))


def _may_attend(groups: int, most: int, queries: int, device: torch.device) -> Tensor:
    """Attention mask: all attend to ordinary queries; denoising queries also to their own group."""
    copies = groups * most
    group = torch.arange(copies + queries, device=device) // most
    group[copies:] = -1
    return (group[:, None] == group[None, :]) | (group[None, :] == -1)
