"""Width and height as listed against those of the file, and which of the two the masks were drawn on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from maskline.data.check.masks import OUTSIDE
from maskline.data.dataset import Annotation, Dataset, Id, ImageRecord
from maskline.data.faults import Fault
from maskline.inputs import SIDEWAYS, UPRIGHT

CLEARLY = 0.02  # of the longer side: a mask that leaves an image by more was not drawn on it

Frame: TypeAlias = Literal["listed", "file"]


@dataclass(frozen=True, slots=True)
class Shown:
    """How the file of an image is shown.

    Attributes:
        size: ``(height, width)`` as read, that is upright.
        orientation: what the file states, 1 to 8.
    """

    image: ImageRecord
    size: tuple[int, int]
    orientation: int

    @property
    def is_swapped(self) -> bool:
        """Whether width and height are listed the wrong way round."""
        return self.size != self.image.size and self.size == self.image.size[::-1]


class Finding(NamedTuple):
    """What is wrong with the size or orientation of an image.

    Attributes:
        drawn: the image with the size on which its masks were drawn; None if that is neither the size listed, with the
            pixels as they are stored, nor that of the file.
    """

    image: ImageRecord
    fault: Fault
    drawn: ImageRecord | None


def of_sizes(dataset: Dataset, found: Sequence[Shown]) -> Iterator[Finding]:
    """The images of a split that are not of the size listed, or state an orientation."""
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
        yield Finding(image, Fault(code, dataset.split, image.file_name, what, image.id), drawn)


def _resized(shown: Shown) -> ImageRecord:
    return replace(shown.image, width=shown.size[1], height=shown.size[0])


def _drawn_on_file(dataset: Dataset, shown: Shown, frame: Frame | None) -> ImageRecord | None:
    """The image with the size of its file; None unless the masks show that they were drawn on that.

    They do if they leave the size listed but not the file's. Where the two are swapped, it is enough that they fit the
    file's, if no other mask speaks against it. An image that was resized or cropped gives no such sign: nothing tells
    what became of its masks then.
    """
    annotations = dataset.of(shown.image)
    if not annotations:
        return _resized(shown)
    if any(isinstance(annotation.segmentation, str) for annotation in annotations):
        return None  # run lengths are of the size listed
    if frame is None:
        fits = all(_beyond(annotation, shown.size) <= OUTSIDE for annotation in annotations)
        leaves = any(_beyond(annotation, shown.image.size) > OUTSIDE for annotation in annotations)
        return _resized(shown) if fits and (leaves or shown.is_swapped) else None
    return _resized(shown) if frame == "file" else None


def drawn_on(dataset: Dataset, images: Iterable[ImageRecord]) -> dict[Id, Frame | None]:
    """For images whose width and height are listed the wrong way round: on which size their masks were drawn.

    It is the size as listed, which goes with the pixels as they are stored or once were, or that of the file as it is
    shown. A mask tells if it fits one of them and clearly leaves the other. Where none of an image does, those of the
    other images decide if all agree, because one tool wrote the file. None: that can't be told.
    """
    votes = {image.id: {vote for a in dataset.of(image) if (vote := _vote(a, image))} for image in images}
    of_all = {vote for own in votes.values() for vote in own}
    return {key: _only(own or of_all) for key, own in votes.items()}


def _only(votes: set[Frame]) -> Frame | None:
    return next(iter(votes)) if len(votes) == 1 else None


def _vote(annotation: Annotation, image: ImageRecord) -> Frame | None:
    """The one size that a mask can have been drawn on. Run lengths are of the size listed."""
    if isinstance(annotation.segmentation, str):
        return "listed"
    clearly = max(OUTSIDE, CLEARLY * max(image.size))
    listed, file = (_beyond(annotation, size) for size in (image.size, image.size[::-1]))
    if listed <= OUTSIDE and file > clearly:
        return "listed"
    return "file" if file <= OUTSIDE and listed > clearly else None


def _beyond(annotation: Annotation, size: tuple[int, int]) -> float:
    """Pixels by which polygons leave an image of ``(height, width)``; 0 for run lengths."""
    if isinstance(annotation.segmentation, str):
        return 0.0
    points = np.concatenate(annotation.segmentation)
    return float(max(0.0, -points.min(), (points - size[::-1]).max()))
