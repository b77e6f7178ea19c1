"""Decode every image of a data set: is it present, complete and readable?"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from maskline._cpu import cores
from maskline.data.check import near_duplicates
from maskline.data.check.sizes import ActualSize
from maskline.data.dataset import Dataset, ImageRecord
from maskline.data.faults import Fault
from maskline.data.image_headers import embedded_image, orientation_of
from maskline.errors import InputError, InputNotFoundError
from maskline.inputs import UPRIGHT, InputImage, iter_images, read_input_image


@dataclass(frozen=True, slots=True)
class ImageCheck:
    """Findings about one image; ``fingerprint`` and ``shown`` are None if it could not be read."""

    faults: tuple[Fault, ...]
    fingerprint: near_duplicates.Fingerprint | None = None
    shown: ActualSize | None = None


def check_images(dataset: Dataset) -> Iterator[ImageCheck]:
    """Decode every image of a split in threads; yields in the order of its images."""
    threads = ThreadPoolExecutor(cores())
    try:
        yield from threads.map(lambda image: check_image(dataset, image), dataset.images)
    finally:
        threads.shutdown(cancel_futures=True)


def check_image(dataset: Dataset, image: ImageRecord) -> ImageCheck:
    """Decode one image and collect its faults."""
    try:
        if image.embedded is not None:
            decoded = _embedded(image, image.embedded)
            shown = ActualSize(image, image.size, UPRIGHT)
        else:
            decoded = read_input_image(dataset.path(image))
            shown = ActualSize(image, decoded.pixels.shape[:2], orientation_of(dataset.path(image)))
    except InputNotFoundError:
        what = f"there is no file {dataset.folder.name}/{image.file_name}"
        return ImageCheck((_fault("image-missing", dataset, image, what),))
    except InputError as error:
        return ImageCheck((_fault("image-unreadable", dataset, image, str(error)),))
    dark = (_fault("image-dark", dataset, image, str(decoded.levels)),) if decoded.levels else ()
    return ImageCheck(dark, near_duplicates.fingerprint(decoded.pixels), shown)


def _embedded(image: ImageRecord, file: Path) -> InputImage:
    """Decode an image embedded in an annotation file. Raises InputError."""
    decoded = next(iter_images(embedded_image(file)))
    if decoded.pixels.shape[:2] != image.size:
        real = f"{decoded.pixels.shape[1]} x {decoded.pixels.shape[0]}"
        raise InputError(f"listed as {image.width} x {image.height}, imageData is {real}")
    return decoded


def _fault(code: str, dataset: Dataset, image: ImageRecord, what: str) -> Fault:
    return Fault(code, dataset.split, image.file_name, what, image.id)
