"""PP-YOLOE-seg: backbone, path aggregation, head; from an image to detections."""

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
    """Which boxes are left out (the reference's values)."""

    score_threshold: float = 0.01  # of what scores no more than this, all
    pre_nms_top_n: int = 1000  # of one class, at most
    iou_threshold: float = 0.7  # IoU with a better box of the same class


@dataclass(frozen=True, slots=True)
class PPYOLOESegConfig:
    """Widths and depths; ``neck`` has the channels of strides 32, 16 and 8."""

    backbone: CSPResNetConfig
    neck: tuple[int, int, int]
    num_neck_blocks: int = 1
    num_prototypes: int = 32
    prototype_inner: int = 128
    max_detections: int = 300
    enlarged: Literal["probabilities", "logits"] = "probabilities"  # which of the two a mask's pixels interpolate
    nms: NMSConfig = field(default_factory=NMSConfig)
    loss: LossConfig = field(default_factory=LossConfig)


CONFIGS = {
    "PP-YOLOE_seg-S": PPYOLOESegConfig(CSPResNetConfig(32, (64, 128, 256, 512), (1, 2, 2, 1)), neck=(384, 192, 96)),
    "PP-YOLOE_seg-N": PPYOLOESegConfig(
        CSPResNetConfig(16, (32, 64, 128, 256), (1, 2, 2, 1)),
        neck=(192, 96, 48),
        prototype_inner=32,
        enlarged="logits",
        nms=NMSConfig(iou_threshold=0.6),
        loss=LossConfig(mask_cells="mean", mask_weights="quality"),
    ),
}


class PPYOLOESeg(Network):
    """The whole network. Pixels are RGB in [0, 1], without mean or deviation; height and width divide by 32."""

    config: PPYOLOESegConfig

    def __init__(self, config: PPYOLOESegConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.backbone = CSPResNet(config.backbone)
        self.neck = PathAggregation(config.backbone.out[1:], config.neck, blocks=config.num_neck_blocks)
        self.head = Head(
            config.neck,
            num_classes=num_classes,
            num_prototypes=config.num_prototypes,
            prototype_inner=config.prototype_inner,
        )
        for module in self.modules():
            if isinstance(module, ConvNorm):
                nn.init.kaiming_normal_(module.conv.weight)
        self.head.reset()

    @property
    def mask_layout(self) -> MaskLayout:
        """PaddleDetection enlarges probabilities in two steps; our own model's logits are enlarged at once."""
        return MaskLayout(beyond_boxes=False, via_input=self.config.enlarged == "probabilities")

    def forward(self, image: Tensor) -> Detections:
        """Image (B, 3, H, W) to the best ``max_detections`` of places x classes, after suppression.

        Boxes are not clipped. Masks lie over the whole input, at stride 4; what is outside the box counts for nothing.
        They are logits, or, where it is probabilities that are to be enlarged, as in the reference, these less a half.
        """
        classes, distances, coefficients, prototypes, places = self.predict(image)
        boxes = boxes_at(distances, places, self.head.bins)
        scores, labels, place = self.best(boxes, to_fp32(classes).sigmoid())
        (B, K), (h, w) = place.shape, prototypes.shape[-2:]
        chosen = coefficients.gather(2, place[:, None].expand(-1, self.config.num_prototypes, -1))  # (B, M, K)
        masks = torch.bmm(chosen.transpose(1, 2), prototypes.flatten(2)).view(B, K, h, w)
        if self.config.enlarged == "probabilities":
            masks = masks.sigmoid() - 0.5
        return Detections(boxes.gather(1, place[..., None].expand(-1, -1, 4)), scores, labels, masks)

    def best(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (B, L, 4) and scores (B, C, L) to score, label and place, each (B, max_detections), best first."""
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
        """Image (B, 3, H, W) to what the head says at every place."""
        predictions: Predictions = self.head(self.neck(self.backbone(image)[1:]))
        return predictions

    def decisive(self) -> list[Decisive]:
        """The layers that decide what is found: see `pinned`."""
        classes = [Decisive(layer, -5.0, 1.5) for layer in self.head.class_heads]
        return [*classes, *(Decisive(layer, 0.0, 1.0) for layer in self.head.box_heads)]

    def frozen(self) -> Iterator[nn.Module]:
        """Parts that training leaves as they are: none."""
        return iter(())
