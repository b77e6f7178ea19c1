"""What a data set means as a whole, whatever its format: settled once it is read, before anything else uses it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby

from maskline._wording import counted
from maskline.data import crowds, scale
from maskline.data.classes import without_no_objects
from maskline.data.crowds import Crowd
from maskline.data.dataset import Dataset
from maskline.data.faults import Fault, Reading, ordered
from maskline.data.shapes import is_rectangle

BOXES = (5, 0.9)  # instances, and the share of rectangles among them, that make a data set for detection

logger = logging.getLogger("maskline")


def settled(reading: Reading, crowd: Crowd | None = None) -> Reading:
    """Leave out classes that are not objects, settle what crowd regions are, and see that polygons are in pixels.

    Args:
        reading: as a format's reader gives it.
        crowd: what crowd regions are; None keeps them, see `crowds.faults`.
    """
    reading = without_no_objects(reading)
    notes = list(reading.notes)
    if crowd == "instances":
        numbers = {split: crowds.count(dataset) for split, dataset in reading.splits.items()}
        notes += [
            f"{counted(number, 'crowd region')} of {split} read as instances"
            for split, number in numbers.items()
            if number
        ]
        reading = replace(reading, splits=crowds.as_instances(reading.splits)) if any(numbers.values()) else reading
    found = [fault for dataset in reading.splits.values() for fault in scale.faults(dataset)]
    return replace(reading, faults=[*reading.faults, *found, *_boxes(reading.splits)], notes=notes)


def _boxes(splits: Mapping[str, Dataset]) -> Iterator[Fault]:
    """A warning if nearly all instances are rectangles along the axes."""
    instances = [a for dataset in splits.values() for a in dataset.annotations if not a.crowd]
    rectangles = sum(is_rectangle(annotation.segmentation) for annotation in instances)
    if len(instances) >= BOXES[0] and rectangles >= BOXES[1] * len(instances):
        split, dataset = next(iter(splits.items()))
        what = f"{rectangles} of {len(instances)} instances are boxes: their masks are rectangles"
        yield Fault("boxes-only", split, dataset.source.name, what)


def log_warnings(reading: Reading, crowd: Crowd | None = None) -> None:
    """Log what was left out or may not be meant, one line for each kind: for commands that go on regardless."""
    warnings = [fault for fault in reading.faults if fault.kind.severity == "warning"]
    if crowd is None:
        warnings += crowds.faults(reading.splits)
    for kind, group in groupby(ordered(warnings), key=lambda fault: fault.kind):
        first, *others = group
        more = f" (and {len(others)} more)" if others else ""
        logger.warning("%s: %s: %s%s; %s", kind.title, first.file, first.what, more, kind.advice)
