"""Supervisely: images in ``<dataset>/img``, a JSON file for each in ``<dataset>/ann``, the classes in ``meta.json``.

A figure is a polygon with holes, several of them, or a bitmap: a PNG, compressed with zlib, in base64, with its first
pixel at ``origin``. https://developer.supervisely.com/getting-started/supervisely-annotation-format
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from maskline._wording import short
from maskline.data.faults import Reading, UnusableError
from maskline.data.formats.assembly import Assembly, Sheet, as_dict, json_of, located
from maskline.data.formats.coco.values import as_integer
from maskline.data.formats.outlines import with_holes
from maskline.data.formats.pngs import mask_of
from maskline.data.shapes import Segmentation, place, union
from maskline.data.source import Source
from maskline.errors import InputError
from maskline.inputs import MAX_PIXELS

TITLE = "Supervisely"

_REGIONS = ("polygon", "multipolygon", "bitmap", "any")  # geometry types of classes that may have masks
_MAX_PNG = 4 * MAX_PIXELS  # bytes


def detect(source: Source) -> list[str]:
    """The annotation files of images."""
    return source.of_kind("supervisely")


def read(source: Source) -> Reading:
    """Read a project or one of its datasets; the split is the one that the dataset's name mentions.

    Raises:
        DatasetError: there are no annotation files, or none can be read.
    """
    files = detect(source)
    assembly = Assembly(source)
    assembly.declare(_classes(source))
    for sheet, name, path in located(assembly, {file: _image_name(file) for file in files}):
        with sheet.reading():
            _read_file(sheet, name, path)
    return assembly.reading("Supervisely's folders ann and img")


def _image_name(file: str) -> str:
    """``ds/img/a.jpg`` for ``ds/ann/a.jpg.json``; without a suffix if the annotation file's name has none."""
    path = PurePosixPath(file).with_suffix("")
    folder = path.parent.parent / "img" if path.parent.name.lower() == "ann" else path.parent
    return str(folder / path.name)


def _classes(source: Source) -> Iterator[str]:
    """The classes of ``meta.json`` that may have masks, in order."""
    for file in source.tree.files:
        if PurePosixPath(file).name != "meta.json":
            continue
        try:
            listed = as_dict(json_of(source.root / file), "the content").get("classes")
        except UnusableError:
            continue  # the file only adds the class order, and classes without instances
        for record in listed if isinstance(listed, list) else ():
            title = record.get("title") if isinstance(record, dict) else None
            if isinstance(title, str) and title.strip() and record.get("shape") in _REGIONS:
                yield title.strip()


def _read_file(sheet: Sheet, name: str, path: str | None) -> None:
    """Add the image of a file and its figures. Raises UnusableError if the file as a whole can't be read."""
    content = as_dict(sheet.json(), "the content")
    figures = content.get("objects")
    if not isinstance(figures, list):
        raise UnusableError("file", f"has no list of objects: {short(figures)}")
    stated = content.get("size")
    height, width = (
        (as_integer(stated.get(key)) or 0 for key in ("height", "width")) if isinstance(stated, dict) else (0, 0)
    )
    image = sheet.image(name, path, annotations=len(figures), size=(height, width))
    if image is None:
        return
    for number, figure in enumerate(figures):
        with sheet.losing(f"object {number}", image):
            record = as_dict(figure, "it")
            title = record.get("classTitle")
            if not isinstance(title, str) or not title.strip():
                raise UnusableError("record", f"its classTitle is {short(title)}: expected the name of a class")
            sheet.add(image, title.strip(), _region(record, image.size))


def _region(figure: Mapping[str, Any], size: tuple[int, int]) -> Segmentation:
    """The mask of a figure. Raises UnusableError for shapes without an area and for invalid ones."""
    kind = figure.get("geometryType") or ("bitmap" if figure.get("bitmap") else "polygon")  # absent in old exports
    if kind == "bitmap":
        return _bitmap(as_dict(figure.get("bitmap"), "bitmap"), size)
    if kind == "polygon":
        parts = [figure.get("points")]
    elif kind == "multipolygon" and isinstance(figure.get("parts"), list) and figure["parts"]:
        parts = figure["parts"]
    else:
        raise UnusableError("no-mask", f"a {kind} encloses no pixels of its own: expected polygon, bitmap")
    rings = [as_dict(part, "points") for part in parts]
    return union([with_holes(part.get("exterior"), part.get("interior"), size) for part in rings], size)


def _bitmap(bitmap: Mapping[str, Any], size: tuple[int, int]) -> str:
    """RLE over the image of a bitmap, a mask in PNG with its origin. Raises UnusableError if it is invalid."""
    data, origin = bitmap.get("data"), bitmap.get("origin")
    corner = [as_integer(value) for value in origin] if isinstance(origin, list) else []
    if len(corner) != 2 or None in corner or not isinstance(data, str):
        raise UnusableError("rle-broken", f"its bitmap is {short(bitmap)}: expected data and origin")
    left, top = (value or 0 for value in corner)
    try:
        unpacked = zlib.decompressobj().decompress(base64.b64decode(data, validate=True), _MAX_PNG)
        return place(mask_of(unpacked), top, left, size)
    except (ValueError, zlib.error, InputError) as error:
        raise UnusableError("rle-broken", f"its bitmap can't be used: {error}") from None
