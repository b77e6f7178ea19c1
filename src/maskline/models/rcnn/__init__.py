"""Mask R-CNN and Cascade Mask R-CNN: two-stage detectors that predict a mask per box."""

from maskline.models.family import Family
from maskline.models.rcnn.network import CONFIGS, MaskRCNN
from maskline.models.rcnn.weights import RENAME

FAMILY = Family(
    name="rcnn",
    configs=CONFIGS,
    build=MaskRCNN,
    rename=RENAME,
    class_parameter="mask_head.logits.bias",
    augment={"flip": 0.5, "sizes": tuple(range(640, 801, 32))},
)
