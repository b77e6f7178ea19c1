"""Loss of Mask R-CNN: matching and sampling of anchors and regions, and the losses of all heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from maskline.models.iou import box_iou
from maskline.models.layers import to_fp32
from maskline.models.network import Normalizer, Target
from maskline.models.rcnn.boxes import UNIT, DeltaWeights, encode_boxes
from maskline.models.rcnn.rpn import Predictions
from maskline.models.roi_align import Regions

IGNORED, NEGATIVE, POSITIVE = -1, 0, 1  # kinds of anchors and regions
PAIRS = 1 << 23  # pairs of box and object compared at a time: an image may have hundreds of objects and 200,000 anchors


@dataclass(frozen=True, slots=True)
class LossConfig:
    """PaddleDetection's values.

    Attributes:
        num_anchors: sampled per image for the RPN loss.
        anchor_positive_fraction: largest share of positives among them.
        anchor_positive_iou: an anchor is positive from this IoU with an object; so are each object's best anchors.
        anchor_negative_iou: an anchor is negative below this IoU with every object.
        num_regions: sampled per image for the first box head.
        region_positive_fraction: largest share of positives among them.
    """

    num_anchors: int = 256
    anchor_positive_fraction: float = 0.5
    anchor_positive_iou: float = 0.7
    anchor_negative_iou: float = 0.3
    num_regions: int = 512
    region_positive_fraction: float = 0.25


class Sampled(NamedTuple):
    """R sampled regions, in order of images."""

    regions: Regions
    labels: Tensor  # (R,) int64; the number of classes for background
    boxes: Tensor  # (R, 4) of the matched objects
    objects: Tensor  # (R,) int64, index among the image's objects

    def positive(self, num_classes: int) -> Tensor:
        """Indices of positive regions."""
        return torch.nonzero(self.labels < num_classes).flatten()


# ---- matching and sampling


@torch.no_grad()
def match(
    boxes: Tensor, target: Target, *, positive_iou: float, negative_iou: float, allow_low_quality_matches: bool
) -> tuple[Tensor, Tensor]:
    """Match boxes (N, 4) to objects: kind and index of the object with the largest IoU, both (N,) int64.

    Args:
        positive_iou: boxes with at least this IoU are positive.
        negative_iou: boxes below this IoU are negative.
        allow_low_quality_matches: the boxes with the largest IoU with an object are positive, however small it is.
    """
    if not len(target.boxes) or not len(boxes):
        nothing = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        return torch.full_like(nothing, NEGATIVE), nothing
    best, row = torch.full_like(boxes[:, 0], -1), torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    favourite = torch.zeros_like(row, dtype=torch.bool)  # has the largest IoU with some object
    first = 0
    for some in torch.split(target.boxes, max(PAIRS // len(boxes), 1)):
        overlap = box_iou(some[:, None], boxes)
        most, own = overlap.max(dim=0)
        best, row = torch.where(most > best, most, best), torch.where(most > best, own + first, row)
        favourite |= ((overlap == overlap.amax(dim=1, keepdim=True)) & (overlap > 0)).any(dim=0)
        first += len(some)
    kind = torch.full_like(row, IGNORED)
    kind[best < negative_iou] = NEGATIVE
    kind[(best >= positive_iou) | (favourite if allow_low_quality_matches else False)] = POSITIVE
    return kind, row


def subsample(kind: Tensor, number: int, share: float) -> tuple[Tensor, Tensor]:
    """Sample rows of positives, at most ``share`` of ``number``, and of negatives, up to ``number`` in all."""
    objects, background = (torch.nonzero(kind == k).flatten() for k in (POSITIVE, NEGATIVE))
    objects = random_rows(objects, int(number * share))
    return objects, random_rows(background, number - len(objects))


def random_rows(rows: Tensor, number: int) -> Tensor:
    """Draw ``number`` rows at random; all, if there are fewer."""
    return rows[torch.randperm(len(rows), device=rows.device)[:number]] if len(rows) > number else rows


def sample_regions(
    proposals: list[Tensor],
    targets: list[Target],
    positive_iou: float,
    config: LossConfig,
    *,
    num_classes: int,
    first: bool,
) -> Sampled:
    """Sample and label the regions for the box head.

    Args:
        proposals: (n, 4) per image.
        positive_iou: regions with at least this IoU with an object are positive, all others negative.
        first: first stage of a cascade, the only one that samples and adds the true boxes to the proposals.
    """
    parts = []
    for i, (boxes, target) in enumerate(zip(proposals, targets, strict=True)):
        if first:
            boxes = torch.cat([boxes, target.boxes.to(boxes.dtype)])
        kind, object_ = match(
            boxes, target, positive_iou=positive_iou, negative_iou=positive_iou, allow_low_quality_matches=False
        )
        if first:
            rows = torch.cat(subsample(kind, config.num_regions, config.region_positive_fraction))
            boxes, kind, object_ = boxes[rows], kind[rows], object_[rows]
        is_object = kind == POSITIVE
        labels = torch.full_like(object_, num_classes)
        labels[is_object] = target.labels[object_[is_object]]
        true = boxes.clone()
        true[is_object] = target.boxes[object_[is_object]].to(boxes.dtype)
        parts.append((boxes, torch.full_like(object_, i), labels, true, object_))
    boxes, image, labels, true, objects = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return Sampled(Regions(boxes, image), labels, true, objects)


# ---- losses


def rpn_losses(predictions: Predictions, targets: list[Target], config: LossConfig) -> dict[str, Tensor]:
    """Cross-entropy of sampled anchors, and L1 loss of the deltas of positive ones."""
    scores, deltas = torch.cat(predictions.scores, dim=1), torch.cat(predictions.deltas, dim=1)
    anchors = torch.cat(predictions.anchors)
    score, delta = scores.new_zeros(()), scores.new_zeros(())
    for i, target in enumerate(targets):
        kind, object_ = match(
            anchors,
            target,
            positive_iou=config.anchor_positive_iou,
            negative_iou=config.anchor_negative_iou,
            allow_low_quality_matches=True,
        )
        objects, background = subsample(kind, config.num_anchors, config.anchor_positive_fraction)
        rows = torch.cat([objects, background])
        true_scores = (torch.arange(len(rows), device=rows.device) < len(objects)).to(scores.dtype)
        score = score + F.binary_cross_entropy_with_logits(scores[i, rows], true_scores, reduction="sum")
        true = encode_boxes(target.boxes[object_[objects]].to(anchors.dtype), anchors[objects], UNIT)
        delta = delta + (deltas[i, objects] - true).abs().sum()
    number = config.num_anchors * len(targets)
    return {"loss_rpn_cls": score / number, "loss_rpn_reg": delta / number}


def box_losses(
    logits: Tensor, deltas: Tensor, sampled: Sampled, weights: DeltaWeights, normalizer: Normalizer
) -> dict[str, Tensor]:
    """Cross-entropy of sampled regions, and L1 loss of the deltas of positive ones.

    Args:
        logits: (R, classes + 1), background last.
        deltas: (R, classes or 1, 4).
    """
    logits, deltas = to_fp32(logits), to_fp32(deltas)
    positive = sampled.positive(logits.shape[1] - 1)
    labels = sampled.labels[positive] if deltas.shape[1] > 1 else torch.zeros_like(positive)
    true = encode_boxes(sampled.boxes[positive], sampled.regions.boxes[positive], weights)
    total = normalizer(logits.new_tensor(float(len(logits))))
    return {
        "loss_bbox_cls": F.cross_entropy(logits, sampled.labels, reduction="sum") / total,
        "loss_bbox_reg": (deltas[positive, labels] - true).abs().sum() / total,
    }


def mask_loss(
    logits: Tensor, regions: Regions, objects: Tensor, targets: list[Target], normalizer: Normalizer
) -> Tensor:
    """Cross-entropy of the masks (R, s, s) of regions."""
    true = true_masks(regions, objects, targets, logits.shape[1]).to(logits.device)
    loss = F.binary_cross_entropy_with_logits(to_fp32(logits), true, reduction="none").mean(dim=(1, 2)).sum()
    return loss / normalizer(loss.new_tensor(float(len(logits))))


@torch.no_grad()
def true_masks(regions: Regions, objects: Tensor, targets: list[Target], side: int) -> Tensor:
    """Crop the masks of objects to regions, at ``side`` x ``side`` cells: (R, side, side) float32, 0 or 1.

    Masks are sampled at cell centres, bilinear.
    """
    parts = [regions.boxes.new_zeros(0, side, side)]
    for i, target in enumerate(targets):
        rows = regions.image == i
        parts.append(_seen(target.masks, regions.boxes[rows], objects[rows], side))
    return (torch.cat(parts) >= 0.5).float()


def _seen(masks: Tensor, boxes: Tensor, objects: Tensor, side: int) -> Tensor:
    """Sample masks (n, H, W) of objects (R,) at the cell centres of boxes (R, 4), bilinear: (R, side, side)."""
    _, H, W = masks.shape
    cell = (torch.arange(side, device=boxes.device, dtype=boxes.dtype) + 0.5) / side
    x, y = (
        low + cell * (high - low) - 0.5
        for low, high in (boxes[:, 0::2, None].unbind(1), boxes[:, 1::2, None].unbind(1))
    )
    x, y = x.clamp(0, W - 1), y.clamp(0, H - 1)
    left, top = x.floor().long(), y.floor().long()
    right, bottom = (left + 1).clamp(max=W - 1), (top + 1).clamp(max=H - 1)
    across, down = (x - left)[:, None, :], (y - top)[:, :, None]
    first = objects[:, None, None]

    def row(at: Tensor) -> Tensor:
        near, far = (masks[first, at[:, :, None], columns[:, None, :]].to(boxes.dtype) for columns in (left, right))
        return near + (far - near) * across

    upper, lower = row(top), row(bottom)
    return upper + (lower - upper) * down
