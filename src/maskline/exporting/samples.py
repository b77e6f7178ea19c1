"""Images for int8 export: for calibration, and held out to measure the cost."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from maskline._wording import counted
from maskline.data import reading
from maskline.data.dataset import Dataset
from maskline.errors import InputError, InputNotFoundError
from maskline.inputs import read_image
from maskline.inputs.files import Folder
from maskline.instances import ByteArray
from maskline.preprocess import Preprocess

TO_CALIBRATE, TO_COMPARE = 50, 25  # largest numbers of images

logger = logging.getLogger("maskline")


@dataclass(frozen=True, slots=True)
class Samples:
    """Images by purpose.

    Attributes:
        calibration: files to calibrate with.
        held_out: other files, to compare models on.
        annotated: data set to measure AP on, without calibration files; None if there is none.
    """

    calibration: tuple[Path, ...]
    held_out: tuple[Path, ...]
    annotated: Dataset | None = None


def find(source: Path) -> Samples:
    """Choose images of a data set (``train`` for calibration, ``val`` to measure) or of a folder (every fifth is held
    out), evenly spread.

    Raises:
        InputNotFoundError: no such folder.
        InputError: too few images.
        DatasetError: a data set with errors.
    """
    if not source.is_dir():
        raise InputNotFoundError(f"no folder {source}: int8 needs a data set, or a folder with dozens of images")
    splits = _splits(source)
    if {"train", "val"} <= set(splits):
        annotated = splits["val"]
        train, val = ([part.path(image) for image in part.images] for part in (splits["train"], annotated))
        measured_on = {path.resolve() for path in val}
        train = [path for path in train if path.resolve() not in measured_on]
    else:
        annotated = None
        paths = [Path(name) for name in Folder.of(str(source)).files if not name.lower().endswith(".pdf")]
        val = paths[1::5]
        train = [path for path in paths if path not in set(val)]
    calibration, held_out = _readable(_spread(train, TO_CALIBRATE)), _readable(_spread(val, TO_COMPARE))
    if not calibration or not held_out:
        raise InputError(
            f"{source} has {counted(len(calibration), 'image')} to calibrate with and "
            f"{counted(len(held_out), 'other')} to compare on: "
            "int8 needs at least one of each, preferably dozens"
        )
    return Samples(calibration, held_out, annotated)


def batches(paths: Sequence[Path], preprocess: Preprocess) -> Iterator[npt.NDArray[Any]]:
    """Yield inputs (1, H, W, 3) of a graph, one per image."""
    for pixels in read_images(paths):
        yield preprocess.apply(pixels)[0][None]


def read_images(paths: Sequence[Path]) -> Iterator[ByteArray]:
    """Read the images, BGR."""
    return map(read_image, paths)


def _readable(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return the readable paths; log a warning for others."""
    return tuple(path for path in paths if _can_be_read(path))


def _can_be_read(path: Path) -> bool:
    try:
        read_image(path)
    except InputError as error:
        logger.warning("skipped: %s", error)
        return False
    return True


def _splits(source: Path) -> dict[str, Dataset]:
    return reading.load_splits(source) if reading.is_dataset(source) else {}


def _spread(paths: Sequence[Path], most: int) -> tuple[Path, ...]:
    """Choose at most ``most`` paths, evenly spaced."""
    count = min(most, len(paths))
    return tuple(paths[i * len(paths) // count] for i in range(count))
