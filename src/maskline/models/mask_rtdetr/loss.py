"""Loss of Mask-RT-DETR.

Computed for the encoder and after each decoder layer, on matched queries and on denoising queries:

* class: varifocal loss (arXiv 2008.13367), whose target is the IoU of query and object, as in RT-DETR
  (arXiv 2304.08069, section 4.3): IoU of masks for the last layer, of boxes for all others;
* box: L1 distance and generalised IoU, as in DETR (arXiv 2005.12872, section 3.1);
* mask: cross-entropy and dice at random points, most of them where the mask is uncertain, as in Mask DINO
  (arXiv 2206.02777) and PointRend (arXiv 1912.08193, section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from maskline.models.iou import box_giou, box_iou, dice_loss, mask_iou, point_sample
from maskline.models.layers import box_cxcywh_to_xyxy, to_fp32
from maskline.models.mask_rtdetr.decoder import Prediction, TrainingOutput
from maskline.models.mask_rtdetr.denoising import UnitTarget
from maskline.models.mask_rtdetr.matcher import LossWeights, Matches, Objects, denoising_pairs, match

PARTS = ("class", "bbox", "giou", "mask", "dice")  # names as in PaddleDetection's logs, in the order of LossWeights
VARIFOCAL_ALPHA, VARIFOCAL_GAMMA = 0.75, 2.0


@dataclass(frozen=True, slots=True)
class LossConfig:
    """PaddleDetection's values."""

    weights: LossWeights = field(default_factory=LossWeights)
    match_weights: LossWeights = field(default_factory=LossWeights)
    num_points: int = 112 * 112  # per mask
    oversample_ratio: float = 3.0  # candidates for uncertain points / all points
    importance_sample_ratio: float = 0.75  # fraction of uncertain points; the rest is uniform


