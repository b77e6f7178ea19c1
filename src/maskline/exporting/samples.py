"""Pictures for 8 bits: some to calibrate with, others to measure with what it costs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from maskline.data import convert
from maskline.data.dataset import Dataset
from maskline.data.layout import refuse_errors
from maskline.errors import DatasetError, InputError, InputNotFoundError
from maskline.inputs import read_image
from maskline.inputs.files import files_in
from maskline.instances import ByteArray
from maskline.preprocess import Preprocess

TO_CALIBRATE, TO_COMPARE = 50, 25  # pictures at most
FEWEST = 2  # pictures: one for each

log = logging.getLogger("maskline")


@dataclass(frozen=True, slots=True)
class Samples:
    """Pictures by what they are for.

    Attributes:
        calibration: files that ranges of values are measured on.
        held_out: other files, to compare on.
        annotated: a data set to measure AP on, none of whose pictures is among the calibration's; None: there is none.
    """

    calibration: tuple[Path, ...]
    held_out: tuple[Path, ...]
    annotated: Dataset | None = None


def find(source: Path) -> Samples:
    """Pictures of a data set (calibrated on its ``train`` split, measured on ``val``) or of a folder (every fifth is
    held out), spread evenly over all there are.

    Raises:
        InputNotFoundError: no such folder.
        InputError: too few pictures.
        DatasetError: a data set with errors.
    """
    if not source.is_dir():
        raise InputNotFoundError(f"no folder {source}: int8 needs a data set, or a folder of some dozens of pictures")
    splits = _splits(source)
    if {"train", "val"} <= set(splits):
        train, val = splits["train"], splits["val"]
        return Samples(
            _spread([train.path(image) for image in train.images], TO_CALIBRATE),
            _spread([val.path(image) for image in val.images], TO_COMPARE),
            val,
        )
    paths = [Path(name) for name in files_in(str(source)) if not name.lower().endswith(".pdf")]
    if len(paths) < FEWEST:
        raise InputError(f"{source} has {len(paths)} pictures: int8 needs {FEWEST} at least, better some dozens")
    held_out = paths[1::5]
    return Samples(_spread([p for p in paths if p not in set(held_out)], TO_CALIBRATE), _spread(held_out, TO_COMPARE))


def batches(paths: Sequence[Path], preprocess: Preprocess) -> Iterator[npt.NDArray[Any]]:
    """Inputs (1, H, W, 3) of a graph, a picture in each."""
    for pixels in pictures(paths):
        yield preprocess.apply(pixels)[0][None]


def pictures(paths: Sequence[Path]) -> Iterator[ByteArray]:
    """The pictures that can be read, BGR; of the others a warning tells."""
    for path in paths:
        try:
            yield read_image(path)
        except InputError as error:
            log.warning("skipped: %s", error)


def _splits(source: Path) -> dict[str, Dataset]:
    try:
        convert.recognize(source)
    except DatasetError:
        return {}
    reading = convert.read(source)
    refuse_errors(reading)
    return dict(reading.splits)


def _spread(paths: Sequence[Path], most: int) -> tuple[Path, ...]:
    """At most so many of them, at even distances."""
    count = min(most, len(paths))
    return tuple(paths[i * len(paths) // count] for i in range(count))
