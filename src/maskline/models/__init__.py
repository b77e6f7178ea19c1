"""Networks in PyTorch: build one by its catalog name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from maskline import catalog
from maskline.models.families import family_of
from maskline.models.network import Network

AS_IT_IS: Mapping[str, Any] = MappingProxyType({})


def build(name: str, num_classes: int = len(catalog.COCO_CLASSES), overrides: Mapping[str, Any] = AS_IT_IS) -> Network:
    """A new network, with freshly drawn weights, in training mode.

    Args:
        name: a model of the catalog.
        num_classes: classes without background.
        overrides: values for fields of the model's configuration, such as those that a weights file says.

    Raises:
        UnknownNameError: no such row.
        ParameterError: the configuration has no such field.
    """
    family = family_of(name)
    config = family.config(catalog.get(name).name, overrides)
    network: Network = family.build(config, num_classes)
    return network
