"""All model families. To add one: a folder here, a line in `FAMILIES`, and rows in `maskline.catalog`."""

from __future__ import annotations

from typing import Any

from maskline import catalog
from maskline.errors import ParameterError
from maskline.models import mask_rtdetr, ppyoloe_seg, rcnn, solov2
from maskline.models.family import Family

FAMILIES: tuple[Family[Any], ...] = (
    mask_rtdetr.FAMILY,
    ppyoloe_seg.FAMILY,
    rcnn.FAMILY,
    solov2.FAMILY,
)


def family_of(model: str) -> Family[Any]:
    """Return the family of a catalog model. Raises UnknownNameError, which suggests the nearest name."""
    name = catalog.get(model).family
    return next(family for family in FAMILIES if family.name == name)


def overrides_of(model: str, *, unaligned: bool) -> dict[str, Any]:
    """Return the configuration fields that a user sets because the weights file does not.

    Args:
        unaligned: trained with the unaligned RoIAlign, as PaddleDetection does since August 2024 whatever its
            configuration says; see `maskline.models.roi_align`.

    Raises:
        ParameterError: the model has no RoIAlign.
    """
    if not unaligned:
        return {}
    spec = catalog.get(model)
    if not hasattr(family_of(spec.name).configs[spec.name], "aligned"):
        raise ParameterError(
            f"{spec.name} has no RoIAlign: unaligned applies only to Mask R-CNN and Cascade Mask R-CNN"
        )
    return {"aligned": False}
