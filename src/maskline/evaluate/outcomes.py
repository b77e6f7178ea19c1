"""Verdicts on objects and detections at one threshold, for the confusion matrix and the worst images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from maskline.data.dataset import Id
from maskline.evaluate.detections import Floats, ImageDetections, Truth
from maskline.evaluate.matching import iou_matrix
from maskline.instances import IntArray

MATCHED = 0.5  # least IoU of a match
GOOD = 0.75  # least IoU of a good mask
NOTHING = -1

#: For an object: found, found with a poor mask, detected as another class, missed, or a crowd region. For a detection:
#: that of its object; false without an object; crowd inside a crowd region.
Verdict: TypeAlias = Literal["found", "poor", "confused", "missed", "false", "crowd"]


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Matches of detections and objects in one image.

    Attributes:
        objects: (D,) int64, the object of each detection, -1 if unmatched.
        ious: (D,) float64, IoU with it, 0 if unmatched.
        excused: (D,) bool: unmatched but inside a crowd region of its class, so ignored.
    """

    objects: IntArray
    ious: Floats
    excused: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ImageOutcome:
    """Outcome of one image at the threshold.

    Attributes:
        found: objects with a detection of their class and a good mask (IoU of 0.75 or more).
        poor: the same with a poor one (0.5 to 0.75).
        confused: objects whose detection is of another class.
        missed: objects without a detection.
        false: detections without an object, except in crowd regions.
        quality: panoptic quality (Kirillov et al., 2019, with all classes as one): the sum of IoUs of objects found,
            over their number plus half the errors; 1 without objects and detections.
    """

    image_id: Id
    file: str
    found: int
    poor: int
    confused: int
    missed: int
    false: int
    quality: float

    @property
    def errors(self) -> int:
        """Number of wrong objects and detections, not counting poor masks."""
        return 2 * self.confused + self.missed + self.false

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-serializable values."""
        return {name: getattr(self, name) for name in self.__slots__}


def match_detections(truth: Truth, detections: ImageDetections) -> Matches:
    """Match detections with objects by mask IoU of at least 0.5, by descending score.

    Detections first match objects of their own class; the rest then match remaining objects of any class. So a second
    detection of an object as another class is a false positive, not a confusion.
    """
    ious = iou_matrix(truth, detections, "mask")
    same = detections.labels[:, None] == truth.labels
    objects, reached = np.full(len(detections), NOTHING), np.where(truth.crowd, 0, ious)
    for allowed in (same, ~same):
        for row in np.flatnonzero((objects == NOTHING) & (reached * allowed >= MATCHED).any(axis=1)):
            best = int((reached[row] * allowed[row]).argmax())
            if reached[row, best] * allowed[row, best] >= MATCHED:
                objects[row] = best
                reached[:, best] = 0
    excused = (objects == NOTHING) & (ious * (same & truth.crowd) >= MATCHED).any(axis=1)
    paired = np.where(objects == NOTHING, 0, np.take_along_axis(_padded(ious), objects[:, None], axis=1)[:, 0])
    return Matches(objects, paired, excused)


def verdicts(truth: Truth, detections: ImageDetections, pairs: Matches) -> tuple[list[Verdict], list[Verdict]]:
    """The verdict on each object, and on each detection."""
    ours: list[Verdict] = []
    theirs: list[Verdict] = ["crowd" if crowd else "missed" for crowd in truth.crowd]
    rows = zip(pairs.objects.tolist(), pairs.ious.tolist(), pairs.excused.tolist(), strict=True)
    for place, (partner, iou, excused) in enumerate(rows):
        if partner == NOTHING:
            ours.append("crowd" if excused else "false")
            continue
        right = truth.labels[partner] == detections.labels[place]
        ours.append("confused" if not right else "found" if iou >= GOOD else "poor")
        theirs[partner] = ours[-1]
    return theirs, ours


def image_outcome(image_id: Id, file: str, truth: Truth, detections: ImageDetections, pairs: Matches) -> ImageOutcome:
    """Count the verdicts of one image."""
    theirs, ours = verdicts(truth, detections, pairs)
    right = np.asarray([verdict in ("found", "poor") for verdict in ours], np.bool_)
    counts, false = Counter(theirs), ours.count("false")
    total = int(right.sum()) + counts["confused"] + (counts["missed"] + false) / 2
    quality = float(pairs.ious[right].sum() / total) if total else 1.0
    return ImageOutcome(
        image_id, file, counts["found"], counts["poor"], counts["confused"], counts["missed"], false, quality
    )


def confusion_matrix(cases: Sequence[tuple[Truth, ImageDetections, Matches]], classes: int) -> IntArray:
    """Confusion matrix, (classes + 1, classes + 1) int64: rows are true, columns predicted classes, background last."""
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    for truth, detections, pairs in cases:
        paired = pairs.objects != NOTHING
        np.add.at(matrix, (truth.labels[pairs.objects[paired]], detections.labels[paired]), 1)
        np.add.at(matrix[classes], detections.labels[~paired & ~pairs.excused], 1)
        missed = np.setdiff1d(np.flatnonzero(~truth.crowd), pairs.objects)
        np.add.at(matrix[:, classes], truth.labels[missed], 1)
    return matrix


def worst_images(outcomes: Sequence[ImageOutcome], number: int) -> list[ImageOutcome]:
    """Images with errors or poor masks, lowest quality first; ties by number of errors."""
    bad = (outcome for outcome in outcomes if outcome.errors or outcome.poor)
    return sorted(bad, key=lambda outcome: (outcome.quality, -outcome.errors))[:number]


def confusions(matrix: IntArray, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Nonzero cells of a confusion matrix, largest first; None stands for background."""
    labels = [*names, None]
    rows, columns = np.nonzero(matrix)
    for place in np.argsort(-matrix[rows, columns], kind="stable").tolist():
        row, column = int(rows[place]), int(columns[place])
        yield {"truth": labels[row], "prediction": labels[column], "count": int(matrix[row, column])}


def _padded(ious: Floats) -> Floats:
    """Append a column of zeros, which index -1 selects."""
    return np.pad(ious, ((0, 0), (0, 1)))
