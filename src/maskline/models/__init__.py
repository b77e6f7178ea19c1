"""Networks in PyTorch: build one by its catalog name."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from maskline import catalog
from maskline.errors import ParameterError


def build(name: str, num_classes: int = len(catalog.COCO_CLASSES), *, unaligned: bool = False) -> nn.Module:
    """A new network, with freshly drawn weights, in training mode.

    Args:
        name: a model of the catalog.
        num_classes: classes without background.
        unaligned: Mask R-CNN only: with RoIAlign's first form, see `maskline.models.roi_align`.

    Raises:
        UnknownNameError: no such row.
        ParameterError: the model has no RoIAlign to be unaligned.
    """
    model = catalog.get(name)
    if unaligned and model.roi_align_aligned is None:
        raise ParameterError(f"{model.name} has no RoIAlign: unaligned is for Mask R-CNN and Cascade Mask R-CNN")
    match model.family:
        case "mask_rtdetr":
            from maskline.models.mask_rtdetr.network import CONFIGS, MaskRTDETR

            return MaskRTDETR(CONFIGS[model.name], num_classes)
        case "ppyoloe_seg":
            from maskline.models.ppyoloe_seg.network import CONFIGS as PPYOLOE_SEG
            from maskline.models.ppyoloe_seg.network import PPYOLOESeg

            return PPYOLOESeg(PPYOLOE_SEG[model.name], num_classes)
        case "rcnn":
            from maskline.models.rcnn.network import CONFIGS as RCNN
            from maskline.models.rcnn.network import MaskRCNN

            return MaskRCNN(
                replace(RCNN[model.name], aligned=bool(model.roi_align_aligned) and not unaligned), num_classes
            )
        case "solov2":
            from maskline.models.solov2.network import CONFIGS as SOLOV2
            from maskline.models.solov2.network import SOLOv2

            return SOLOv2(SOLOV2[model.name], num_classes)
