"""SOLOv2: a one-stage, box-free network that predicts the convolution kernels of its masks."""

from maskline.models.family import Family
from maskline.models.solov2.network import CONFIGS, SOLOv2
from maskline.models.solov2.weights import RENAME

FAMILY = Family(
    name="solov2",
    configs=CONFIGS,
    build=SOLOv2,
    rename=RENAME,
    class_parameter="head.category.bias",
    augment={"flip": 0.5},
)
