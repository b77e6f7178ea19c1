"""Mask-RT-DETR: a real-time DETR that predicts masks from shared prototypes."""

from maskline.models.family import Family
from maskline.models.mask_rtdetr.network import CONFIGS, MaskRTDETR
from maskline.models.mask_rtdetr.weights import RENAME

FAMILY = Family(
    name="mask_rtdetr",
    configs=CONFIGS,
    build=MaskRTDETR,
    rename=RENAME,
    class_parameter="decoder.class_head.bias",
    augment={"distort": 0.8, "expand": 0.5, "crop": 0.8, "flip": 0.5, "sizes": (*range(480, 801, 32), 640, 640)},
)
