"""Interpret a data set as a whole after reading, whatever its format: classes, crowds, units, boxes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby

from maskline._wording import counted
from maskline.data import crowds, units
from maskline.data.background_classes import drop_background
from maskline.data.dataset import Dataset
from maskline.data.faults import Fault, Reading, ordered
from maskline.data.options import Crowd
from maskline.data.shapes import is_rectangle

BOXES = (5, 0.9)  # least instances, and least share of rectangles, of a data set for detection

logger = logging.getLogger("maskline")


def interpret(reading: Reading, crowd: Crowd | None = None) -> Reading:
    """Drop classes that are not objects, convert crowd regions as asked, and check that polygons are in pixels.

    Args:
        reading: from the reader of a format.
        crowd: how to read crowd regions; None keeps them, see `crowds.faults`.
    """
    reading = drop_background(reading)
    notes = list(reading.notes)
    if crowd == "instances":
        numbers = {split: crowds.count(dataset) for split, dataset in reading.splits.items()}
        notes += [
            f"{counted(number, 'crowd region')} of {split} read as instances"
            for split, number in numbers.items()
            if number
        ]
        reading = replace(reading, splits=crowds.as_instances(reading.splits)) if any(numbers.values()) else reading
    found = [fault for dataset in reading.splits.values() for fault in units.faults(dataset)]
    return replace(reading, faults=[*reading.faults, *found, *_boxes(reading.splits)], notes=notes)


def _boxes(splits: Mapping[str, Dataset]) -> Iterator[Fault]:
    """A warning for each split that has rectangles, if nearly all instances of the data set are axis-aligned ones."""
    shapes = {
        split: [is_rectangle(annotation.segmentation) for annotation in dataset.annotations if not annotation.crowd]
        for split, dataset in splits.items()
    }
    every = [shape for of_split in shapes.values() for shape in of_split]
    if len(every) >= BOXES[0] and sum(every) >= BOXES[1] * len(every):
        for split, of_split in shapes.items():
            if any(of_split):
                what = f"{sum(of_split)} of {len(of_split)} instances are boxes: their masks are rectangles"
                yield Fault("boxes-only", split, splits[split].source.name, what)


def log_warnings(reading: Reading, crowd: Crowd | None = None) -> None:
    """Log warnings, one line per kind, for commands that continue regardless."""
    warnings = [fault for fault in reading.faults if fault.kind.severity == "warning"]
    if crowd is None:
        warnings += crowds.faults(reading.splits)
    for kind, group in groupby(ordered(warnings), key=lambda fault: fault.kind):
        first, *others = group
        more = f" (and {len(others)} more)" if others else ""
        logger.warning("%s: %s: %s%s; %s", kind.title, first.file, first.what, more, kind.advice)
