"""The region proposal network (Faster R-CNN, arXiv 1506.01497, section 3), on one map or a feature pyramid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskline.models.fpn import STRIDES
from maskline.models.layers import to_fp32
from maskline.models.nms import LOWEST, batched_nms
from maskline.models.rcnn.boxes import UNIT, anchors_of, base_anchors, clip_boxes, decode_boxes

SMALLEST_SIDE = 1.0  # pixels; smaller boxes are not proposals


@dataclass(frozen=True, slots=True)
class AnchorConfig:
    """Anchors. ``sizes``: sides in pixels, per level; ``ratios``: height / width."""

    strides: tuple[int, ...] = STRIDES
    sizes: tuple[tuple[int, ...], ...] = ((32,), (64,), (128,), (256,), (512,))
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class ProposalConfig:
    """Limits on proposals.

    Attributes:
        pre_nms_top_n: anchors per level that enter NMS.
        post_nms_top_n: proposals per level that NMS keeps.
        max_proposals: proposals per image.
        iou_threshold: of NMS, within a level.
    """

    pre_nms_top_n: int = 1000
    post_nms_top_n: int = 1000
    max_proposals: int = 1000
    iou_threshold: float = 0.7


class Predictions(NamedTuple):
    """Predictions for all anchors, by level, finest first, row by row."""

    scores: list[Tensor]  # per level, (B, l) objectness logits
    deltas: list[Tensor]  # per level, (B, l, 4)
    anchors: list[Tensor]  # per level, (l, 4) in pixels


class RPN(nn.Module):
    """Levels to objectness and deltas of their anchors."""

    def __init__(self, channels: int, config: AnchorConfig) -> None:
        super().__init__()
        number = len(config.sizes[0]) * len(config.ratios)
        self.config = config
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.score = nn.Conv2d(channels, number, 1)
        self.delta = nn.Conv2d(channels, 4 * number, 1)
        for layer in (self.conv, self.score, self.delta):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, levels: list[Tensor]) -> Predictions:
        """levels: each (B, C, h, w)."""
        scores, deltas, anchors = [], [], []
        for x, stride, sizes in zip(levels, self.config.strides, self.config.sizes, strict=True):
            hidden = F.relu(self.conv(x))
            score, delta = (to_fp32(layer(hidden)).permute(0, 2, 3, 1) for layer in (self.score, self.delta))
            scores.append(score.flatten(1))
            deltas.append(delta.reshape(x.shape[0], -1, 4))
            base = base_anchors(sizes, self.config.ratios).to(x.device, scores[-1].dtype)
            anchors.append(anchors_of(base, score[0, ..., 0], stride))
        return Predictions(scores, deltas, anchors)


def propose(predictions: Predictions, size: Tensor, config: ProposalConfig) -> tuple[Tensor, Tensor]:
    """Select proposals by objectness and NMS, best first.

    Args:
        predictions: of the RPN.
        size: (B, 2) height and width of each image inside the input, in pixels.

    Returns:
        Boxes (B, N, 4), and a mask of the valid rows (B, N) bool.
    """
    found = [candidates(*level, size, config.pre_nms_top_n) for level in zip(*predictions, strict=True)]
    boxes, scores = (torch.stack(parts, dim=1) for parts in zip(*found, strict=True))  # (B, levels, candidates, ...)
    stays = batched_nms(
        boxes.flatten(0, 1),
        scores.flatten(0, 1)[:, None],
        iou_threshold=config.iou_threshold,
        max_detections=config.post_nms_top_n,
    )
    scores = torch.where(stays.view_as(scores), scores, -torch.inf).flatten(1)
    best = scores.topk(min(config.max_proposals, scores.shape[1]), dim=1)
    return boxes.flatten(1, 2).gather(1, best.indices[..., None].expand(-1, -1, 4)), best.values > LOWEST


def candidates(scores: Tensor, deltas: Tensor, anchors: Tensor, size: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Boxes (B, number, 4) of a level with the best scores (B, number); a score of -inf marks an invalid row."""
    best = F.pad(scores, (0, number), value=-torch.inf).topk(number, dim=1)
    index = best.indices.clamp(max=scores.shape[1] - 1)
    chosen = deltas.gather(1, index[..., None].expand(-1, -1, 4))
    boxes = clip_boxes(decode_boxes(chosen, anchors[index], UNIT), size[:, None])
    large = (boxes[..., 2:] - boxes[..., :2] >= SMALLEST_SIDE).all(dim=-1)
    return boxes, torch.where(large, best.values, -torch.inf)
