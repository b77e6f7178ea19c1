"""What a family of models consists of, apart from the facts in the catalog."""

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

#: Regular expressions and their replacements, all of them applied to a name, in this order.
Rules: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Family(Generic[C]):
    """All that is particular to a family and needs torch; what doesn't is in `maskline.catalog`.

    The catalog has a row for each model: its name, its family's name, its preprocess, recipe and published figures. So
    it can be read without torch. The configurations here have the same names for keys.

    Attributes:
        name: a key of `maskline.catalog.FAMILIES`.
        configs: by model name.
        build: from a configuration and a number of classes to a network with freshly drawn weights.
        rename: names of PaddleDetection's weights, rewritten to ours.
        class_parameter: a parameter with one entry for each class, which shows how many classes weights have.
        augment: what of `maskline.training.augment.Augment` the recipe sets, by name. Values only: `training` is above.
    """

    name: str
    configs: Mapping[str, C]
    build: Callable[[C, int], Network]
    rename: Rules
    class_parameter: str
    augment: Mapping[str, Any]

    def config(self, model: str, overrides: Mapping[str, Any]) -> C:
        """The configuration of a model, with the values of some fields replaced.

        Raises:
            ParameterError: there is no such field, or its value is of another type.
        """
        config = self.configs[model]
        known = {field.name: getattr(config, field.name) for field in fields(config)}
        for name, value in overrides.items():
            if name not in known:
                raise ParameterError(f"the configuration of {model} has no {name!r}")
            if type(value) is not type(known[name]):
                raise ParameterError(f"{name} is {value!r}: expected a value such as {known[name]!r}")
        return replace(config, **overrides)
