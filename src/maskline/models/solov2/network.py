"""SOLOv2: backbone, FPN, head; image to detections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskline.models.backbones.resnet import ResNet, ResNetConfig
from maskline.models.fpn import FPN, SIZE_DIVISOR
from maskline.models.layers import to_fp32
from maskline.models.network import Decisive, Detections, Network, Normalizer, Target, local_normalizer
from maskline.models.padding import pad_to_multiple
from maskline.models.solov2.decode import covering, mask_ious, matrix_nms, points_nms, tight_boxes
from maskline.models.solov2.head import Head, MaskFeatures, Predictions
from maskline.models.solov2.loss import LossConfig, losses
from maskline.runtime.mask_layout import MaskLayout


@dataclass(frozen=True, slots=True)
class NMSConfig:
    """Thresholds of mask selection and matrix NMS; PaddleDetection's values."""

    score_threshold: float = 0.1  # class scores at most this are dropped
    min_areas: tuple[int, int, int, int, int] = (
        8,
        8,
        16,
        32,
        32,
    )  # by grid, in cells: masks must be larger
    pre_nms_top_n: int = 500  # largest number of masks that enter matrix NMS
    sigma: float = 2.0  # of matrix NMS
    final_score_threshold: float = 0.05  # after matrix NMS, lower scores are dropped


@dataclass(frozen=True, slots=True)
class SOLOv2Config:
    """Widths and depths. Tuples have an entry per level (strides 4, 8, 16, 32, 64)."""

    backbone: ResNetConfig
    neck_channels: int = 256
    head_channels: int = 512
    num_head_convs: int = 4
    kernel_dim: int = 256
    mask_feature_channels: int = 128
    num_grids: tuple[int, int, int, int, int] = (40, 36, 24, 16, 12)  # cells per side
    max_detections: int = 100
    nms: NMSConfig = field(default_factory=NMSConfig)
    loss: LossConfig = field(default_factory=LossConfig)


CONFIGS = {"SOLOv2": SOLOv2Config(ResNetConfig((3, 4, 6, 3)))}


class SOLOv2(Network):
    """The network. Pixels are RGB, normalised; any height and width, padded here with zeros."""

    config: SOLOv2Config
    mask_layout = MaskLayout(boxes_from_masks=True, beyond_boxes=False)

    def __init__(self, config: SOLOv2Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.backbone = ResNet(config.backbone)
        self.neck = FPN(config.backbone.out_channels, config.neck_channels)
        self.head = Head(
            config.neck_channels,
            config.head_channels,
            num_convs=config.num_head_convs,
            kernel_dim=config.kernel_dim,
            num_classes=num_classes,
        )
        self.mask_features = MaskFeatures(config.neck_channels, config.mask_feature_channels, config.kernel_dim)
        self.head.reset()
        self.mask_features.reset()

    def forward(self, image: Tensor) -> Detections:
        """Image (B, 3, H, W) to the best ``max_detections`` masks.

        Masks are probabilities minus 0.5, about H/4 x W/4 cells that cover the image. Boxes are tight around masks, and
        empty for a mask that is only in the padding.
        """
        scores, labels, masks = self.best(*self.candidates(self.predict(image)))
        size = image.shape[-2], image.shape[-1]
        masks = covering(masks - 0.5, size)
        return Detections(tight_boxes(masks, size), scores, labels, masks)

    def candidates(self, predictions: Predictions) -> tuple[Tensor, Tensor]:
        """Return scores (B, N, C) and masks (B, N, h, w), as probabilities, of the N cells with the best class scores.

        A score is the class score times the mean probability in the mask, or 0.
        """
        limits, features = self.config.nms, to_fp32(predictions.features)
        levels = [points_nms(to_fp32(level).sigmoid()) for level in predictions.classes]
        classes = torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2)  # (B, L, C)
        kernels = torch.cat([level.flatten(2) for level in predictions.kernels], dim=2).transpose(1, 2)  # (B, L, E)
        classes = torch.where(classes > limits.score_threshold, classes, 0)

        cell = classes.amax(dim=2).topk(min(limits.pre_nms_top_n, classes.shape[1]), dim=1).indices  # (B, N)
        chosen = to_fp32(kernels.gather(1, cell[..., None].expand(-1, -1, self.config.kernel_dim)))
        masks = torch.bmm(chosen, features.flatten(2)).sigmoid()
        inside = (masks > 0.5).to(masks.dtype)
        area = inside.sum(dim=2)
        quality = (masks * inside).sum(dim=2) / area.clamp(min=1)
        quality = torch.where(area > self.area_thresholds(cell), quality, 0)
        scores = classes.gather(1, cell[..., None].expand(-1, -1, self.num_classes)) * quality[..., None]
        return scores, masks.view(*masks.shape[:2], *features.shape[-2:])

    def area_thresholds(self, cell: Tensor) -> Tensor:
        """Area thresholds for cell indices (B, N) over all grids."""
        pairs = zip(self.config.num_grids, self.config.nms.min_areas, strict=True)
        return torch.cat([torch.full((grid * grid,), area, device=cell.device) for grid, area in pairs])[cell]

    def best(self, scores: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From scores (B, N, C) and masks (B, N, h, w), select detections: scores, labels (B, K) and masks."""
        limits, K, C = self.config.nms, self.config.max_detections, self.num_classes
        best = scores.flatten(1).topk(min(limits.pre_nms_top_n, scores.shape[1] * C), dim=1)
        row, label = best.indices // C, best.indices % C  # (B, M)
        inside = (masks.flatten(2) > 0.5).to(masks.dtype)
        iou = mask_ious(torch.bmm(inside, inside.transpose(1, 2)), inside.sum(dim=2))
        N, M = iou.shape[1], row.shape[1]
        iou = iou.gather(1, row[..., None].expand(-1, -1, N)).gather(2, row[:, None].expand(-1, M, -1))
        lowered = matrix_nms(best.values, label, iou, limits.sigma)
        lowered = F.pad(torch.where(lowered >= limits.final_score_threshold, lowered, 0), (0, max(K - M, 0)))
        final = lowered.topk(K, dim=1)
        index = final.indices.clamp(max=M - 1)
        row = row.gather(1, index)[..., None, None].expand(-1, -1, *masks.shape[-2:])
        return final.values, label.gather(1, index), masks.gather(1, row)

    def losses(
        self, image: Tensor, targets: list[Target], *, normalizer: Normalizer = local_normalizer
    ) -> dict[str, Tensor]:
        """See `Network`. The normalizer counts objects."""
        return losses(self.predict(image), targets, self.config.loss, normalizer=normalizer)

    def predict(self, image: Tensor) -> Predictions:
        """Image (B, 3, H, W) to the predictions of all cells, for the padded image."""
        levels = self.neck(self.backbone(pad_to_multiple(image, SIZE_DIVISOR)))
        classes, kernels = self.head(levels, self.config.num_grids)
        return Predictions(classes, kernels, self.mask_features(levels[:4]))

    def decisive(self) -> list[Decisive]:
        """See `Network`."""
        return [Decisive(self.head.category, -2.0, 1.5), Decisive(self.head.kernel, 0.0, 0.1)]

    def frozen(self) -> Iterator[nn.Module]:
        """Stem, first stage, and all batch norms of the backbone."""
        yield self.backbone.stem
        yield self.backbone.stages[0]
        yield from (module for module in self.backbone.modules() if isinstance(module, nn.BatchNorm2d))
