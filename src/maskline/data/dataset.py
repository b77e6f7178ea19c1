"""One split of a data set in memory: images, annotations, categories, as in COCO's JSON but validated.

A `Dataset` guarantees: ids of images, annotations and categories are unique, every annotation belongs to a known image
and category, and every segmentation can be rasterised.
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
    """A class. Its label in a network is its index in `Dataset.categories`, not its id."""

    id: Id
    name: str
    extra: Extra = field(default_factory=lambda: NOTHING, repr=False)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image as listed; the file is not opened.

    Attributes:
        file_name: relative to `Dataset.folder`, with forward slashes; never outside that folder.
        width, height: pixels, with the EXIF orientation applied.
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
        segmentation: polygons, or RLE over the whole image; see `maskline.data.shapes`.
        box: ``x y width height`` in pixels as stated in the file, or None. The mask is authoritative.
        area: in pixels as stated in the file, or None.
        crowd: a region of many objects, ignored in training and evaluation.
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
        split: ``train``, ``val``, ``test``; or ``all`` if the data set is not split.
        folder: the folder that image file names are relative to.
        source: the file or folder it was read from.
        info: other top-level keys of the file, such as ``info`` and ``licenses``.
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
        """Labels by category id."""
        return {category.id: index for index, category in enumerate(self.categories)}

    @cached_property
    def annotation_ids(self) -> set[Id]:
        """The ids of all annotations."""
        return {annotation.id for annotation in self.annotations}

    @property
    def names(self) -> list[str]:
        """Class names in the order of their labels."""
        return [category.name for category in self.categories]

    def path(self, image: ImageRecord) -> Path:
        """The expected path of an image."""
        return self.folder / image.file_name

    def of(self, image: ImageRecord) -> Sequence[Annotation]:
        """The annotations of an image in the order of the file; empty for a background image."""
        return self._by_image.get(image.id, ())

    @cached_property
    def _by_image(self) -> dict[Id, list[Annotation]]:
        found: dict[Id, list[Annotation]] = {}
        for annotation in self.annotations:
            found.setdefault(annotation.image_id, []).append(annotation)
        return found

    def instances(self, image: ImageRecord, *, crowd: bool = True) -> Instances:
        """The masks of an image as arrays in the order of the file, with scores of 1; empty masks are left out.

        Args:
            crowd: include crowd regions.
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
        """A subset: these images in this order with their annotations, and all categories."""
        kept = tuple(images)
        annotations = tuple(annotation for image in kept for annotation in self.of(image))
        return replace(self, split=split or self.split, images=kept, annotations=annotations)
