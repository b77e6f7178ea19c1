"""The list of families. A new one is a folder here, a line in `FAMILIES`, and its rows in `maskline.catalog`."""

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
    """The family of a model of the catalog. Raises UnknownNameError, with the nearest name, if there is none."""
    name = catalog.get(model).family
    return next(family for family in FAMILIES if family.name == name)


def overrides_of(model: str, *, unaligned: bool) -> dict[str, Any]:
    """What users say of weights whose file doesn't say it, as fields of the configuration.

    Args:
        unaligned: trained with RoIAlign's first form, as by PaddleDetection since August 2024 whatever its
            configuration says, see `maskline.models.roi_align`.

    Raises:
        ParameterError: the model has no RoIAlign.
    """
    if not unaligned:
        return {}
    spec = catalog.get(model)
    if not hasattr(family_of(spec.name).configs[spec.name], "aligned"):
        raise ParameterError(f"{spec.name} has no RoIAlign: unaligned is for Mask R-CNN and Cascade Mask R-CNN")
    return {"aligned": False}
