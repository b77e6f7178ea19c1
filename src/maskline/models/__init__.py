"""Networks in PyTorch: build one by its catalog name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from maskline import catalog
from maskline.models.families import family_of
from maskline.models.network import Network

NO_OVERRIDES: Mapping[str, Any] = MappingProxyType({})


def build(
    name: str, num_classes: int = len(catalog.COCO_CLASSES), overrides: Mapping[str, Any] = NO_OVERRIDES
) -> Network:
    """Build a network with newly initialised weights, in training mode.

    Args:
        name: a model in the catalog.
        num_classes: classes without background.
        overrides: new values for fields of the model's configuration, such as those stored in a weights file.

    Raises:
        UnknownNameError: the catalog has no such model.
        ParameterError: the configuration has no such field.
    """
    family = family_of(name)
    config = family.config(catalog.get(name).name, overrides)
    network: Network = family.build(config, num_classes)
    return network
