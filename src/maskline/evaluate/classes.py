"""Match a model's classes to a data set's, by name, never by index."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from maskline.data.dataset import Dataset
from maskline.errors import ParameterError
from maskline.instances import IntArray

MAX_NAMES = 12  # in a message


@dataclass(frozen=True)
class Classes:
    """The classes of a data set, each name once, and their mapping from a model's labels.

    Attributes:
        names: class names of the data set, in category order; categories with the same name are one class.
        categories: (categories,) the class of each category, by the category's index.
        labels: (model's classes,) the class of each of the model's labels, -1 if the data set lacks it.
        absent: classes of the data set that the model lacks: all their objects are missed.
        foreign: classes of the model that the data set lacks: their detections are left out.
    """

    names: tuple[str, ...]
    categories: IntArray
    labels: IntArray
    absent: tuple[str, ...]
    foreign: tuple[str, ...]

    @cached_property
    def first_category(self) -> list[int]:
        """The index of the first category of each class."""
        return [int(place) for place in np.unique(self.categories, return_index=True)[1]]


def match_classes(dataset: Dataset, labels: Sequence[str] | None = None) -> Classes:
    """Match the classes of a data set with those of a model.

    Args:
        labels: the model's class names in the order of its labels; None if its labels are indices of the data set's
            categories.

    Raises:
        ParameterError: no name is in both lists, or the model has a name twice.
    """
    names = tuple(dict.fromkeys(dataset.names))
    places = {name: place for place, name in enumerate(names)}
    categories = np.asarray([places[name] for name in dataset.names], np.int64)
    if labels is None:
        return Classes(names, categories, categories, (), ())
    if len(set(labels)) < len(labels):
        twice = next(name for name in labels if list(labels).count(name) > 1)
        raise ParameterError(f"the model has two classes called {twice!r}: expected names that differ")
    common = [name for name in labels if name in places]
    if names and not common:
        raise ParameterError(_nothing_in_common(labels, names))
    return Classes(
        names,
        categories,
        np.asarray([places.get(name, -1) for name in labels], np.int64),
        absent=tuple(name for name in names if name not in labels),
        foreign=tuple(name for name in labels if name not in places),
    )


def nearest(name: str, names: Sequence[str]) -> str | None:
    """The most similar name of a list, if any is similar enough."""
    lowered = {known.lower().strip(): known for known in names}
    near = difflib.get_close_matches(name.lower().strip(), list(lowered), n=1, cutoff=0.6)
    return lowered[near[0]] if near else None


def _nothing_in_common(labels: Sequence[str], names: Sequence[str]) -> str:
    pairs = [(name, near) for name in names if (near := nearest(name, labels)) is not None][:MAX_NAMES]
    hints = "".join(f"; is {near!r} meant for {name!r}?" for name, near in pairs)
    advice = "give both the same names, in the data set or in the model's label list"
    if len(labels) == len(names):
        advice += "; their number is the same, but classes are never matched by their order"
    both = f"the model knows {join_names(labels)}, the data set has {join_names(names)}"
    return f"{both}: no class in common{hints}; {advice}"


def join_names(names: Sequence[str]) -> str:
    """Format a list of names for a message, truncated to `MAX_NAMES`."""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(map(repr, names[:MAX_NAMES])) + more
