"""Crowd regions, and single objects wrongly marked as such: CVAT exports every brush or SAM mask as a crowd.

COCO marks regions of many objects with ``iscrowd: 1`` and stores them as RLE. They are about 1 % of its annotations, at
most one per class and image, and are ignored in training and evaluation.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from maskline._wording import counted
from maskline.data.dataset import Dataset
from maskline.data.faults import MAX_NAMES, Fault

#: Names of the flag (LabelMe) or attribute (CVAT) that marks a crowd region; the first is the one written.
NAMES = ("iscrowd", "is_crowd", "crowd")
TRUE = ("1", "true", "yes", "y", "t", "on")
FALSE = ("0", "false", "no", "n", "f", "off", "")

LEAST = 5  # marked masks, below which nothing is concluded
HABIT = 0.9  # share of a class's RLE masks that are marked
SHARE = 0.2  # share of all annotations of a class; COCO's classes have up to 5 %


def is_marked(values: Mapping[str, Any]) -> bool:
    """Whether flags or attributes mark a crowd region."""
    return any(name in NAMES and text in TRUE for name, text in _spelled(values))


def unmarked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Flags or attributes without those that mark crowd regions."""
    marks = zip(values, _spelled(values), strict=True)
    return {key: values[key] for key, (name, text) in marks if name not in NAMES or text not in (*TRUE, *FALSE)}


def _spelled(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    return ((name.strip().lower(), str(value).strip().lower()) for name, value in values.items())


def as_instances(splits: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """The data sets with every crowd region as an instance."""
    return {
        split: replace(dataset, annotations=[replace(a, crowd=False) if a.crowd else a for a in dataset.annotations])
        for split, dataset in splits.items()
    }


def count(dataset: Dataset) -> int:
    """The number of crowd regions."""
    return sum(annotation.crowd for annotation in dataset.annotations)


def faults(splits: Mapping[str, Dataset]) -> Iterator[Fault]:
    """One fault for each split whose crowd regions seem to be single objects.

    They do if nearly all RLE masks are marked, and either their share of all annotations is larger than that of real
    crowd regions, or most images have several; over all classes together, else per class. A split that consists of
    crowd regions only is always reported.
    """
    whole, classes = _tallies(splits)
    suspects = {name for name, tally in classes.items() if whole.is_habit or tally.is_habit}
    for split, dataset in splits.items():
        total, crowds = len(dataset.annotations), Counter[str]()
        every = count(dataset) == total > 0
        for annotation in dataset.annotations:
            if annotation.crowd:
                name = dataset.categories[dataset.labels[annotation.category_id]].name
                if every or (name in suspects and isinstance(annotation.segmentation, str)):
                    crowds[name] += 1
        if crowds:
            some = ", ".join(f"{number} {name!r}" for name, number in crowds.most_common(MAX_NAMES))
            more = ", ..." if len(crowds) > MAX_NAMES else ""
            what = f"{crowds.total()} of {counted(total, 'annotation')} with iscrowd 1 ({some}{more})"
            yield Fault("crowd-only", split, dataset.source.name, what)


@dataclass
class _Tally:
    """Counts of annotations of one class, or of all."""

    marked: int = 0  # RLE masks marked as crowds
    plain: int = 0  # other RLE masks
    total: int = 0
    images: Counter[tuple[object, ...]] = field(default_factory=Counter)  # marked masks by split, image and class

    @property
    def is_habit(self) -> bool:
        if self.marked < LEAST or self.marked < HABIT * (self.marked + self.plain):
            return False
        several = sum(number > 1 for number in self.images.values())
        return self.marked >= SHARE * self.total or 2 * several >= len(self.images)


def _tallies(splits: Mapping[str, Dataset]) -> tuple[_Tally, dict[str, _Tally]]:
    """Tallies over all annotations, and by class name."""
    whole, classes = _Tally(), defaultdict[str, _Tally](_Tally)
    for split, dataset in splits.items():
        by_id = {category.id: classes[category.name] for category in dataset.categories}
        for annotation in dataset.annotations:
            for tally in (whole, by_id[annotation.category_id]):
                tally.total += 1
                if isinstance(annotation.segmentation, str):
                    tally.marked += annotation.crowd
                    tally.plain += not annotation.crowd
                    if annotation.crowd:
                        tally.images[split, annotation.image_id, annotation.category_id] += 1
    return whole, dict(classes)
