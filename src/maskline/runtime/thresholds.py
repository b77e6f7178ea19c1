"""Score thresholds: one rule wherever they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from maskline._checks import check_threshold
from maskline.errors import UnknownNameError
from maskline.instances import FloatArray

Threshold = float | Mapping[int | str, float]


def by_class(threshold: Threshold, classes: Sequence[str], default: float) -> FloatArray:
    """One threshold for each class.

    Args:
        threshold: a score in [0, 1], or a mapping from class index or name to one.
        classes: their names, in the order of class indices.
        default: of classes that a mapping leaves out.

    Returns:
        (classes,) float32.

    Raises:
        ParameterError: a score is not a number from 0 to 1, or is a bool or a text.
        UnknownNameError: there is no such class.
    """
    checked = check_threshold(threshold)
    if not isinstance(checked, Mapping):
        return np.full(len(classes), checked, np.float32)
    thresholds = np.full(len(classes), default, np.float32)
    for key, score in checked.items():
        thresholds[_index(key, classes)] = score
    return thresholds


def _index(key: int | str, classes: Sequence[str]) -> int:
    if isinstance(key, str) and key in classes:
        return classes.index(key)
    if not isinstance(key, str) and 0 <= key < len(classes):
        return int(key)
    raise UnknownNameError.of("class in threshold", str(key), classes)
