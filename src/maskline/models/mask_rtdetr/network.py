"""Mask-RT-DETR: backbone, hybrid encoder, query decoder; image to detections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from maskline.models.backbones.hgnetv2 import HGNetV2, HGNetV2Config
from maskline.models.layers import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from maskline.models.mask_rtdetr.decoder import QueryDecoder, TrainingOutput, gather, masks_from
from maskline.models.mask_rtdetr.denoising import Noise, UnitTarget
from maskline.models.mask_rtdetr.encoder import HybridEncoder
from maskline.models.mask_rtdetr.loss import LossConfig, losses
from maskline.models.network import Decisive, Detections, Network, Normalizer, Target, local_normalizer
from maskline.runtime.mask_layout import MaskLayout


@dataclass(frozen=True, slots=True)
class MaskRTDETRConfig:
    """Configuration; the first fields differ between sizes, the rest is the same for all five."""

    backbone: HGNetV2Config
    neck_channels: int = 256
    neck_attention_stride: int = 32
    num_encoder_layers: int = 1
    encoder_feedforward_dim: int = 1024
    neck_expansion: float = 1.0
    mask_channels: tuple[int, int] = (64, 64)
    num_prototypes: int = 128
    num_heads: int = 8
    hidden_dim: int = 256
    num_decoder_layers: int = 6
    feedforward_dim: int = 1024
    num_points: int = 4
    num_queries: int = 300
    max_detections: int = 100
    noise: Noise = field(default_factory=Noise)
    loss: LossConfig = field(default_factory=LossConfig)


CONFIGS = {
    "Mask-RT-DETR-S": MaskRTDETRConfig(
        HGNetV2Config((24, 32), (64, 256, 512, 1024), (32, 48, 96, 192), (1, 1, 2, 1), num_layers=3),
        neck_attention_stride=16,
        neck_expansion=0.5,
        mask_channels=(64, 32),
    ),
    "Mask-RT-DETR-M": MaskRTDETRConfig(
        HGNetV2Config((24, 32), (96, 384, 768, 1536), (32, 64, 128, 256), (1, 1, 3, 1), num_layers=4),
        neck_attention_stride=16,
        neck_expansion=0.5,
    ),
    "Mask-RT-DETR-L": MaskRTDETRConfig(
        HGNetV2Config((32, 48), (128, 512, 1024, 2048), (48, 96, 192, 384), (1, 1, 3, 1), num_layers=6),
        num_prototypes=32,
    ),
    "Mask-RT-DETR-X": MaskRTDETRConfig(
        HGNetV2Config((32, 64), (128, 512, 1024, 2048), (64, 128, 256, 512), (1, 2, 5, 2), num_layers=6),
        neck_channels=384,
        encoder_feedforward_dim=2048,
        mask_channels=(128, 128),
    ),
    "Mask-RT-DETR-H": MaskRTDETRConfig(
        HGNetV2Config((48, 96), (192, 512, 1024, 2048), (96, 192, 384, 768), (2, 3, 6, 3), num_layers=6),
        neck_channels=512,
        num_encoder_layers=2,
        encoder_feedforward_dim=2048,
        mask_channels=(256, 128),
    ),
}


class MaskRTDETR(Network):
    """The network. Pixels are RGB in [0, 1]; height and width are multiples of 32."""

    config: MaskRTDETRConfig
    mask_layout = MaskLayout()

    def __init__(self, config: MaskRTDETRConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.backbone = HGNetV2(config.backbone)
        self.neck = HybridEncoder(
            config.backbone.out_channels,
            hidden_dim=config.neck_channels,
            num_heads=config.num_heads,
            attention_stride=config.neck_attention_stride,
            num_layers=config.num_encoder_layers,
            feedforward_dim=config.encoder_feedforward_dim,
            expansion=config.neck_expansion,
            mask_channels=config.mask_channels,
            num_prototypes=config.num_prototypes,
        )
        self.decoder = QueryDecoder(
            config.neck_channels,
            num_classes=num_classes,
            num_prototypes=config.num_prototypes,
            hidden_dim=config.hidden_dim,
            num_heads=config.num_heads,
            num_layers=config.num_decoder_layers,
            feedforward_dim=config.feedforward_dim,
            num_points=config.num_points,
            num_queries=config.num_queries,
            noise=config.noise,
        )

    def forward(self, image: Tensor) -> Detections:
        """Image (B, 3, H, W) to the best ``max_detections`` of queries x classes; a query may have several classes.

        No NMS, no clipping. Masks are logits over the whole input, at stride 4.
        """
        H, W = image.shape[-2:]
        levels, prototypes = self.neck(self.backbone(image))
        logits, boxes, embedding = self.decoder(levels, prototypes)
        best = logits.flatten(1).topk(self.config.max_detections, dim=1)  # over queries x classes
        query = best.indices // self.num_classes
        size = torch.tensor([W, H, W, H], dtype=boxes.dtype, device=boxes.device)
        return Detections(
            box_cxcywh_to_xyxy(gather(boxes, query)) * size,
            best.values.sigmoid(),
            best.indices % self.num_classes,
            masks_from(gather(embedding, query), prototypes),
        )

    def losses(
        self, image: Tensor, targets: list[Target], *, normalizer: Normalizer = local_normalizer
    ) -> dict[str, Tensor]:
        """See `Network`. The normalizer counts objects."""
        H, W = image.shape[-2:]
        targets_in_unit = [in_unit(target, (H, W)) for target in targets]
        objects = normalizer(image.new_tensor(sum(len(t.labels) for t in targets), dtype=torch.float32))
        output = self.forward_train(image, targets_in_unit)
        return losses(output, targets_in_unit, config=self.config.loss, instances=objects)

    def forward_train(self, image: Tensor, targets: list[UnitTarget]) -> TrainingOutput:
        """Image (B, 3, H, W) and B targets to all predictions that enter the loss."""
        levels, prototypes = self.neck(self.backbone(image))
        return self.decoder.forward_train(levels, prototypes, targets)

    def decisive(self) -> list[Decisive]:
        """See `Network`."""
        return [Decisive(self.decoder.class_head, -3.0, 2.0)]

    def frozen(self) -> Iterator[nn.Module]:
        """The stem, and the batch norms of the backbone's stages."""
        yield self.backbone.stem
        yield from (module for module in self.backbone.stages.modules() if isinstance(module, nn.BatchNorm2d))


def in_unit(target: Target, size: tuple[int, int]) -> UnitTarget:
    """Convert a target's boxes to the decoder's form, for an input of ``size`` (H, W)."""
    scale = target.boxes.new_tensor([size[1], size[0]] * 2)
    return UnitTarget(target.labels, box_xyxy_to_cxcywh(target.boxes) / scale, target.masks)
