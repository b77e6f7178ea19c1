"""PP-YOLOE-seg: backbone, path aggregation, head; image to detections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from maskline.models.backbones.cspresnet import CSPResNet, CSPResNetConfig
from maskline.models.layers import ConvNorm, to_fp32
from maskline.models.network import Decisive, Detections, Network, Normalizer, Target, local_normalizer
from maskline.models.nms import batched_nms
from maskline.models.ppyoloe_seg.head import Head, Predictions
from maskline.models.ppyoloe_seg.loss import LossConfig, boxes_at, losses
from maskline.models.ppyoloe_seg.neck import PathAggregation
from maskline.runtime.mask_layout import MaskLayout


@dataclass(frozen=True, slots=True)
class NMSConfig:
    """Thresholds of NMS, per class; PaddleDetection's values."""

    score_threshold: float = 0.01  # boxes that score no more are dropped
    pre_nms_top_n: int = 1000  # per class
    iou_threshold: float = 0.7  # with a better box of the same class


@dataclass(frozen=True, slots=True)
class PPYOLOESegConfig:
    """Widths and depths. ``neck_channels`` are of strides 32, 16, 8."""

    backbone: CSPResNetConfig
    neck_channels: tuple[int, int, int]
    num_neck_blocks: int = 1
    num_prototypes: int = 32
    prototype_channels: int = 128
    max_detections: int = 300
    upsampled: Literal["probabilities", "logits"] = "probabilities"  # what is upsampled to a mask's pixels
    nms: NMSConfig = field(default_factory=NMSConfig)
    loss: LossConfig = field(default_factory=LossConfig)


CONFIGS = {
    "PP-YOLOE_seg-S": PPYOLOESegConfig(
        CSPResNetConfig(32, (64, 128, 256, 512), (1, 2, 2, 1)), neck_channels=(384, 192, 96)
    ),
    "PP-YOLOE_seg-N": PPYOLOESegConfig(
        CSPResNetConfig(16, (32, 64, 128, 256), (1, 2, 2, 1)),
        neck_channels=(192, 96, 48),
        prototype_channels=32,
        upsampled="logits",
        nms=NMSConfig(iou_threshold=0.6),
        loss=LossConfig(mask_cells="mean", mask_weighting="quality"),
    ),
}


class PPYOLOESeg(Network):
    """The network. Pixels are RGB in [0, 1]; height and width are multiples of 32."""

    config: PPYOLOESegConfig

    def __init__(self, config: PPYOLOESegConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.backbone = CSPResNet(config.backbone)
        self.neck = PathAggregation(
            config.backbone.out_channels[1:], config.neck_channels, num_blocks=config.num_neck_blocks
        )
        self.head = Head(
            config.neck_channels,
            num_classes=num_classes,
            num_prototypes=config.num_prototypes,
            prototype_channels=config.prototype_channels,
        )
        for module in self.modules():
            if isinstance(module, ConvNorm):
                nn.init.kaiming_normal_(module.conv.weight)
        self.head.reset()

    @property
    def mask_layout(self) -> MaskLayout:
        """PaddleDetection upsamples probabilities in two steps; our own model upsamples logits in one."""
        return MaskLayout(beyond_boxes=False, via_input=self.config.upsampled == "probabilities")

    def forward(self, image: Tensor) -> Detections:
        """Image (B, 3, H, W) to the best ``max_detections`` of anchor points x classes, after NMS.

        Boxes are not clipped. Masks cover the whole input, at stride 4, and count inside the box only. They are logits,
        or, with ``upsampled="probabilities"`` as in PaddleDetection, probabilities minus 0.5.
        """
        classes, distances, coefficients, prototypes, anchor_points = self.predict(image)
        boxes = boxes_at(distances, anchor_points, self.head.bins)
        scores, labels, point = self.best(boxes, to_fp32(classes).sigmoid())
        (B, K), (h, w) = point.shape, prototypes.shape[-2:]
        chosen = coefficients.gather(2, point[:, None].expand(-1, self.config.num_prototypes, -1))  # (B, M, K)
        masks = torch.bmm(chosen.transpose(1, 2), prototypes.flatten(2)).view(B, K, h, w)
        if self.config.upsampled == "probabilities":
            masks = masks.sigmoid() - 0.5
        return Detections(boxes.gather(1, point[..., None].expand(-1, -1, 4)), scores, labels, masks)

    def best(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (B, L, 4) and scores (B, C, L) to score, label, anchor point, each (B, max_detections), best first."""
        limits, K, L = self.config.nms, self.config.max_detections, boxes.shape[1]
        if limits.pre_nms_top_n < L:
            least = scores.topk(limits.pre_nms_top_n, dim=2).values[..., -1:]
            scores = torch.where(scores >= least, scores, 0)
        stays = batched_nms(
            boxes, scores, score_threshold=limits.score_threshold, iou_threshold=limits.iou_threshold, max_detections=K
        )
        kept = torch.where(stays, scores, 0).flatten(1)
        if kept.shape[1] < K:
            kept = nn.functional.pad(kept, (0, K - kept.shape[1]))
        best = kept.topk(K, dim=1)
        index = best.indices.clamp(max=self.num_classes * L - 1)
        return best.values, index // L, index % L

    def losses(
        self, image: Tensor, targets: list[Target], *, normalizer: Normalizer = local_normalizer
    ) -> dict[str, Tensor]:
        """See `Network`. The normalizer counts objects."""
        return losses(self.predict(image), targets, bins=self.head.bins, config=self.config.loss, normalizer=normalizer)

    def predict(self, image: Tensor) -> Predictions:
        """Image (B, 3, H, W) to the head's predictions at all anchor points."""
        predictions: Predictions = self.head(self.neck(self.backbone(image)[1:]))
        return predictions

    def decisive(self) -> list[Decisive]:
        """See `Network`."""
        classes = [Decisive(layer, -5.0, 1.5) for layer in self.head.class_heads]
        return [*classes, *(Decisive(layer, 0.0, 1.0) for layer in self.head.box_heads)]

    def frozen(self) -> Iterator[nn.Module]:
        """None."""
        return iter(())
