"""PP-YOLOE-seg: a one-stage, anchor-free detector that predicts masks from shared prototypes."""

from maskline.models.family import Family
from maskline.models.ppyoloe_seg.network import CONFIGS, PPYOLOESeg
from maskline.models.ppyoloe_seg.weights import RENAME

FAMILY = Family(
    name="ppyoloe_seg",
    configs=CONFIGS,
    build=PPYOLOESeg,
    rename=RENAME,
    class_parameter="head.class_heads.0.bias",
    augment={"distort": 1.0, "expand": 0.5, "crop": 1.0, "flip": 0.5},
)
