"""What defines a family of models, besides its rows in the catalog."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from maskline.errors import ParameterError
from maskline.models.network import Network

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    C = TypeVar("C", bound=DataclassInstance)
else:
    C = TypeVar("C")

#: Regular expressions and replacements; all are applied to a name, in order.
Rules: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Family(Generic[C]):
    """The parts of a family that need torch; `maskline.catalog` has the rest.

    The catalog, readable without torch, has a row for each model: name, family, preprocess, recipe and published
    figures. The configurations here are keyed by the same names.

    Attributes:
        name: a key of `maskline.catalog.FAMILIES`.
        configs: by model name.
        build: builds a network with newly initialised weights from a configuration and the number of classes.
        rename: rules from PaddleDetection's parameter names to ours.
        class_parameter: a parameter with one entry per class; its length is the number of classes of a weights file.
        augment: fields of `maskline.training.augment.Augment` that the recipe sets. A mapping, because `training` is a
            higher layer.
    """

    name: str
    configs: Mapping[str, C]
    build: Callable[[C, int], Network]
    rename: Rules
    class_parameter: str
    augment: Mapping[str, Any]

    def config(self, model: str, overrides: Mapping[str, Any]) -> C:
        """Return the configuration of a model, with some fields replaced.

        Raises:
            ParameterError: a field does not exist, or its value is of another type.
        """
        config = self.configs[model]
        known = {field.name: getattr(config, field.name) for field in fields(config)}
        for name, value in overrides.items():
            if name not in known:
                raise ParameterError(f"the configuration of {model} has no {name!r}")
            if type(value) is not type(known[name]):
                raise ParameterError(f"{name} is {value!r}: expected a value such as {known[name]!r}")
        return replace(config, **overrides)
