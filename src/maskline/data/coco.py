"""COCO's JSON: the form in which maskline keeps data sets, and the centre of all conversions.

Everything that is legal is read: polygons of several parts, run lengths in both forms, crowds, images without
annotations, ids that are numbers or texts, images in sub-folders. What is not legal becomes a fault; reading goes on.
https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias, TypeGuard, cast

import numpy as np

from maskline.data.dataset import NOTHING, Annotation, Category, Dataset, Extra, Id, ImageRecord
from maskline.data.faults import Fault, short
from maskline.data.shapes import Polygons, Segmentation, area, crop
from maskline.errors import DatasetError, DatasetNotFoundError, ParameterError
from maskline.files import replace_file
from maskline.inputs import MAX_PIXELS
from maskline.masks import rle_runs, runs_rle

Json: TypeAlias = dict[str, Any]

FARTHEST = 1e9  # pixels: no coordinate lies beyond

# A number of COCO's compressed run lengths is up to 12 characters, all but the last with the sixth bit set.
_COMPRESSED = re.compile(r"(?:[P-o]{0,11}[0-O])+")


def read(path: Path, folder: Path, split: str) -> tuple[Dataset, list[Fault]]:
    """Read a file of one split; records that are wrong are left out and told as faults.

    Args:
        path: the JSON file.
        folder: where the images' file names start from.
        split: its name.

    Raises:
        DatasetNotFoundError: no such file.
        DatasetError: it is not JSON, or not an object with the lists ``images``, ``annotations`` and ``categories``.
    """
    return _Reader(path, split).read(folder)


def write(dataset: Dataset, path: Path) -> None:
    """Write a file that `read` gives back. Raises OutputError; then nothing has changed.

    Boxes and areas that are not stated are those of the masks.
    """

    def save(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(_chunks(dataset))

    replace_file(path, save)


# ---- reading


class _Reader:
    """One file being read: its records, and the faults so far."""

    def __init__(self, path: Path, split: str) -> None:
        self.path = path
        self.split = split
        self.faults: list[Fault] = []
        self.names: dict[Id, str] = {}  # of images, for messages

    def read(self, folder: Path) -> tuple[Dataset, list[Fault]]:
        content = _parse(self.path)
        images, twins = self.images(_records(content, "images", self.path))
        categories = self.categories(_records(content, "categories", self.path))
        annotations = self.annotations(
            _records(content, "annotations", self.path), {i.id: i for i in images}, {c.id for c in categories}, twins
        )
        info = {key: value for key, value in content.items() if key not in ("images", "annotations", "categories")}
        dataset = Dataset(self.split, folder, images, annotations, categories, self.path, info)
        return dataset, self.faults

    def fault(self, code: str, what: str, image_id: Id | None = None, annotation_id: Id | None = None) -> None:
        if image_id in self.names:
            what = f"{what} (image {self.names[image_id]})"
        self.faults.append(Fault(code, self.split, self.path.name, what, image_id, annotation_id))

    def categories(self, records: Sequence[Any]) -> tuple[Category, ...]:
        found: dict[Id, Category] = {}
        names: dict[str, Id] = {}
        for place, record in enumerate(records):
            key, name = _id(record, "id"), _get(record, "name")
            if key is None or not isinstance(name, str) or not name.strip():
                self.fault("record", f"category {place} is {short(record)}: expected an id and a name")
            elif key in found:
                self.fault("category-id", f"categories {found[key].name!r} and {name!r} both have the id {key!r}")
            else:
                if name in names:
                    self.fault("category-name", f"categories {names[name]!r} and {key!r} are both named {name!r}")
                names[name] = key
                found[key] = Category(key, name, _extra(record, ("id", "name")))
        return tuple(found.values())

    def images(self, records: Sequence[Any]) -> tuple[tuple[ImageRecord, ...], dict[Id, Id]]:
        """The images, and for ids of later records of the same file the id of its first."""
        found: dict[Id, ImageRecord] = {}
        files: dict[str, Id] = {}
        twins: dict[Id, Id] = {}
        for place, record in enumerate(records):
            image = self.image(place, record)
            if image is None:
                continue
            if image.id in found or image.id in twins:
                what = f"images {self.names[image.id]!r} and {image.file_name!r} both have the id {image.id!r}"
                self.fault("image-id", what)
                continue
            self.names[image.id] = image.file_name
            if image.file_name in files:
                twins[image.id] = files[image.file_name]
                what = f"images {twins[image.id]!r} and {image.id!r} are both the file {image.file_name!r}"
                self.fault("image-listed-twice", what, twins[image.id])
                continue
            files[image.file_name] = image.id
            found[image.id] = image
        return tuple(found.values()), twins

    def image(self, place: int, record: Any) -> ImageRecord | None:
        key, name = _id(record, "id"), _get(record, "file_name")
        width, height = _whole(_get(record, "width")), _whole(_get(record, "height"))
        if key is None or not isinstance(name, str) or not name.strip():
            self.fault("record", f"image {place} is {short(record)}: expected an id and a file_name")
            return None
        if width is None or height is None or min(width, height) <= 0 or width * height > MAX_PIXELS:
            given = f"width {short(_get(record, 'width'))} and height {short(_get(record, 'height'))}"
            self.fault("record", f"image {key!r} ({name!r}) has {given}: expected pixels, at most {MAX_PIXELS} in all")
            return None
        inside = relative_name(name)
        if inside is None:
            self.fault("image-path", f"image {key!r} has the file_name {name!r}", key)
            return None
        return ImageRecord(key, inside, width, height, _extra(record, ("id", "file_name", "width", "height")))

    def annotations(
        self, records: Sequence[Any], images: Mapping[Id, ImageRecord], categories: set[Id], twins: Mapping[Id, Id]
    ) -> tuple[Annotation, ...]:
        found: list[Annotation] = []
        for place, record in enumerate(records):
            key = _id(record, "id") if isinstance(record, dict) and "id" in record else place + 1
            image_id, category_id = _id(record, "image_id"), _id(record, "category_id")
            if key is None or image_id is None or category_id is None:
                what = f"annotation {place} is {short(record)}: expected an id, an image_id and a category_id"
                self.fault("record", what)
                continue
            image_id = twins.get(image_id, image_id)
            if image_id not in images:
                self.fault("unknown-image", f"annotation {key!r} is of image {image_id!r}", None, key)
            elif category_id not in categories:
                self.fault("unknown-category", f"annotation {key!r} has category {category_id!r}", image_id, key)
            else:
                segmentation = self.segmentation(record, images[image_id], key)
                if segmentation is not None:
                    found.append(_annotation(record, key, image_id, category_id, segmentation))
        return self.numbered(found)

    def numbered(self, annotations: Sequence[Annotation]) -> tuple[Annotation, ...]:
        """With new ids for those whose id an earlier one has."""
        taken = {annotation.id for annotation in annotations}
        fresh = count(max((key for key in taken if isinstance(key, int)), default=0) + 1)
        found: dict[Id, Annotation] = {}
        for annotation in annotations:
            key = annotation.id
            if key in found:
                self.fault("annotation-id", f"annotation {key!r} is there twice", annotation.image_id, key)
                key = next(fresh)
                annotation = replace(annotation, id=key)
            found[key] = annotation
        return tuple(found.values())

    def segmentation(self, record: Json, image: ImageRecord, key: Id) -> Segmentation | None:
        given = record.get("segmentation")
        if isinstance(given, _Rings):
            return given.rings
        if isinstance(given, dict):
            return self.run_lengths(given, image, key)
        if isinstance(given, list) and given:
            return self.mended(given, image, key)
        self.fault("no-mask", f"annotation {key!r} has the segmentation {short(given)}", image.id, key)
        return None

    def mended(self, given: list[Any], image: ImageRecord, key: Id) -> Polygons | None:
        """The polygons that can be used of a list of which some can't."""
        rings = []
        for number, flat in enumerate(given):
            ring = _flat_ring(flat)
            if ring is None:
                what = f"annotation {key!r}: polygon {number + 1} of {len(given)} is {short(flat)}"
                self.fault("polygon-broken", what, image.id, key)
            else:
                rings.append(ring)
        return tuple(rings) or None

    def run_lengths(self, given: Json, image: ImageRecord, key: Id) -> str | None:
        try:
            return _compressed(given, image.size)
        except ParameterError as error:
            self.fault("rle-broken", f"annotation {key!r}: {error}", image.id, key)
            return None


