"""Mask R-CNN (arXiv 1703.06870) and Cascade Mask R-CNN (arXiv 1712.00726): image to detections and losses."""

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
from maskline.models.nms import batched_nms
from maskline.models.padding import pad_to_multiple
from maskline.models.rcnn.boxes import DeltaWeights, clip_boxes, decode_boxes
from maskline.models.rcnn.heads import BoxHead, MaskHead
from maskline.models.rcnn.loss import LossConfig, Sampled, box_losses, mask_loss, rpn_losses, sample_regions
from maskline.models.rcnn.rpn import RPN, AnchorConfig, ProposalConfig, propose
from maskline.models.roi_align import Regions, roi_align
from maskline.runtime.mask_layout import MaskLayout

CANONICAL_SIDE, CANONICAL_LEVEL = (
    224,
    2,
)  # pooling level of a region of this side (FPN, equation 1)
BACKGROUND = -0.5  # mask value outside the box


@dataclass(frozen=True, slots=True)
class Stage:
    """A box head: one of a cascade, or the only one.

    Attributes:
        weights: of box deltas, see `boxes.encode_boxes`.
        iou_threshold: regions with at least this IoU with an object are positive in training.
    """

    weights: DeltaWeights = (10.0, 10.0, 5.0, 5.0)
    iou_threshold: float = 0.5


@dataclass(frozen=True, slots=True)
class NMSConfig:
    """Thresholds of non-maximum suppression, per class; PaddleDetection's values."""

    score_threshold: float = 0.05  # boxes that score no more are dropped
    iou_threshold: float = 0.5  # with a better box of the same class


@dataclass(frozen=True, slots=True)
class RCNNConfig:
    """Widths, depths and limits.

    Attributes:
        neck_channels: channels of the FPN; None: no FPN, and the backbone's last stage runs on regions of the map
            before it (C4; ResNet, arXiv 1512.03385, appendix A).
        stages: one, or those of a cascade, whose boxes are class-agnostic.
        aligned: see `roi_align`.
    """

    backbone: ResNetConfig
    neck_channels: int | None = 256
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    proposals: ProposalConfig = field(default_factory=ProposalConfig)
    training_proposals: ProposalConfig = field(default_factory=lambda: ProposalConfig(2000, 2000, 1000))
    stages: tuple[Stage, ...] = (Stage(),)
    box_roi_size: int = 7
    hidden_dim: int | None = 1024
    mask_roi_size: int = 14
    mask_channels: int = 256
    num_mask_convs: int = 4
    nms: NMSConfig = field(default_factory=NMSConfig)
    max_detections: int = 100
    aligned: bool = True
    loss: LossConfig = field(default_factory=LossConfig)


_R50, _R101 = (3, 4, 6, 3), (3, 4, 23, 3)
_CASCADE = (Stage(), Stage((20.0, 20.0, 10.0, 10.0), 0.6), Stage((30.0, 30.0, 15.0, 15.0), 0.7))
_MORE = ProposalConfig(2000, 2000, 2000)

CONFIGS = {
    "MaskRCNN-ResNet50": RCNNConfig(
        ResNetConfig(_R50),
        neck_channels=None,
        anchors=AnchorConfig(strides=(16,), sizes=((32, 64, 128, 256, 512),)),
        proposals=ProposalConfig(6000, 1000, 1000),
        training_proposals=ProposalConfig(12000, 2000, 2000),
        box_roi_size=14,
        hidden_dim=None,
        num_mask_convs=0,
    ),
    "MaskRCNN-ResNet50-FPN": RCNNConfig(ResNetConfig(_R50)),
    "MaskRCNN-ResNet50-vd-FPN": RCNNConfig(ResNetConfig(_R50, variant="d")),
    "MaskRCNN-ResNet101-FPN": RCNNConfig(ResNetConfig(_R101)),
    "MaskRCNN-ResNet101-vd-FPN": RCNNConfig(ResNetConfig(_R101, variant="d")),
    "MaskRCNN-ResNeXt101-vd-FPN": RCNNConfig(ResNetConfig(_R101, variant="d", groups=64, width_per_group=4)),
    "Cascade-MaskRCNN-ResNet50-FPN": RCNNConfig(ResNetConfig(_R50), stages=_CASCADE, training_proposals=_MORE),
    "Cascade-MaskRCNN-ResNet50-vd-SSLDv2-FPN": RCNNConfig(
        ResNetConfig(_R50, variant="d"), stages=_CASCADE, training_proposals=_MORE
    ),
}


