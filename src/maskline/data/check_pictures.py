"""The images of a data set, each decoded: there, and whole."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from maskline.cores import cores
from maskline.data import twins
from maskline.data.check_sizes import Shown
from maskline.data.dataset import Dataset, ImageRecord
from maskline.data.faults import Fault
from maskline.data.sources import embedded_image, orientation_of
from maskline.errors import InputError, InputNotFoundError
from maskline.inputs import UPRIGHT, expand, read_image


@dataclass(frozen=True, slots=True)
class Look:
    """What one image file showed. Either it could not be read, or the rest is there."""

    faults: tuple[Fault, ...]
    fingerprint: twins.Fingerprint | None = None
    shown: Shown | None = None


def look_at_all(dataset: Dataset) -> Iterator[Look]:
    """Decode every picture of a split, in threads; in the order of its images."""
    threads = ThreadPoolExecutor(cores())
    try:
        yield from threads.map(lambda image: look(dataset, image), dataset.images)
    finally:
        threads.shutdown(cancel_futures=True)


def look(dataset: Dataset, image: ImageRecord) -> Look:
    """Decode one picture."""
    try:
        if image.embedded is not None:
            return _look_inside(image, image.embedded)
        pixels = read_image(dataset.path(image))
    except InputNotFoundError:
        what = f"there is no file {dataset.folder.name}/{image.file_name}"
        return Look((_fault("image-missing", dataset, image, what),))
    except InputError as error:
        return Look((_fault("image-unreadable", dataset, image, str(error)),))
    shown = Shown(image, pixels.shape[:2], orientation_of(dataset.path(image)))
    return Look((), twins.fingerprint(pixels), shown)


def _look_inside(image: ImageRecord, file: Path) -> Look:
    """Decode an image that an annotation file holds. Raises InputError."""
    pixels = next(expand(embedded_image(file))).pixels
    if pixels.shape[:2] != image.size:
        real = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise InputError(f"listed as {image.width} x {image.height}, imageData is {real}")
    return Look((), twins.fingerprint(pixels), Shown(image, image.size, UPRIGHT))


def _fault(code: str, dataset: Dataset, image: ImageRecord, what: str) -> Fault:
    return Fault(code, dataset.split, image.file_name, what, image.id)
