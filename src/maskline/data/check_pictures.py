"""The pictures of a data set: there, whole, of the size their records say, and the right way up."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from maskline.cores import cores
from maskline.data import twins
from maskline.data.dataset import Dataset, ImageRecord
from maskline.data.faults import Fault
from maskline.data.sources import SIDEWAYS, UPRIGHT, embedded_image, orientation
from maskline.errors import InputError, InputNotFoundError
from maskline.inputs import expand, read_image


@dataclass(frozen=True, slots=True)
class Look:
    """What one picture showed.

    Attributes:
        fingerprint: None if it could not be read.
    """

    faults: tuple[Fault, ...]
    fingerprint: twins.Fingerprint | None


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
            return _look_inside(dataset, image, image.embedded)
        pixels = read_image(dataset.path(image))
    except InputNotFoundError:
        return Look(
            (_fault("image-missing", dataset, image, f"there is no file {dataset.folder.name}/{image.file_name}"),),
            None,
        )
    except InputError as error:
        return Look((_fault("image-unreadable", dataset, image, str(error)),), None)
    return Look(tuple(_size_faults(dataset, image, pixels.shape[:2])), twins.fingerprint(pixels))


def _look_inside(dataset: Dataset, image: ImageRecord, file: Path) -> Look:
    """Decode an image that an annotation file holds. Raises InputError."""
    pixels = next(expand(embedded_image(file))).pixels
    if pixels.shape[:2] != image.size:
        real = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise InputError(f"listed as {image.width} x {image.height}, imageData is {real}")
    return Look((), twins.fingerprint(pixels))


def _size_faults(dataset: Dataset, image: ImageRecord, size: tuple[int, ...]) -> Iterator[Fault]:
    """``size``: ``(height, width)`` as read, that is upright."""
    turned = orientation(dataset.path(image))
    stated, real = f"{image.width} x {image.height}", f"{size[1]} x {size[0]}"
    if size == image.size:
        if turned != UPRIGHT:
            yield _fault("image-exif", dataset, image, f"its EXIF orientation is {turned}")
    elif turned in SIDEWAYS and size == image.size[::-1]:
        what = f"listed as {stated}, but {real} once its EXIF orientation ({turned}) is applied"
        yield _fault("image-turned", dataset, image, what)
    else:
        yield _fault("image-size", dataset, image, f"listed as {stated}, the file is {real}")


def _fault(code: str, dataset: Dataset, image: ImageRecord, what: str) -> Fault:
    return Fault(code, dataset.split, image.file_name, what, image.id)