def losses(
    output: TrainingOutput,
    targets: list[UnitTarget],
    *,
    config: LossConfig | None = None,
    instances: float | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Return the weighted loss terms; the loss is their sum.

    Args:
        output: of the network's ``forward_train`` for these targets.
        targets: the true objects of each image; any may be empty.
        instances: divisor of sums over objects; default: the number of objects in ``targets``, at least 1. If
            gradients are averaged over N processes or micro-batches, pass max(1, objects in all of them) / N to each;
            the result equals that of one batch.
        generator: for the random points; on the device of ``output``.

    Returns:
        ``loss_PART`` of the last layer for each of PARTS, ``loss_PART_aux`` summed over the others, and both with
        suffix ``_dn`` for denoising queries (0 without any); float32 scalars, all connected to their predictions.
    """
    config = config or LossConfig()
    total = max(sum(len(t.labels) for t in targets), 1) if instances is None else instances
    predictions = [output.encoder, *output.layers]
    with torch.autocast(output.encoder.logits.device.type, enabled=False):
        objects = Objects.of(targets)
        shape = (len(targets), config.num_points)
        pairs = [
            match(p, objects, random_points(*shape, like=p.boxes, generator=generator), config.match_weights)
            for p in predictions
        ]
        ordinary = layer_losses(predictions, pairs, objects, config, generator) / total
        denoising = torch.zeros_like(ordinary)
        if output.groups is not None:
            same = [denoising_pairs(output.groups, objects)] * len(output.denoising)
            copies = total * output.groups.groups
            denoising = layer_losses(output.denoising, same, objects, config, generator) / copies
    return _named(ordinary, "") | _named(denoising, "_dn")


def _named(layers: Tensor, suffix: str) -> dict[str, Tensor]:
    """Name the losses (layers, parts) of the last layer, and their sums over the others."""
    last = {f"loss_{part}{suffix}": loss for part, loss in zip(PARTS, layers[-1], strict=True)}
    return last | {f"loss_{part}_aux{suffix}": loss for part, loss in zip(PARTS, layers[:-1].sum(dim=0), strict=True)}


def layer_losses(
    predictions: list[Prediction],
    pairs: list[Matches],
    objects: Objects,
    config: LossConfig,
    generator: torch.Generator | None,
) -> Tensor:
    """Losses (layers, parts), weighted, summed over objects."""
    fits = [box_fit] * (len(predictions) - 1) + [mask_fit]
    layers = [
        torch.stack(
            [
                class_loss(prediction, found, objects, fit(prediction, found, objects)),
                *box_losses(prediction, found, objects),
                *mask_losses(prediction, found, objects, config, generator),
            ]
        )
        for prediction, found, fit in zip(predictions, pairs, fits, strict=True)
    ]
    return torch.stack(layers) * layers[0].new_tensor(config.weights)


@torch.no_grad()
def box_fit(prediction: Prediction, pairs: Matches, objects: Objects) -> Tensor:
    """IoU (K,) in [0, 1] of each pair's boxes."""
    boxes = to_fp32(prediction.boxes[pairs.image, pairs.query])
    return box_iou(box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(objects.boxes[pairs.object]))


@torch.no_grad()
def mask_fit(prediction: Prediction, pairs: Matches, objects: Objects) -> Tensor:
    """IoU (K,) in [0, 1] of each pair's masks, at twice the resolution of the predicted ones."""
    h, w = prediction.masks.shape[-2:]
    true = objects.resized_masks((2 * h, 2 * w))
    logits = to_fp32(prediction.masks[pairs.image, pairs.query])[:, None]  # (K, 1, h, w)
    return mask_iou(F.interpolate(logits, scale_factor=2, mode="bilinear")[:, 0], true[pairs.object])


def class_loss(prediction: Prediction, pairs: Matches, objects: Objects, fit: Tensor) -> Tensor:
    """Varifocal loss, summed over all queries and classes.

    The target of a matched query in its object's class is ``fit`` (K,), also its weight. All other targets are 0, with
    a weight that falls with the score.
    """
    logits = to_fp32(prediction.logits)
    place = (pairs.image, pairs.query, objects.labels[pairs.object])
    target, positive = torch.zeros_like(logits), torch.zeros_like(logits, dtype=torch.bool)
    target[place], positive[place] = fit.to(logits.dtype), True
    weight = torch.where(positive, target, VARIFOCAL_ALPHA * logits.sigmoid() ** VARIFOCAL_GAMMA)
    return (weight * F.binary_cross_entropy_with_logits(logits, target, reduction="none")).sum()


def box_losses(prediction: Prediction, pairs: Matches, objects: Objects) -> tuple[Tensor, Tensor]:
    """L1 distance of centre and size, and 1 - generalised IoU, summed over pairs."""
    boxes = to_fp32(prediction.boxes[pairs.image, pairs.query])
    true = objects.boxes[pairs.object]
    return (boxes - true).abs().sum(), (1 - box_giou(box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(true))).sum()


def mask_losses(
    prediction: Prediction, pairs: Matches, objects: Objects, config: LossConfig, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy and dice loss at random points, summed over pairs."""
    masks = to_fp32(prediction.masks[pairs.image, pairs.query])[:, None]  # (K, 1, h, w)
    points = training_points(masks.detach(), config, generator)
    logits, true = point_sample(masks, points)[:, 0], objects.masks_at(pairs.object, points).to(masks.dtype)  # (K, P)
    entropy = F.binary_cross_entropy_with_logits(logits, true, reduction="none").mean(dim=1).sum()
    score = logits.sigmoid()
    return entropy, dice_loss((score * true).sum(dim=1), (score + true).sum(dim=1)).sum()


@torch.no_grad()
def training_points(masks: Tensor, config: LossConfig, generator: torch.Generator | None) -> Tensor:
    """Draw points (K, P, 2) in [0, 1] for mask logits (K, 1, h, w): random ones with logits near 0, then uniform."""
    uncertain = int(config.num_points * config.importance_sample_ratio)
    candidates = random_points(
        len(masks), int(config.num_points * config.oversample_ratio), like=masks, generator=generator
    )
    certainty = point_sample(masks, candidates)[:, 0].abs()
    nearest = certainty.topk(uncertain, dim=1, largest=False, sorted=False).indices
    anywhere = random_points(len(masks), config.num_points - uncertain, like=masks, generator=generator)
    return torch.cat([candidates.gather(1, nearest[..., None].expand(-1, -1, 2)), anywhere], dim=1)


def random_points(rows: int, points: int, *, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """(rows, points, 2), uniform in [0, 1)."""
    return torch.rand((rows, points, 2), device=like.device, generator=generator)
