"""VGG Image Annotator (VIA) 1 and 2: a project or an export, in JSON or CSV, that lists images with their regions.

Coordinates are pixels. Image sizes are not stated, so the files are needed. Regions have user-defined attributes: the
class is the value of the one called ``class``, ``name``, ``label`` and so on, or of the only one.
https://www.robots.ox.ac.uk/~vgg/software/via/
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maskline._wording import counted, short
from maskline.data.dataset import NOTHING
from maskline.data.faults import Reading, UnusableError
from maskline.data.file_access import read_text_file
from maskline.data.file_tree import suffix_of
from maskline.data.formats.assembly import OBJECT, Assembly, Sheet, as_dict
from maskline.data.formats.coco.values import is_number
from maskline.data.formats.outlines import closed_ring, ellipse, parse_points
from maskline.data.shapes import Ring
from maskline.data.source import Source
from maskline.errors import DatasetError

TITLE = "VIA"

_CLASS_NAMES = ("class", "class_name", "classname", "name", "label", "category", "type", "object", "object_name")
_MAX_CELL = 1 << 30  # characters in a CSV file


def detect(source: Source) -> list[str]:
    """The projects and exports of VIA."""
    return source.of_kind("via")


def read(source: Source) -> Reading:
    """Read all files; the split of each is the one that its name or folder mentions.

    Raises:
        DatasetError: there are no files, or none can be read.
    """
    assembly = Assembly(source)
    listed: list[tuple[Sheet, list[_Entry]]] = []
    for sheet in map(assembly.sheet, detect(source)):
        with sheet.reading():
            of_csv = suffix_of(sheet.file) == "csv"
            listed.append((sheet, list(_csv_entries(source, sheet.file) if of_csv else _entries(sheet.json()))))
    attribute = _class_attribute([region for _, entries in listed for entry in entries for region in entry.regions])
    for sheet, entries in listed:
        _read_sheet(sheet, entries, attribute)
    return assembly.reading("a project or an export of VIA, in JSON or CSV")


@dataclass(frozen=True, slots=True)
class _Entry:
    """An image listed in a file."""

    name: str
    regions: Sequence[Any]


# ---- files


def _entries(content: Any) -> Iterator[_Entry]:
    """The images of a JSON project or export. Raises UnusableError."""
    images = as_dict(content, "the content").get("_via_img_metadata", content)
    for key, record in as_dict(images, "_via_img_metadata").items():
        if key.startswith("_via_"):
            continue
        name = as_dict(record, f"image {short(key)}").get("filename")
        regions = record.get("regions") or []
        regions = list(regions.values()) if isinstance(regions, dict) else regions  # VIA 1 numbers them
        if not isinstance(name, str) or not isinstance(regions, list):
            raise UnusableError("file", f"image {short(key)} is {short(record)}: expected filename and regions")
        yield _Entry(name, regions)


def _csv_entries(source: Source, file: str) -> Iterator[_Entry]:
    """The images of a CSV file, with a row per region, or one for an image without any. Raises UnusableError."""
    images: dict[str, list[Any]] = {}
    limit = csv.field_size_limit(_MAX_CELL)
    try:
        for row in csv.DictReader(io.StringIO(read_text_file(source.root / file).lstrip("#"), newline="")):
            regions = images.setdefault(row.get("filename") or "", [])
            if (row.get("region_count") or "").strip() != "0":
                shape, attributes = (row.get(key) for key in ("region_shape_attributes", "region_attributes"))
                regions.append({"shape_attributes": _cell(shape), "region_attributes": _cell(attributes)})
    except (csv.Error, DatasetError) as error:
        raise UnusableError("file", f"is not a readable CSV file ({error})") from None
    finally:
        csv.field_size_limit(limit)
    return (_Entry(name, regions) for name, regions in images.items())


def _cell(text: str | None) -> Any:
    """A cell parsed as JSON; the string itself if it is not JSON."""
    try:
        return json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text


# ---- regions


def _read_sheet(sheet: Sheet, entries: Sequence[_Entry], attribute: str | None) -> None:
    folder = sheet.file.rpartition("/")[0]
    names = {entry.name: f"{folder}/{entry.name}" if folder else entry.name for entry in entries}
    found = sheet.assembly.find(names.values(), sheet.split)
    unnamed = 0
    for entry in entries:
        path = found.get(names[entry.name])
        image = sheet.image(entry.name, path, annotations=len(entry.regions))
        if image is None:
            continue
        for number, region in enumerate(entry.regions):
            with sheet.losing(f"image {entry.name}: region {number}", image):
                ring = _outline(as_dict(region, "it"))
                given = region.get("region_attributes")
                attributes = given if isinstance(given, dict) else {}
                label = OBJECT if attribute is None else _class_of(attributes, attribute)
                others = {key: value for key, value in attributes.items() if key != attribute and value}
                sheet.add(image, label, (ring,), extra={"attributes": others} if others else NOTHING)
                unnamed += attribute is None
    if unnamed:
        sheet.fault("no-class", f"{counted(unnamed, 'region')} without an attribute that names the class")


def _outline(region: Mapping[str, Any]) -> Ring:
    """The outline of a region. Raises UnusableError for shapes without an area and for invalid ones."""
    shape = as_dict(region.get("shape_attributes"), "shape_attributes")
    kind = str(shape.get("name"))
    if kind not in _OUTLINES:
        raise UnusableError("no-mask", f"a {kind} encloses no pixels of its own: expected {', '.join(_OUTLINES)}")
    return closed_ring(_OUTLINES[kind](shape))


def _polygon(shape: Mapping[str, Any]) -> Ring:
    xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
    if isinstance(xs, list) and isinstance(ys, list) and len(xs) == len(ys):
        return parse_points([[x, y] for x, y in zip(xs, ys, strict=True)])
    raise UnusableError(
        "polygon-broken", f"all_points_x and all_points_y are {short((xs, ys))}: expected lists of equal length"
    )


def _circle(shape: Mapping[str, Any]) -> Ring:
    x, y, radius = _numbers(shape, "cx", "cy", "r")
    return ellipse(x, y, radius, radius)


def _ellipse(shape: Mapping[str, Any]) -> Ring:
    x, y, radius_x, radius_y, theta = _numbers({"theta": 0, **shape}, "cx", "cy", "rx", "ry", "theta")
    return ellipse(x, y, radius_x, radius_y, math.degrees(theta))


_OUTLINES: dict[str, Callable[[Mapping[str, Any]], Ring]] = {
    "polygon": _polygon,
    "circle": _circle,
    "ellipse": _ellipse,
}


def _numbers(shape: Mapping[str, Any], *keys: str) -> list[float]:
    """These attributes of a shape. Raises UnusableError unless all are numbers."""
    values = [shape.get(key) for key in keys]
    if all(map(is_number, values)):
        return [float(value) for value in values if value is not None]
    raise UnusableError("polygon-broken", f"{', '.join(keys)} are {short(values)}: expected numbers")


# ---- classes


def _class_attribute(regions: Sequence[Any]) -> str | None:
    """The class attribute: one with a usual name, or the only one with values."""
    counts: Counter[str] = Counter()
    for region in regions:
        attributes = region.get("region_attributes") if isinstance(region, dict) else None
        if isinstance(attributes, dict):
            counts.update(name for name in attributes if _value(attributes[name]))
    named = [name for name in counts if name.lower() in _CLASS_NAMES]
    best = min(named, key=lambda name: _CLASS_NAMES.index(name.lower()), default=None)
    return best or (next(iter(counts)) if len(counts) == 1 else None)


def _class_of(attributes: Mapping[str, Any], attribute: str) -> str:
    """The class of a region, from its attribute. Raises UnusableError if that is empty."""
    name = _value(attributes.get(attribute))
    if not name:
        raise UnusableError("record", f"its attribute {attribute!r} does not name a class: {short(attributes)}")
    return name


def _value(value: Any) -> str:
    """An attribute's value as a string; for check boxes the only ticked one, else an empty string."""
    if isinstance(value, dict):
        ticked = [name for name, on in value.items() if on]
        value = ticked[0] if len(ticked) == 1 else ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    return str(value).strip()
