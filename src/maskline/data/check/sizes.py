"""Compare listed image sizes with the files, and determine which of the two the masks were drawn on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from maskline.data.check.masks import OUTSIDE
from maskline.data.dataset import Annotation, Dataset, Id, ImageRecord
from maskline.data.faults import Fault
from maskline.inputs import SIDEWAYS, UPRIGHT

CLEARLY = 0.02  # share of the longer side; a mask that extends further beyond an image was not drawn on it

Frame: TypeAlias = Literal["listed", "file"]


@dataclass(frozen=True, slots=True)
class ActualSize:
    """Size and orientation of an image file.

    Attributes:
        size: ``(height, width)`` as read, with its EXIF orientation applied.
        orientation: in EXIF, 1 to 8.
    """

    image: ImageRecord
    size: tuple[int, int]
    orientation: int

    @property
    def is_swapped(self) -> bool:
        """Whether width and height are swapped in the record."""
        return self.size != self.image.size and self.size == self.image.size[::-1]


class SizeFinding(NamedTuple):
    """A fault in the size or orientation of an image.

    Attributes:
        drawn: the image with the size that its masks were drawn on; None if that is neither the listed size (with the
            pixels as stored) nor the file's.
    """

    image: ImageRecord
    fault: Fault
    drawn: ImageRecord | None


def size_findings(dataset: Dataset, found: Sequence[ActualSize]) -> Iterator[SizeFinding]:
    """Findings for images whose size differs from the record, or with an EXIF orientation."""
    frames = drawn_on(dataset, [shown.image for shown in found if shown.is_swapped])
    for shown in found:
        image, turned = shown.image, shown.orientation
        listed, real = f"{image.width} x {image.height}", f"{shown.size[1]} x {shown.size[0]}"
        rotated = f"listed as {listed}, but {real} once its EXIF orientation ({turned}) is applied"
        drawn: ImageRecord | None = image
        if shown.size == image.size:
            if turned == UPRIGHT:
                continue
            code, what = "image-exif", f"its EXIF orientation is {turned}"
        elif not dataset.of(image) or not shown.is_swapped or turned not in SIDEWAYS:
            code, what = "image-size", f"listed as {listed}, the file is {real}"
            drawn = _drawn_on_file(dataset, shown, frames.get(image.id))
        elif frames[image.id] == "file":
            code, what = "image-size", f"{rotated}; the masks were drawn with it"
            drawn = _resized(shown)
        elif frames[image.id] == "listed":
            code, what = "image-turned", f"{rotated}; the masks were drawn without it"
        else:
            code, what = "image-rotation", f"{rotated}; the masks may have been drawn with or without it"
        yield SizeFinding(image, Fault(code, dataset.split, image.file_name, what, image.id), drawn)


def _resized(shown: ActualSize) -> ImageRecord:
    return replace(shown.image, width=shown.size[1], height=shown.size[0])


def _drawn_on_file(dataset: Dataset, shown: ActualSize, frame: Frame | None) -> ImageRecord | None:
    """The image with the size of its file; None unless the masks show that they were drawn on that.

    They do if they extend beyond the listed size but not the file's. Where the two are swapped, it is enough that they
    fit the file's and no other mask contradicts. For a resized or cropped image this can't be determined.
    """
    annotations = dataset.of(shown.image)
    if not annotations:
        return _resized(shown)
    if any(isinstance(annotation.segmentation, str) for annotation in annotations):
        return None  # RLE masks have the listed size
    if frame is None:
        fits = all(_beyond(annotation, shown.size) <= OUTSIDE for annotation in annotations)
        leaves = any(_beyond(annotation, shown.image.size) > OUTSIDE for annotation in annotations)
        return _resized(shown) if fits and (leaves or shown.is_swapped) else None
    return _resized(shown) if frame == "file" else None


def drawn_on(dataset: Dataset, images: Iterable[ImageRecord]) -> dict[Id, Frame | None]:
    """For images whose width and height are swapped: which size their masks were drawn on; None if unknown.

    Either the listed size, which belongs to the pixels as stored, or that of the file with its orientation applied. A
    mask decides if it fits one of them and clearly extends beyond the other. If no mask of an image does, those of the
    other images decide if they all agree, because one tool wrote the file.
    """
    votes = {image.id: {vote for a in dataset.of(image) if (vote := _vote(a, image))} for image in images}
    of_all = {vote for own in votes.values() for vote in own}
    return {key: _only(own or of_all) for key, own in votes.items()}


def _only(votes: set[Frame]) -> Frame | None:
    return next(iter(votes)) if len(votes) == 1 else None


def _vote(annotation: Annotation, image: ImageRecord) -> Frame | None:
    """The only size that a mask can have been drawn on, if there is one. RLE masks have the listed size."""
    if isinstance(annotation.segmentation, str):
        return "listed"
    clearly = max(OUTSIDE, CLEARLY * max(image.size))
    listed, file = (_beyond(annotation, size) for size in (image.size, image.size[::-1]))
    if listed <= OUTSIDE and file > clearly:
        return "listed"
    return "file" if file <= OUTSIDE and listed > clearly else None


def _beyond(annotation: Annotation, size: tuple[int, int]) -> float:
    """Pixels by which polygons extend beyond an image of ``(height, width)``; 0 for RLE."""
    if isinstance(annotation.segmentation, str):
        return 0.0
    points = np.concatenate(annotation.segmentation)
    return float(max(0.0, -points.min(), (points - size[::-1]).max()))
