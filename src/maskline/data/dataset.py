"""A data set of one split in memory: images, annotations, categories. What COCO's JSON holds, made small and sound.

Whatever a file looked like, a `Dataset` keeps these promises: ids of images, annotations and categories are unique,
every annotation belongs to a known image and a known category, and every segmentation can be turned into pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from maskline._wording import counted
from maskline.data.shapes import Segmentation, crop
from maskline.instances import Instances

Id: TypeAlias = int | str
Extra: TypeAlias = Mapping[str, Any]  # keys of a record that maskline does not use but keeps
NOTHING: Extra = {}


@dataclass(frozen=True, slots=True)
class Category:
    """A class. Its index for a network is its place in `Dataset.categories`, whatever its id."""

    id: Id
    name: str
    extra: Extra = field(default_factory=lambda: NOTHING, repr=False)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image of the set, as listed; the file is not looked at.

    Attributes:
        file_name: relative to `Dataset.folder`, with forward slashes; may lead through sub-folders, never out.
        width, height: pixels, as the image is seen after its EXIF orientation is applied.
        embedded: the annotation file that holds the image, if it has no file of its own.
    """

    id: Id
    file_name: str
    width: int
    height: int
    extra: Extra = field(default_factory=lambda: NOTHING, repr=False)
    embedded: Path | None = None

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)``."""
        return self.height, self.width


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """One instance.

    Attributes:
        segmentation: polygons or run lengths over the whole image, see `maskline.data.shapes`.
        box: ``x y width height`` in pixels as the file states it, None where it does not. Masks have the last word.
        area: in pixels, as stated; likewise.
        crowd: a region of many objects: neither learned from nor counted against a prediction.
    """

    id: Id
    image_id: Id
    category_id: Id
    segmentation: Segmentation
    box: tuple[float, float, float, float] | None = None
    area: float | None = None
    crowd: bool = False
    extra: Extra = field(default_factory=lambda: NOTHING, repr=False)


@dataclass(frozen=True)
class Dataset:
    """One split.

    Attributes:
        split: ``train``, ``val``, ``test``; or ``all`` where a set has not been split.
        folder: where the images' file names start from.
        source: the file or folder it was read from.
        info: what else the file held at its top, such as ``info`` and ``licenses``.
    """

    split: str
    folder: Path
    images: Sequence[ImageRecord]
    annotations: Sequence[Annotation]
    categories: Sequence[Category]
    source: Path = Path()
    info: Extra = field(default_factory=lambda: NOTHING, repr=False)

    def __repr__(self) -> str:
        counts = (
            (len(self.images), "image"),
            (len(self.annotations), "annotation"),
            (len(self.categories), "class", "classes"),
        )
        return f"Dataset({self.split!r}, {str(self.folder)!r}: {', '.join(counted(*count) for count in counts)})"

    @cached_property
    def by_id(self) -> dict[Id, ImageRecord]:
        """Images by their id."""
        return {image.id: image for image in self.images}

    @cached_property
    def labels(self) -> dict[Id, int]:
        """From a category's id to its index."""
        return {category.id: index for index, category in enumerate(self.categories)}

    @cached_property
    def annotation_ids(self) -> set[Id]:
        """The ids of all annotations."""
        return {annotation.id for annotation in self.annotations}

    @property
    def names(self) -> list[str]:
        """Class names, in the order of their indices."""
        return [category.name for category in self.categories]

    def path(self, image: ImageRecord) -> Path:
        """Where the file should be."""
        return self.folder / image.file_name

    def of(self, image: ImageRecord) -> Sequence[Annotation]:
        """The annotations of an image, in the order of the file; none for a background image."""
        return self._by_image.get(image.id, ())

    @cached_property
    def _by_image(self) -> dict[Id, list[Annotation]]:
        found: dict[Id, list[Annotation]] = {}
        for annotation in self.annotations:
            found.setdefault(annotation.image_id, []).append(annotation)
        return found

    def instances(self, image: ImageRecord, *, crowd: bool = True) -> Instances:
        """The masks of an image as arrays, in the order of the file, with scores of 1; empty masks are left out.

        Args:
            crowd: also crowd regions.
        """
        boxes, labels, masks = [], [], []
        for annotation in self.of(image):
            found = crop(annotation.segmentation, image.size) if crowd or not annotation.crowd else None
            if found is not None:
                mask, window = found
                boxes.append(window.box_xyxy)
                labels.append(self.labels[annotation.category_id])
                masks.append(mask)
        return Instances(
            boxes=np.asarray(boxes, np.float32).reshape(-1, 4),
            scores=np.ones(len(boxes), np.float32),
            labels=np.asarray(labels, np.int64),
            masks=tuple(masks),
            outside=np.zeros(len(boxes), np.float32),
            size=image.size,
        )

    def select(self, images: Iterable[ImageRecord], split: str | None = None) -> Dataset:
        """A part: these images, in this order, with their annotations; all categories stay."""
        kept = tuple(images)
        annotations = tuple(annotation for image in kept for annotation in self.of(image))
        return replace(self, split=split or self.split, images=kept, annotations=annotations)
