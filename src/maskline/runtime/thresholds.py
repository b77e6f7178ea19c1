"""Score thresholds, by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from maskline._checks import check_threshold
from maskline.errors import UnknownNameError
from maskline.instances import FloatArray

Threshold = float | Mapping[int | str, float]


def thresholds_by_class(threshold: Threshold, classes: Sequence[str], default: float) -> FloatArray:
    """Expand a threshold to one per class.

    Args:
        threshold: a score in [0, 1], or a mapping from class index or name to score.
        classes: class names, by class index.
        default: threshold of classes that are missing from a mapping.

    Returns:
        (classes,) float32.

    Raises:
        ParameterError: a score is not a number from 0 to 1 (bools and strings are rejected).
        UnknownNameError: unknown class.
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
    raise UnknownNameError.of("class", str(key), classes, "in threshold")
