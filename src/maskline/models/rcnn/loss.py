"""What Mask R-CNN is trained to make small: which boxes answer for which objects, and the losses of all heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from maskline.models.iou import box_iou
from maskline.models.layers import to_fp32
from maskline.models.network import Normalizer, Target
from maskline.models.rcnn.boxes import UNIT, Weights, encode
from maskline.models.rcnn.rpn import Predictions
from maskline.models.roi_align import Regions

NEITHER, BACKGROUND, OBJECT = -1, 0, 1  # what a box is taken for
PAIRS = 1 << 23  # compared at a time: an image may have hundreds of objects and 200,000 anchors


@dataclass(frozen=True, slots=True)
class LossConfig:
    """The reference's values.

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
    """Regions to learn from, R in all, image after image."""

    regions: Regions
    labels: Tensor  # (R,) int64; the number of classes for background
    boxes: Tensor  # (R, 4) of the object that each is compared with
    objects: Tensor  # (R,) int64, its row among the image's objects

    def positive(self, num_classes: int) -> Tensor:
        """Rows of those that are objects."""
        return torch.nonzero(self.labels < num_classes).flatten()


# ---- which box answers for which object


@torch.no_grad()
def match(
    boxes: Tensor, target: Target, *, object_from: float, background_below: float, each_object: bool
) -> tuple[Tensor, Tensor]:
    """What boxes (N, 4) are taken for, and the object (its row) that each overlaps most: (N,) int64 twice.

    Args:
        object_from, background_below: IoU.
        each_object: the boxes that overlap an object most are taken for it, however little.
    """
    if not len(target.boxes) or not len(boxes):
        nothing = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        return torch.full_like(nothing, BACKGROUND), nothing
    best, row = torch.full_like(boxes[:, 0], -1), torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    favourite = torch.zeros_like(row, dtype=torch.bool)  # of some object
    first = 0
    for some in torch.split(target.boxes, max(PAIRS // len(boxes), 1)):
        overlap = box_iou(some[:, None], boxes)
        most, own = overlap.max(dim=0)
        best, row = torch.where(most > best, most, best), torch.where(most > best, own + first, row)
        favourite |= ((overlap == overlap.amax(dim=1, keepdim=True)) & (overlap > 0)).any(dim=0)
        first += len(some)
    kind = torch.full_like(row, NEITHER)
    kind[best < background_below] = BACKGROUND
    kind[(best >= object_from) | (favourite if each_object else False)] = OBJECT
    return kind, row


def sample(kind: Tensor, number: int, share: float) -> tuple[Tensor, Tensor]:
    """Rows of objects, ``share`` of ``number`` at most, and of background, up to ``number`` with them."""
    objects, background = (torch.nonzero(kind == wanted).flatten() for wanted in (OBJECT, BACKGROUND))
    objects = choose(objects, int(number * share))
    return objects, choose(background, number - len(objects))


def choose(rows: Tensor, number: int) -> Tensor:
    """``number`` of the rows at random; all, if they are fewer."""
    return rows[torch.randperm(len(rows), device=rows.device)[:number]] if len(rows) > number else rows


def sample_regions(
    proposals: list[Tensor],
    targets: list[Target],
    object_from: float,
    config: LossConfig,
    *,
    num_classes: int,
    first: bool,
) -> Sampled:
    """Regions to learn from.

    Args:
        proposals: of each image, (n, 4).
        object_from: IoU from which on a region is an object; all others are background.
        first: of a cascade's stages only the first samples, and only there the true boxes are proposals too.
    """
    parts = []
    for i, (boxes, target) in enumerate(zip(proposals, targets, strict=True)):
        if first:
            boxes = torch.cat([boxes, target.boxes.to(boxes.dtype)])
        kind, object_ = match(boxes, target, object_from=object_from, background_below=object_from, each_object=False)
        if first:
            rows = torch.cat(sample(kind, config.num_regions, config.region_positive_fraction))
            boxes, kind, object_ = boxes[rows], kind[rows], object_[rows]
        is_object = kind == OBJECT
        labels = torch.full_like(object_, num_classes)
        labels[is_object] = target.labels[object_[is_object]]
        true = boxes.clone()
        true[is_object] = target.boxes[object_[is_object]].to(boxes.dtype)
        parts.append((boxes, torch.full_like(object_, i), labels, true, object_))
    boxes, image, labels, true, objects = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return Sampled(Regions(boxes, image), labels, true, objects)


# ---- losses


def rpn_losses(predictions: Predictions, targets: list[Target], config: LossConfig) -> dict[str, Tensor]:
    """Whether sampled anchors are objects (cross-entropy), and by what deltas those that are miss them (L1)."""
    scores, deltas = torch.cat(predictions.scores, dim=1), torch.cat(predictions.deltas, dim=1)
    anchors = torch.cat(predictions.anchors)
    score, delta = scores.new_zeros(()), scores.new_zeros(())
    for i, target in enumerate(targets):
        kind, object_ = match(
            anchors,
            target,
            object_from=config.anchor_positive_iou,
            background_below=config.anchor_negative_iou,
            each_object=True,
        )
        objects, background = sample(kind, config.num_anchors, config.anchor_positive_fraction)
        rows = torch.cat([objects, background])
        wanted = (torch.arange(len(rows), device=rows.device) < len(objects)).to(scores.dtype)
        score = score + F.binary_cross_entropy_with_logits(scores[i, rows], wanted, reduction="sum")
        true = encode(target.boxes[object_[objects]].to(anchors.dtype), anchors[objects], UNIT)
        delta = delta + (deltas[i, objects] - true).abs().sum()
    number = config.num_anchors * len(targets)
    return {"loss_rpn_cls": score / number, "loss_rpn_reg": delta / number}


def box_losses(
    logits: Tensor, deltas: Tensor, sampled: Sampled, weights: Weights, normalizer: Normalizer
) -> dict[str, Tensor]:
    """Cross-entropy of all sampled regions; L1 of the deltas of those that are objects.

    Args:
        logits: (R, classes + 1), background last.
        deltas: (R, classes or 1, 4).
    """
    logits, deltas = to_fp32(logits), to_fp32(deltas)
    positive = sampled.positive(logits.shape[1] - 1)
    labels = sampled.labels[positive] if deltas.shape[1] > 1 else torch.zeros_like(positive)
    true = encode(sampled.boxes[positive], sampled.regions.boxes[positive], weights)
    total = normalizer(logits.new_tensor(float(len(logits))))
    return {
        "loss_bbox_cls": F.cross_entropy(logits, sampled.labels, reduction="sum") / total,
        "loss_bbox_reg": (deltas[positive, labels] - true).abs().sum() / total,
    }


def mask_loss(
    logits: Tensor, regions: Regions, objects: Tensor, targets: list[Target], normalizer: Normalizer
) -> Tensor:
    """Cross-entropy of masks (R, s, s) of regions with those of their objects."""
    true = true_masks(regions, objects, targets, logits.shape[1]).to(logits.device)
    loss = F.binary_cross_entropy_with_logits(to_fp32(logits), true, reduction="none").mean(dim=(1, 2)).sum()
    return loss / normalizer(loss.new_tensor(float(len(logits))))


@torch.no_grad()
def true_masks(regions: Regions, objects: Tensor, targets: list[Target], side: int) -> Tensor:
    """Masks of objects as seen in the ``side`` x ``side`` cells of regions: (R, side, side) float32, 0 or 1.

    A cell has what the mask, interpolated linearly between the centres of its pixels, is at the cell's centre.
    """
    parts = [regions.boxes.new_zeros(0, side, side)]
    for i, target in enumerate(targets):
        rows = regions.image == i
        parts.append(_seen(target.masks, regions.boxes[rows], objects[rows], side))
    return (torch.cat(parts) >= 0.5).float()


def _seen(masks: Tensor, boxes: Tensor, objects: Tensor, side: int) -> Tensor:
    """Masks (n, H, W) of objects (R,), interpolated at the centres of cells of boxes (R, 4): (R, side, side)."""
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