class _Rings:
    """Polygons of one annotation, packed while the JSON is being parsed: Python's own floats take 4 x as much."""

    __slots__ = ("rings",)

    def __init__(self, rings: Polygons) -> None:
        self.rings = rings

    def __repr__(self) -> str:
        return repr([ring.ravel().tolist() for ring in self.rings])


def _parse(path: Path) -> Json:
    try:
        content = json.loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf"), object_hook=_pack)
    except FileNotFoundError:
        raise DatasetNotFoundError(f"{path} does not exist") from None
    except OSError as error:
        raise DatasetError(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not readable JSON ({error})") from None
    if not isinstance(content, dict):
        raise DatasetError(f"{path} holds {type(content).__name__}: expected images, annotations and categories")
    return content


def _pack(record: Json) -> Json:
    """Called for each object as soon as it is parsed."""
    given = record.get("segmentation")
    if isinstance(given, list) and given:
        rings = [_flat_ring(flat) for flat in given]
        if all(ring is not None for ring in rings):
            record["segmentation"] = _Rings(tuple(cast("list[Any]", rings)))
    return record


def _flat_ring(flat: Any) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """A list ``x y x y ...`` as (V, 2), without a last vertex that repeats the first; None if it is no polygon."""
    if not isinstance(flat, list) or len(flat) < 6 or len(flat) % 2:
        return None
    try:
        values = np.array(flat)
    except (ValueError, OverflowError):
        return None
    if values.ndim != 1 or values.dtype.kind not in "iuf" or not (np.abs(values.astype(np.float64)) < FARTHEST).all():
        return None
    ring = values.astype(np.float64).reshape(-1, 2)
    if len(ring) > 3 and (ring[0] == ring[-1]).all():
        ring = ring[:-1]
    return ring if (ring.max(axis=0) > ring.min(axis=0)).all() else None


def _compressed(given: Json, size: tuple[int, int]) -> str:
    """Run lengths of either form as compressed counts. Raises ParameterError if they are not those of ``size``."""
    counts, stated = given.get("counts"), given.get("size")
    if stated is not None and stated != list(size):
        raise ParameterError(f"the run lengths are of size {short(stated)}: expected {list(size)} (height, width)")
    if isinstance(counts, list):
        if not counts or not all(type(n) is int and 0 <= n <= size[0] * size[1] for n in counts):
            raise ParameterError(f"counts are {short(counts)}: expected whole numbers of pixels")
        if sum(counts) != size[0] * size[1]:
            raise ParameterError(f"counts add up to {sum(counts)}: expected {size[0] * size[1]}, the image's pixels")
        return runs_rle(np.asarray(counts, np.int64))
    if not isinstance(counts, str) or not _COMPRESSED.fullmatch(counts):
        raise ParameterError(f"counts are {short(counts)}: expected a list or COCO's compressed text")
    rle_runs(counts, size)
    return counts


def _annotation(record: Json, key: Id, image_id: Id, category_id: Id, segmentation: Segmentation) -> Annotation:
    known = ("id", "image_id", "category_id", "segmentation", "bbox", "area", "iscrowd")
    stated = record.get("area")
    return Annotation(
        id=key,
        image_id=image_id,
        category_id=category_id,
        segmentation=segmentation,
        box=_box(record.get("bbox")),
        area=float(stated) if _is_number(stated) else None,
        crowd=record.get("iscrowd") in (1, True),
        extra=_extra(record, known),
    )


def _box(given: Any) -> tuple[float, float, float, float] | None:
    if isinstance(given, list) and len(given) == 4 and all(map(_is_number, given)):
        x, y, width, height = map(float, given)
        return x, y, width, height
    return None


def relative_name(name: str) -> str | None:
    """A file name with forward slashes and without ``.``; None if it leads out of its folder or is no file name."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.name or "\0" in name or re.match(r"[A-Za-z]:", name):
        return None
    return str(path)


def _records(content: Json, key: str, path: Path) -> list[Any]:
    records = content.get(key)
    if not isinstance(records, list):
        given = "is missing" if key not in content else f"is {short(records)}"
        raise DatasetError(f"{path}: {key} {given}, expected a list (COCO instances: images, annotations, categories)")
    return records


def _get(record: Any, key: str) -> Any:
    return record.get(key) if isinstance(record, dict) else None


def _id(record: Any, key: str) -> Id | None:
    value = _get(record, key)
    if isinstance(value, str):
        return value
    return value if type(value) is int else _whole(value)


def _whole(value: Any) -> int | None:
    """Whole numbers, also written as 3.0."""
    return int(value) if _is_number(value) and float(value).is_integer() else None


def _is_number(value: Any) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 1 << 63 if isinstance(value, int) else math.isfinite(value)


def _extra(record: Json, known: Iterable[str]) -> Extra:
    return {key: value for key, value in record.items() if key not in known} or NOTHING


# ---- writing


def _chunks(dataset: Dataset) -> Iterator[str]:
    """The file in pieces, a record a line: it can be read by people, compared by line, and needs little memory."""
    yield "{\n"
    for key, value in dataset.info.items():
        yield f"{_dump(key)}: {_dump(value)},\n"
    yield from _list("categories", ({"id": c.id, "name": c.name, **c.extra} for c in dataset.categories))
    yield ",\n"
    yield from _list("images", map(_image_record, dataset.images))
    yield ",\n"
    yield from _list("annotations", (_annotation_record(a, dataset.by_id[a.image_id]) for a in dataset.annotations))
    yield "\n}\n"


def _list(key: str, records: Iterable[Json]) -> Iterator[str]:
    yield f'"{key}": ['
    for place, record in enumerate(records):
        yield f"{',' if place else ''}\n{_dump(record)}"
    yield "\n]"


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _image_record(image: ImageRecord) -> Json:
    return {"id": image.id, "file_name": image.file_name, "width": image.width, "height": image.height, **image.extra}


def _annotation_record(annotation: Annotation, image: ImageRecord) -> Json:
    shape = annotation.segmentation
    box, pixels = annotation.box, annotation.area
    if box is None:
        found = crop(shape, image.size)
        top, bottom, left, right = (0, 0, 0, 0) if found is None else found[1]
        box = (left, top, right - left, bottom - top)
    return {
        "id": annotation.id,
        "image_id": annotation.image_id,
        "category_id": annotation.category_id,
        "bbox": list(box),
        "area": area(shape, image.size) if pixels is None else pixels,
        "iscrowd": int(annotation.crowd),
        "segmentation": {"size": list(image.size), "counts": shape}
        if isinstance(shape, str)
        else [ring.ravel().tolist() for ring in shape],
        **annotation.extra,
    }
