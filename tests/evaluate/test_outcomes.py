"""Pairs at a threshold: who stands for whom, what is an error, which images are worst."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures import made

from maskline.evaluate.detections import ImageDetections, Truth, no_detections
from maskline.evaluate.outcomes import (
    ImageOutcome,
    confusion_matrix,
    confusions,
    image_outcome,
    match_detections,
    verdicts,
    worst_images,
)

SQUARE = np.ones((10, 10), np.uint8)
CAT, DOG = 0, 1


def truth(*objects: tuple[int, int, int], crowd: tuple[int, ...] = ()) -> Truth:
    """Squares ``(label, top, left)``; some by their place are crowd regions."""
    return Truth(
        np.asarray([label for label, _, _ in objects], np.int64),
        np.zeros((len(objects), 4)),
        np.full(len(objects), 100.0),
        np.asarray([place in crowd for place in range(len(objects))], np.bool_),
        tuple(made.placed(SQUARE, top, left) for _, top, left in objects),
        made.SIZE,
    )


def found(*objects: tuple[int, int, int]) -> ImageDetections:
    """Squares ``(label, top, left)``, best first."""
    masks = tuple(made.placed(SQUARE, top, left) for _, top, left in objects)
    labels = np.asarray([label for label, _, _ in objects], np.int64)
    return ImageDetections(labels, np.zeros((len(objects), 4)), np.linspace(0.9, 0.5, len(objects)), masks, made.SIZE)


def judged(there: Truth, seen: ImageDetections) -> tuple[list[str], list[str]]:
    theirs, ours = verdicts(there, seen, match_detections(there, seen))
    return list(theirs), list(ours)


def test_each_verdict() -> None:
    there = truth((CAT, 0, 0), (CAT, 20, 0), (DOG, 40, 0), (DOG, 0, 40))
    seen = found((CAT, 0, 1), (CAT, 20, 3), (CAT, 40, 0), (CAT, 40, 60))  # IoU 0.82, 0.54, 1, 0
    assert judged(there, seen) == (["found", "poor", "confused", "missed"], ["found", "poor", "confused", "false"])
    assert match_detections(there, seen).ious == pytest.approx([90 / 110, 70 / 130, 1, 0])


def test_an_object_stands_for_one_detection_only() -> None:
    assert judged(truth((CAT, 0, 0)), found((CAT, 0, 1), (CAT, 0, 0))) == (["found"], ["found", "false"])


def test_own_class_goes_first_whatever_the_scores() -> None:
    """A dog above a cat's mask is a false positive if the cat was found as well, not a confusion."""
    assert judged(truth((CAT, 0, 0)), found((DOG, 0, 0), (CAT, 0, 1))) == (["found"], ["false", "found"])


def test_the_nearest_object_is_taken() -> None:
    there, seen = truth((CAT, 0, 0), (CAT, 0, 3)), found((CAT, 0, 2), (CAT, 0, 0))
    assert match_detections(there, seen).objects.tolist() == [1, 0]


def test_crowd_regions_excuse_but_are_not_missed() -> None:
    there = truth((CAT, 0, 0), crowd=(0,))
    assert judged(there, found((CAT, 0, 3), (DOG, 0, 0))) == (["crowd"], ["crowd", "false"])
    assert judged(there, no_detections(made.SIZE)) == (["crowd"], [])


def test_nothing_at_all() -> None:
    assert judged(truth(), no_detections(made.SIZE)) == ([], [])
    assert judged(truth(), found((CAT, 0, 0))) == ([], ["false"])
    empty = image_outcome(
        1, "a", truth(), no_detections(made.SIZE), match_detections(truth(), no_detections(made.SIZE))
    )
    assert empty.quality == 1 and empty.errors == 0


def test_quality_is_panoptic_quality() -> None:
    there = truth((CAT, 0, 0), (CAT, 20, 0), (DOG, 40, 0), (DOG, 0, 40))
    seen = found((CAT, 0, 1), (CAT, 20, 3), (CAT, 40, 0), (CAT, 40, 60))
    one = image_outcome(1, "a", there, seen, match_detections(there, seen))
    assert (one.found, one.poor, one.confused, one.missed, one.false) == (1, 1, 1, 1, 1)
    assert one.quality == pytest.approx((90 / 110 + 70 / 130) / (2 + 2 / 2 + 2 / 2))  # 2 hits, 2 missed, 2 too many
    assert one.errors == 4


def test_confusion_matrix() -> None:
    there = truth((CAT, 0, 0), (DOG, 20, 0), (DOG, 40, 0), (CAT, 0, 60), crowd=(3,))
    seen = found((CAT, 0, 0), (CAT, 20, 0), (DOG, 40, 60), (CAT, 0, 60))
    matrix = confusion_matrix([(there, seen, match_detections(there, seen))] * 2, 2)
    assert matrix.tolist() == [[2, 0, 0], [2, 0, 2], [0, 2, 0]]
    assert list(confusions(matrix, ["cat", "dog"])) == [
        {"truth": "cat", "prediction": "cat", "count": 2},
        {"truth": "dog", "prediction": "cat", "count": 2},
        {"truth": "dog", "prediction": None, "count": 2},
        {"truth": None, "prediction": "dog", "count": 2},
    ]


def test_worst_first() -> None:
    def one(name: str, quality: float, missed: int = 0, poor: int = 0) -> ImageOutcome:
        return ImageOutcome(name, name, 1, poor, 0, missed, 0, quality)

    all_of_them = [
        one("fine", 1),
        one("poor", 0.8, poor=1),
        one("bad", 0.2, 1),
        one("none", 0, 1),
        one("nothing", 0, 5),
    ]
    assert [o.file for o in worst_images(all_of_them, 9)] == ["nothing", "none", "bad", "poor"]
    assert len(worst_images(all_of_them, 2)) == 2
