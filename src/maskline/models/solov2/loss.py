"""What SOLOv2 is trained to make small (arXiv 2003.10152, section 3.3).

* category: focal loss (arXiv 1708.02002) at every cell;
* mask: Dice loss (arXiv 1606.04797) of the masks of cells that answer for an object.
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
SMOOTH = 0.001  # cells: keeps the Dice loss of empty masks finite
AT_A_TIME = 1 << 24  # cells of masks that are in memory together, besides those of the map they are made from


@dataclass(frozen=True, slots=True)
class LossConfig:
    """The reference's values."""

    mask: float = 3.0
    category: float = 1.0
    assigner: AssignerConfig = field(default_factory=AssignerConfig)


def losses(
    predictions: Predictions, targets: list[Target], config: LossConfig, *, normalizer: Normalizer = local_normalizer
) -> dict[str, Tensor]:
    """Parts of the loss, weighted: the loss is their sum.

    Args:
        targets: the true objects of each image; images without any are legal, also all of them.
        normalizer: what sums over objects are divided by.

    Returns:
        Scalars in float32, each connected with its predictions.
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
        wanted = wanted_classes(classes, found, torch.cat([target.labels for target in targets]))
        mask, number = mask_loss(kernels, features, found, masks)
        category = focal_loss(classes, wanted) / normalizer(wanted.amax(dim=2).sum() + 1)
        return {"loss_ins": config.mask * mask / normalizer(number), "loss_cate": config.category * category}


def wanted_classes(logits: Tensor, found: Assignment, labels: Tensor) -> Tensor:
    """Which logits (B, L, C) should be high: 1 at cells that answer for an object, in its class, else 0.

    A cell that answers for several objects has the class of the last one.
    """
    B, L, C = logits.shape
    last = torch.full((B * L,), -1, device=logits.device)
    last.scatter_reduce_(0, found.image * L + found.cell, found.object, "amax")
    cell = torch.nonzero(last >= 0).flatten()
    wanted = logits.new_zeros(B * L, C)
    wanted[cell, labels[last[cell]]] = 1
    return wanted.view(B, L, C)


def focal_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Focal loss of logits, which should be high where ``wanted`` is 1 and low where it is 0, summed."""
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    scores = logits.sigmoid()
    wrong = torch.where(wanted > 0, FOCAL_ALPHA * (1 - scores) ** FOCAL_GAMMA, (1 - FOCAL_ALPHA) * scores**FOCAL_GAMMA)
    return (wrong * entropy).sum()


def mask_loss(kernels: Tensor, features: Tensor, found: Assignment, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Dice loss, summed over pairs of a cell and an object whose mask has cells, and their number.

    An image may have thousands of pairs, each with a mask of the whole image. They are made some at a time, and once
    more for the gradients.

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
    """Dice loss of masks made by kernels (P, E) of features (E, cells), for rows (P,) of ``true``, summed."""

    def compute(kernels: Tensor, features: Tensor) -> Tensor:
        masks, wanted = (kernels @ features).sigmoid(), true[row].to(features.dtype)
        shared = (masks * wanted).sum(dim=1)
        both = masks.square().sum(dim=1) + wanted.sum(dim=1) + 2 * SMOOTH
        return (1 - 2 * shared / both).sum()

    loss: Tensor = checkpoint(compute, kernels, features, use_reentrant=False)
    return loss
