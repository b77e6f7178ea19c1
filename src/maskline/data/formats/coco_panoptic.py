"""COCO panoptic: a JSON file of segments, and PNG files whose colors are segment ids, red + 256 green + 65536 blue.

Things become instances; stuff (``isthing`` is 0) is left out. https://cocodataset.org/#format-data
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from maskline._wording import short
from maskline.data.dataset import Id, ImageRecord
from maskline.data.faults import Reading, UnusableError
from maskline.data.file_tree import Finder
from maskline.data.formats.assembly import Assembly, Sheet, as_dict
from maskline.data.formats.coco.values import as_integer, id_of, value_of
from maskline.data.formats.pngs import Numbers, masks_of, read_png
from maskline.data.source import Source
from maskline.errors import InputError

TITLE = "COCO panoptic"

_MAX_NUMBERS = 5  # in one message


def detect(source: Source) -> list[str]:
    """The JSON files of segments; none if there are COCO instance files, whose masks they repeat."""
    return [] if source.of_kind("coco") else source.of_kind("panoptic")


def read(source: Source) -> Reading:
    """Read all files; the split of each is the one that its name or folder mentions.

    Raises:
        DatasetError: there are no files, or none can be read.
    """
    assembly = Assembly(source)
    maps = Finder(source.tree.with_suffix("png"))
    for sheet in map(assembly.sheet, source.of_kind("panoptic")):
        with sheet.reading():
            _File(sheet, as_dict(sheet.json(), "the content")).read(maps)
    return assembly.reading("a JSON file with segments_info, and its PNG files")


@dataclass
class _File:
    """One JSON file of segments.

    Attributes:
        things, stuff: class names by id.
        ignored: number of stuff segments by class name.
    """

    sheet: Sheet
    content: Mapping[str, Any]
    things: dict[Id, str] = field(default_factory=dict)
    stuff: dict[Id, str] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)

    def read(self, maps: Finder) -> None:
        """Read the file. Raises UnusableError."""
        images, records, categories = map(self.records, ("images", "annotations", "categories"))
        for category in categories:
            key, name = id_of(category, "id"), value_of(category, "name")
            if key is not None and isinstance(name, str) and name.strip():
                (self.things if category.get("isthing", 1) else self.stuff)[key] = name.strip()
        self.sheet.assembly.declare(self.things.values())
        folder = posixpath.splitext(self.sheet.file)[0]
        pngs = maps.find_all((f"{folder}/{value_of(record, 'file_name')}" for record in records), self.sheet.split)
        but = {match.path for match in pngs.values()}
        found = self.sheet.assembly.find((str(value_of(image, "file_name")) for image in images), self.sheet.split, but)
        by_image: dict[Id | None, list[Any]] = {}
        for record in records:
            by_image.setdefault(id_of(record, "image_id"), []).append(record)
        for image in images:
            name = str(value_of(image, "file_name"))
            for record in by_image.pop(id_of(image, "id"), [None]):
                png = pngs.get(f"{folder}/{value_of(record, 'file_name')}")
                self.image(image, record, found.get(name), None if png is None else png.path)
        for key, left in by_image.items():
            number = sum(map(len, map(_segments, left)))
            self.sheet.fault("unknown-image", f"segments of image {key!r}", lost=number)
        if self.ignored:
            kinds = ", ".join(f"{number} {name}" for name, number in self.ignored.most_common())
            what = f"{self.ignored.total()} segments of stuff: {kinds}"
            self.sheet.fault("shape-ignored", what, lost=self.ignored.total())

    def image(self, given: Any, record: Any, path: str | None, png: str | None) -> None:
        """Add an image and its things.

        Args:
            given: record of the image.
            record: annotation record with its segments, or None.
            path: of the image file, or None.
            png: path of the PNG file with its segment ids, or None.
        """
        segments = _segments(record)
        size = as_integer(value_of(given, "height")) or 0, as_integer(value_of(given, "width")) or 0
        try:
            name = value_of(given, "file_name")
            if not isinstance(name, str):
                raise UnusableError("record", f"the image {short(given)} has no file_name")
            ids = None if record is None else self.ids(value_of(record, "file_name"), png, size)
        except UnusableError as error:
            self.sheet.leave_out(error, len(segments))
            return
        image = self.sheet.image(name, path, annotations=len(segments), size=size if ids is None else ids.shape)
        if image is not None and ids is not None:
            self.segments(segments, ids, image)

    def records(self, key: str) -> list[Any]:
        """One of the lists ``images``, ``annotations`` and ``categories``. Raises UnusableError."""
        found = self.content.get(key)
        if isinstance(found, list):
            return found
        raise UnusableError("file", f"{key} is {short(found)}: expected a list")

    def ids(self, name: Any, png: str | None, size: tuple[int, int]) -> Numbers:
        """The segment id of each pixel. ``size``: of the image, ``(height, width)``, 0 if not stated.

        Raises UnusableError.
        """
        try:
            if png is None:
                raise InputError("missing")
            _, values = read_png(self.sheet.assembly.source.root / png)
            if 0 not in size and values.shape[:2] != size:
                raise InputError(f"{values.shape[1]} x {values.shape[0]} pixels, the image has {size[1]} x {size[0]}")
        except InputError as error:
            raise UnusableError("rle-broken", f"{name}: {error}") from None
        if values.ndim == 2:
            return values.astype(np.int32)
        numbers: Numbers = values[..., :3].astype(np.int32) @ np.asarray([1, 1 << 8, 1 << 16], np.int32)
        return numbers

    def segments(self, segments: list[Any], ids: Numbers, image: ImageRecord) -> None:
        """Add the things of an image."""
        masks = dict(masks_of(ids, ids != 0))
        for place, segment in enumerate(segments):
            with self.sheet.losing(f"image {image.file_name}: segment {place}", image):
                category, number = id_of(segment, "category_id"), as_integer(value_of(segment, "id"))
                if number is None or category is None:
                    raise UnusableError("record", f"it is {short(segment)}: expected an id and a category_id")
                mask = masks.pop(number, None)
                if category in self.stuff:
                    self.ignored[self.stuff[category]] += 1
                elif category not in self.things:
                    raise UnusableError("unknown-category", f"it has category {category!r}")
                elif mask is None:
                    raise UnusableError("mask-empty", f"no pixels have its id, {number}")
                else:
                    crowd = segment.get("iscrowd") in (1, True)
                    self.sheet.add(image, self.things[category], mask, crowd=crowd)
        if masks:
            numbers = ", ".join(map(str, list(masks)[:_MAX_NUMBERS]))
            what = f"image {image.file_name}: {len(masks)} segments that segments_info does not list, such as {numbers}"
            self.sheet.fault("record", what, image, lost=len(masks))


def _segments(record: Any) -> list[Any]:
    segments = value_of(record, "segments_info")
    return segments if isinstance(segments, list) else []
