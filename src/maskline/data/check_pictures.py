"""The pictures of a data set: there, whole, of the size their records say, and the right way up."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from maskline.cores import cores
from maskline.data import twins
from maskline.data.dataset import Dataset, ImageRecord
from maskline.data.faults import Fault
from maskline.data.sources import SIDEWAYS, UPRIGHT, orientation
from maskline.errors import InputError, InputNotFoundError
from maskline.inputs import read_picture


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
    path = dataset.path(image)
    try:
        picture = read_picture(path)
    except InputNotFoundError:
        return Look(
            (_fault("image-missing", dataset, image, f"there is no file {dataset.folder.name}/{image.file_name}"),),
            None,
        )
    except InputError as error:
        return Look((_fault("image-unreadable", dataset, image, str(error)),), None)
    faults = [*_size_faults(dataset, image, picture.pixels.shape[:2])]
    if picture.levels:
        faults.append(_fault("image-dark", dataset, image, str(picture.levels)))
    return Look(tuple(faults), twins.fingerprint(picture.pixels))


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
