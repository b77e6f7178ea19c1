"""Loss of SOLOv2 (arXiv 2003.10152, section 3.3).

* category: focal loss (arXiv 1708.02002) at every cell;
* mask: Dice loss (arXiv 1606.04797) of the masks of positive cells.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from maskline.models.layers import to_fp32
from maskline.models.network import Normalizer, Target, local_normalizer
from maskline.models.solov2.assigner import AssignerConfig, Assignment, assign, reduced
from maskline.models.solov2.decode import STRIDE
from maskline.models.solov2.head import Predictions

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
SMOOTH = 0.001  # added to both squared sums; the Dice loss of empty masks is finite
AT_A_TIME = 1 << 24  # mask cells in memory at once, besides the mask features


@dataclass(frozen=True, slots=True)
class LossConfig:
    """PaddleDetection's values."""

    mask_weight: float = 3.0
    category_weight: float = 1.0
    assigner: AssignerConfig = field(default_factory=AssignerConfig)


def losses(
    predictions: Predictions, targets: list[Target], config: LossConfig, *, normalizer: Normalizer = local_normalizer
) -> dict[str, Tensor]:
    """Return the weighted loss terms; the loss is their sum.

    Args:
        targets: the true objects of each image; any may be empty.
        normalizer: divisor of sums over objects.

    Returns:
        Scalars in float32, all connected to their predictions.
    """
    with torch.autocast(predictions.features.device.type, enabled=False):
        features = to_fp32(predictions.features)
        classes, kernels = (
            torch.cat([to_fp32(level).flatten(2) for level in levels], dim=2).transpose(1, 2)
            for levels in predictions[:2]
        )
        size = features.shape[2] * STRIDE, features.shape[3] * STRIDE
        found = assign(targets, size, tuple(level.shape[-1] for level in predictions.classes), config.assigner)
        masks = torch.cat([reduced(target.masks, size) for target in targets])
        true_classes = class_targets(classes, found, torch.cat([target.labels for target in targets]))
        mask, number = mask_loss(kernels, features, found, masks)
        category = focal_loss(classes, true_classes) / normalizer(true_classes.amax(dim=2).sum() + 1)
        return {
            "loss_ins": config.mask_weight * mask / normalizer(number),
            "loss_cate": config.category_weight * category,
        }


def class_targets(logits: Tensor, found: Assignment, labels: Tensor) -> Tensor:
    """Class targets for logits (B, L, C): 1 for a positive cell in its object's class, else 0.

    A cell with several objects has the class of the last one.
    """
    B, L, C = logits.shape
    last = torch.full((B * L,), -1, device=logits.device)
    last.scatter_reduce_(0, found.image * L + found.cell, found.object, "amax")
    cell = torch.nonzero(last >= 0).flatten()
    true = logits.new_zeros(B * L, C)
    true[cell, labels[last[cell]]] = 1
    return true.view(B, L, C)


def focal_loss(logits: Tensor, true: Tensor) -> Tensor:
    """Focal loss of logits for targets ``true`` of 0 and 1, summed."""
    entropy = F.binary_cross_entropy_with_logits(logits, true, reduction="none")
    scores = logits.sigmoid()
    weight = torch.where(true > 0, FOCAL_ALPHA * (1 - scores) ** FOCAL_GAMMA, (1 - FOCAL_ALPHA) * scores**FOCAL_GAMMA)
    return (weight * entropy).sum()


def mask_loss(kernels: Tensor, features: Tensor, found: Assignment, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Dice loss, summed over pairs of a cell and an object with a non-empty mask, and the number of pairs.

    An image may have thousands of pairs, each with a mask of the whole image, so masks are computed in chunks and
    recomputed for the gradients.

    Args:
        kernels: (B, L, E).
        features: (B, E, h, w).
        masks: (n, h, w) uint8 of all objects of the batch.
    """
    true = masks.flatten(1)
    counts = (true.amax(dim=1) > 0)[found.object]
    image, cell, row = (part[counts] for part in found)
    loss = 0 * (kernels.sum() + features.sum())
    step = max(AT_A_TIME // true.shape[1], 1)
    for i in range(len(features)):
        for some in torch.split(torch.nonzero(image == i).flatten(), step):
            if len(some):
                loss = loss + _dice(kernels[i, cell[some]], features[i].flatten(1), true, row[some])
    return loss, counts.sum()


def _dice(kernels: Tensor, features: Tensor, true: Tensor, row: Tensor) -> Tensor:
    """Dice loss of the masks from kernels (P, E) and features (E, cells) against rows (P,) of ``true``, summed."""

    def compute(kernels: Tensor, features: Tensor) -> Tensor:
        masks, targets = (kernels @ features).sigmoid(), true[row].to(features.dtype)
        shared = (masks * targets).sum(dim=1)
        both = masks.square().sum(dim=1) + targets.sum(dim=1) + 2 * SMOOTH
        return (1 - 2 * shared / both).sum()

    loss: Tensor = checkpoint(compute, kernels, features, use_reentrant=False)
    return loss
