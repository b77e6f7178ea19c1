"""Compare two models for a significant difference: a paired bootstrap over images.

Efron and Tibshirani, *An Introduction to the Bootstrap* (1993), chapters 12 and 13 (percentile intervals): images are
resampled with replacement, and both models are measured on the same resamples. The spread of the differences estimates
that over other images of the same kind. Detections are matched once; each resample only weights images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskline._checks import check_count, check_path
from maskline._files import AnyPath
from maskline.data.dataset import Dataset
from maskline.errors import DatasetError
from maskline.evaluate import MOST_DETECTIONS, MOST_RESAMPLES, RESAMPLES, STANDARD_DETECTIONS, detections
from maskline.evaluate.average_precision import averages
from maskline.evaluate.classes import match_classes
from maskline.evaluate.detections import Floats, ImageDetections, truth_of
from maskline.evaluate.matching import Kind, Ranking, rank_detections

METRICS = ("AP", "AP50", "AP75", "bbox_AP")
LEVEL = 95  # percent of the resamples inside the interval
AT_ONCE = 4_000_000  # elements of the largest array


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of two models.

    Attributes:
        name: one of `METRICS`.
        a, b: values on the original data set; None if there are no objects.
        difference: b - a.
        low, high: 95 % confidence interval of the difference.
        b_better: share of the resamples in which b is better; ties count half.
    """

    name: str
    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None
    b_better: float | None

    @property
    def verdict(self) -> str:
        """The conclusion in a few words."""
        if self.low is None or self.high is None:
            return "nothing to measure"
        return "B is better" if self.low > 0 else "A is better" if self.high < 0 else "no clear difference"

    def to_dict(self) -> dict[str, float | str | None]:
        """Return JSON-serializable values."""
        return {name: getattr(self, name) for name in self.__slots__} | {"verdict": self.verdict}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparison of two models on one data set.

    Attributes:
        differences: one for each of `METRICS`.
        images: number of images in the data set.
        max_detections: per class and image.
        resamples, seed: of the bootstrap.
    """

    differences: tuple[Difference, ...]
    images: int
    max_detections: int
    resamples: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-serializable values."""
        how = {"images": self.images, "max_detections": self.max_detections, "level": LEVEL}
        rows = {row.name: row.to_dict() for row in self.differences}
        return {**how, "resamples": self.resamples, "seed": self.seed, "differences": rows}

    def summary(self) -> str:
        """A table for a terminal."""
        lines = [f"{'':8}      A       B    B - A  {LEVEL} % interval     B better"]
        for row in self.differences:
            if row.low is None or row.high is None:
                lines.append(f"{row.name:8} {row.verdict}")
                continue
            interval = f"{row.low:+.4f} to {row.high:+.4f}"
            figures = f"{row.a:.4f}  {row.b:.4f}  {row.difference:+.4f}  {interval}  {row.b_better:7.1%}"
            lines.append(f"{row.name:8} {figures}  {row.verdict}")
        lines.append(f"images: {self.images}, resamples: {self.resamples}, seed: {self.seed}")
        return "\n".join(lines)


def compare(
    a: AnyPath,
    b: AnyPath,
    dataset: Dataset,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    max_detections: int = STANDARD_DETECTIONS,
) -> Comparison:
    """Compare the detections of two models on a data set.

    Args:
        a, b: the ``detections.json`` of an evaluation, or its folder; or any file in COCO's results format with masks.
        dataset: the data set of both.
        resamples: bootstrap resamples; more make the interval more precise, 1000 are usual.
        seed: of the resamples.
        max_detections: per class and image, as in `maskline.evaluate.evaluate`.

    Raises:
        InputError: a file is invalid, or from different images or classes.
        DatasetError: the data set has no images.
        ParameterError: a number is out of range.
    """
    check_count(resamples, "resamples", MOST_RESAMPLES)
    check_count(max_detections, "max_detections", MOST_DETECTIONS)
    if not dataset.images:
        raise DatasetError(f"{dataset.split!r} has no images: nothing to compare on")
    classes = match_classes(dataset)
    truths = [truth_of(dataset, image, classes) for image in dataset.images]
    both = [
        list(detections.read(check_path(path, name), dataset, classes).values()) for name, path in (("a", a), ("b", b))
    ]

    def ranked(found: Sequence[ImageDetections], kind: Kind) -> list[Ranking]:
        return rank_detections(truths, found, len(classes.names), kind, max_detections)

    weights = np.concatenate([np.ones((1, len(truths))), _draws(len(truths), resamples, seed)])
    figures = [np.stack([*_figures([ranked(found, "mask"), ranked(found, "box")], weights)]) for found in both]
    rows = tuple(_difference(name, *values) for name, *values in zip(METRICS, *figures, strict=True))
    return Comparison(rows, len(truths), max_detections, resamples, seed)


def _draws(images: int, resamples: int, seed: int) -> Floats:
    """Multiplicity of each image in each resample: (resamples, images)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(images, np.full(images, 1 / images), size=resamples).astype(np.float64)


def _figures(rankings: Sequence[Sequence[Ranking]], weights: Floats) -> Iterator[Floats]:
    """Values of each of `METRICS`: (R,), NaN for resamples without objects."""
    masks, boxes = (_class_means(of_kind, weights) for of_kind in rankings)
    yield from (masks[0], masks[1], masks[2], boxes[0])


def _class_means(rankings: Sequence[Ranking], weights: Floats) -> Floats:
    """AP, AP50 and AP75 as means over classes with objects in the resample: (3, R)."""
    total, known = np.zeros((3, len(weights))), np.zeros(len(weights))
    for ranking in rankings:
        rows = max(1, AT_ONCE // max(1, len(ranking.scores)))
        for start in range(0, len(weights), rows):
            part = slice(start, start + rows)
            values = averages(ranking, weights[part])  # (R, IoUs)
            drawn = ~np.isnan(values[:, 0])
            total[:, part] += np.where(drawn, np.stack([values.mean(axis=1), values[:, 0], values[:, 5]]), 0)
            known[part] += drawn
    return np.where(known > 0, total / np.maximum(known, 1), np.nan)


def _difference(name: str, a: Floats, b: Floats) -> Difference:
    """Difference from values of the original data set (index 0) and of the resamples."""
    if np.isnan(a[0]):
        return Difference(name, None, None, None, None, None, None)
    differences = (b - a)[1:]
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        return Difference(name, float(a[0]), float(b[0]), float(b[0] - a[0]), None, None, None)
    low, high = np.percentile(differences, ((100 - LEVEL) / 2, (100 + LEVEL) / 2)).tolist()
    better = float((differences > 0).mean() + (differences == 0).mean() / 2)
    return Difference(name, float(a[0]), float(b[0]), float(b[0] - a[0]), low, high, better)