class MaskRCNN(Network):
    """The network. Pixels are RGB, normalised with ImageNet's mean and standard deviation; any height and width."""

    config: RCNNConfig
    mask_layout = MaskLayout(over="box", beyond_boxes=False)
    trained_with = ("aligned",)

    def __init__(self, config: RCNNConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.backbone = ResNet(config.backbone)
        self.neck = None if config.neck_channels is None else FPN(config.backbone.out_channels, config.neck_channels)
        self.rpn = RPN(config.neck_channels or config.backbone.out_channels[2], config.anchors)
        channels = config.neck_channels or config.backbone.out_channels[3]
        self.box_heads = nn.ModuleList(
            BoxHead(
                channels,
                roi_size=config.box_roi_size,
                hidden_dim=config.hidden_dim,
                num_classes=num_classes,
                num_boxes=num_classes if len(config.stages) == 1 else 1,
            )
            for _ in config.stages
        )
        self.mask_head = MaskHead(
            channels, config.mask_channels, num_convs=config.num_mask_convs, num_classes=num_classes
        )

    def forward(self, image: Tensor) -> Detections:
        """Image (B, 3, H, W) to the best ``max_detections``, after NMS.

        Boxes are clipped to the image. Masks cover their box plus a border of one cell. They are probabilities minus
        0.5, because PaddleDetection upsamples probabilities.
        """
        size = torch.stack([image.new_full((image.shape[0],), side) for side in image.shape[2:]], dim=1)
        levels = self.features(image)
        proposals, valid = propose(self.rpn(levels), size, self.config.proposals)
        boxes, scores = self.boxes(levels, proposals, valid, size)
        boxes, scores, labels = self.best(boxes, scores)
        return Detections(boxes, scores, labels, self.masks(levels, boxes, labels, scores > 0))

    def features(self, image: Tensor) -> list[Tensor]:
        """Image (B, 3, H, W) to the maps for the RPN and the heads."""
        if self.neck is None:
            return [self.backbone(image, stages=3)[-1]]
        return list(self.neck(self.backbone(pad_to_multiple(image, SIZE_DIVISOR))))

    def roi_features(self, levels: list[Tensor], regions: Regions, side: int) -> Tensor:
        """Pool features of regions: (R, C, side, side); C4: (R, C, side / 2, side / 2)."""
        strides = self.config.anchors.strides
        if self.neck is None:
            level = torch.zeros_like(regions.image)
        else:  # without the coarsest, which is for the RPN only
            levels, strides = levels[:-1], strides[:-1]
            sides = (regions.boxes[:, 2:] - regions.boxes[:, :2]).prod(dim=1).sqrt()
            level = torch.floor(CANONICAL_LEVEL + torch.log2(sides / CANONICAL_SIDE + 1e-8))
            level = level.clamp(0, len(levels) - 1).long()
        pooled = roi_align(levels, regions, level, strides=strides, side=side, aligned=self.config.aligned)
        return pooled if self.neck is not None else self.backbone.stages[3](pooled)

    def boxes(self, levels: list[Tensor], proposals: Tensor, valid: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Proposals (B, N, 4) to boxes (B, N, classes or 1, 4), and scores (B, N, classes) without background.

        Scores are in [0, 1], and 0 where ``valid`` (B, N) is False.
        """
        image, row = torch.nonzero(valid, as_tuple=True)
        regions = Regions(proposals[image, row], image)
        shares = []
        for head, stage in zip(self.box_heads, self.config.stages, strict=True):
            logits, deltas = head(self.roi_features(levels, regions, self.config.box_roi_size))
            shares.append(to_fp32(logits).softmax(dim=1)[:, :-1])
            found = decode_boxes(to_fp32(deltas), regions.boxes[:, None], stage.weights)
            found = clip_boxes(found, size[image, None])
            regions = Regions(found[:, 0], image)
        scores = torch.stack(shares).mean(dim=0)
        B, N = valid.shape
        return _spread(found, image, row, (B, N)), _spread(scores, image, row, (B, N))

    def best(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Select from boxes (B, N, C or 1, 4) and scores (B, N, C): boxes (B, K, 4), scores and labels (B, K)."""
        limits, K = self.config.nms, self.config.max_detections
        (B, N, C), groups = scores.shape, boxes.shape[2]
        boxes, scores = boxes.transpose(1, 2), scores.transpose(1, 2)  # (B, groups, N, 4), (B, C, N)
        stays = batched_nms(
            boxes.flatten(0, 1),
            scores.reshape(B * groups, C // groups, N),
            score_threshold=limits.score_threshold,
            iou_threshold=limits.iou_threshold,
            max_detections=K,
        )
        kept = torch.where(stays.view(B, C, N), scores, 0).flatten(1)
        best = F.pad(kept, (0, K)).topk(K, dim=1)
        index = best.indices.clamp(max=C * N - 1)
        at = index if groups == C else index % N
        return boxes.flatten(1, 2).gather(1, at[..., None].expand(-1, -1, 4)), best.values, index // N

    def masks(self, levels: list[Tensor], boxes: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Masks (B, K, s + 2, s + 2) of the labels, with a border of background; all background if not valid."""
        image, row = torch.nonzero(valid, as_tuple=True)
        regions = Regions(boxes[image, row], image)
        logits = self.mask_head(self.roi_features(levels, regions, self.config.mask_roi_size), labels[image, row])
        masks = F.pad(to_fp32(logits).sigmoid() + BACKGROUND, (1, 1, 1, 1), value=BACKGROUND)
        B, K = valid.shape
        return _spread(masks, image, row, (B, K), BACKGROUND)

    def losses(
        self, image: Tensor, targets: list[Target], *, normalizer: Normalizer = local_normalizer
    ) -> dict[str, Tensor]:
        """See `Network`. The normalizer counts regions."""
        size = image.new_tensor([target.size for target in targets], dtype=torch.float32)
        levels = self.features(image)
        predictions = self.rpn(levels)
        parts = rpn_losses(predictions, targets, self.config.loss)
        with torch.no_grad():
            found, valid = propose(predictions, size, self.config.training_proposals)
        regions = [boxes[real] for boxes, real in zip(found, valid, strict=True)]
        many = len(self.config.stages) > 1
        for number, stage in enumerate(self.config.stages):
            sampled = sample_regions(
                regions, targets, stage.iou_threshold, self.config.loss, num_classes=self.num_classes, first=number == 0
            )
            features = self.roi_features(levels, sampled.regions, self.config.box_roi_size)
            if number == 0:
                first, first_features = sampled, features
            logits, deltas = self.box_heads[number](features)
            for name, part in box_losses(logits, deltas, sampled, stage.weights, normalizer).items():
                parts[f"{name}_stage{number}" if many else name] = part / len(self.config.stages)
            if number + 1 < len(self.config.stages):
                regions = self.refined(sampled.regions, deltas.detach(), stage, size)
        return parts | {"loss_mask": self.mask_loss(levels, first, first_features, targets, normalizer)}

    def refined(self, regions: Regions, deltas: Tensor, stage: Stage, size: Tensor) -> list[Tensor]:
        """Regions of each image for the next stage of a cascade; empty ones are dropped."""
        boxes = decode_boxes(to_fp32(deltas)[:, 0], regions.boxes, stage.weights)
        boxes = clip_boxes(boxes, size[regions.image])
        real = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        return [boxes[real & (regions.image == i)] for i in range(len(size))]

    def mask_loss(
        self, levels: list[Tensor], sampled: Sampled, features: Tensor, targets: list[Target], normalizer: Normalizer
    ) -> Tensor:
        """Loss of the masks of positive regions; C4 reuses the features of the box head."""
        positive = sampled.positive(self.num_classes)
        regions = sampled.regions.select(positive)
        features = (
            features[positive] if self.neck is None else self.roi_features(levels, regions, self.config.mask_roi_size)
        )
        logits = self.mask_head(features, sampled.labels[positive])
        return mask_loss(logits, regions, sampled.objects[positive], targets, normalizer)

    def decisive(self) -> list[Decisive]:
        """See `Network`."""
        scores = [Decisive(head.get_submodule("score"), 0.0, 2.0) for head in self.box_heads]
        deltas = [Decisive(head.get_submodule("delta"), 0.0, 1.5) for head in self.box_heads]
        return [Decisive(self.rpn.score, -1.0, 1.0), Decisive(self.rpn.delta, 0.0, 0.3), *scores, *deltas]

    def frozen(self) -> Iterator[nn.Module]:
        """Stem, first stage, and all batch norms."""
        yield self.backbone.stem
        yield self.backbone.stages[0]
        yield from (module for module in self.modules() if isinstance(module, nn.BatchNorm2d))


def _spread(values: Tensor, image: Tensor, row: Tensor, shape: tuple[int, int], rest: float = 0.0) -> Tensor:
    """Scatter values (R, ...) to (image, row) of (*shape, ...); ``rest`` elsewhere."""
    return values.new_full((*shape, *values.shape[1:]), rest).index_put((image, row), values)
