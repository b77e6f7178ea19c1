"""Label Studio: JSON and JSON-MIN, a file of tasks, each with an image and its annotations.

Coordinates are percent of the image as displayed. Brushes have Label Studio's own run-length encoding; bitmasks are PNG
files in base64. One annotation of each task is read: the ground truth, else the latest; cancelled ones and predictions
are not. https://labelstud.io/guide/export
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from maskline._wording import short
from maskline.data.dataset import NOTHING, ImageRecord
from maskline.data.faults import Reading, UnusableError
from maskline.data.file_tree import suffix_of
from maskline.data.formats.assembly import Assembly, Sheet
from maskline.data.formats.coco.values import as_integer, is_number
from maskline.data.formats.outlines import closed_ring, ellipse, parse_points
from maskline.data.formats.pngs import mask_of
from maskline.data.shapes import Ring, Segmentation
from maskline.data.source import Source
from maskline.errors import InputError
from maskline.inputs import MAX_PIXELS, SUFFIXES, UNREAD_SUFFIXES
from maskline.masks import Mask, rle_encode

TITLE = "Label Studio"

_IMAGE_KEYS = ("image", "img", "image_url", "url", "file")  # keys of a task's data, if no value has an image suffix
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=[^/]+$)")  # prefix of uploaded files
_DRAWN = re.compile(
    "[a-z]*labels|polygon|brush|bitmask|ellipse|rectangle|keypoint|vector|magicwand"
)  # types of results
_GRID = 6  # decimals of pixel coordinates
#: Drawing tools, by a key that identifies a region's value.
_TOOLS = {
    "rle": "brush",
    "imageDataURL": "bitmask",
    "points": "polygon",
    "radiusX": "ellipse",
    "vertices": "vector",
    "sequence": "video box",
    "height": "rectangle",
    "x": "key point",
    "start": "span",
}


def detect(source: Source) -> list[str]:
    """The files of tasks."""
    return source.of_kind("labelstudio")


def read(source: Source) -> Reading:
    """Read all files; the split of each is the one that its name or folder mentions.

    Raises:
        DatasetError: there are no files, or none can be read.
    """
    assembly = Assembly(source)
    for sheet in map(assembly.sheet, detect(source)):
        with sheet.reading():
            _read_file(sheet)
    return assembly.reading("an export from Label Studio as JSON or JSON-MIN")


# ---- tasks


@dataclass(slots=True)
class _Region:
    """A region, merged from all results with its id."""

    result: Mapping[str, Any]
    tool: str = ""
    is_drawn: bool = False
    labels: list[str] = field(default_factory=list)
    choices: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Work:
    """One annotator's work on a task.

    Attributes:
        rank: sort key; the highest of a task is read.
    """

    regions: Sequence[_Region]
    rank: tuple[bool, str] = (False, "")
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class _Task:
    """A task.

    Attributes:
        images: image names, by their key in the data.
        predictions: number of predictions and drafts.
    """

    name: str
    images: Mapping[str, str]
    works: list[_Work]
    predictions: int = 0


def _tasks(content: Any) -> list[_Task]:
    """The tasks of an export, each once. Raises UnusableError if it is not a list of tasks."""
    records = content if isinstance(content, list) else [content]
    if not all(isinstance(record, dict) for record in records):
        raise UnusableError("file", f"holds {short(content)}: expected a list of tasks")
    found: dict[Any, _Task] = {}
    for place, record in enumerate(records):
        key = str(record.get("id", f"number {place}"))
        if isinstance(record.get("data"), dict):
            works = [_work(work) for work in _dicts(record.get("annotations", record.get("completions")))]
            predictions = len(_dicts(record.get("predictions"))) + len(_dicts(record.get("drafts")))
            found[place] = _Task(key, _images(record["data"]), works, predictions)
        else:  # JSON-MIN: one annotation per record
            task = found.setdefault(("min", key), _Task(key, _images(record), []))
            task.works.append(_min_work(record))
    return list(found.values())


def _dicts(value: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _images(data: Mapping[str, Any]) -> dict[str, str]:
    """The images of a task, by key."""
    texts = {key: value for key, value in data.items() if isinstance(value, str) and value}
    names = {key: text.partition("?")[0] if re.match("https?:", text) else text for key, text in texts.items()}
    found = {key: name for key, name in names.items() if suffix_of(name) in (*SUFFIXES, *UNREAD_SUFFIXES)}
    return found or {key: name for key, name in names.items() if key.lower() in _IMAGE_KEYS}


def _work(record: Mapping[str, Any]) -> _Work:
    rank = bool(record.get("ground_truth")), str(record.get("updated_at") or record.get("created_at") or "")
    return _Work(_regions(_dicts(record.get("result"))), rank, bool(record.get("was_cancelled")))


def _min_work(record: Mapping[str, Any]) -> _Work:
    values = [value for given in record.values() for value in _dicts(given)]
    return _Work(
        _regions([{**value, "value": value} for value in values]), (False, str(record.get("updated_at") or ""))
    )


def _regions(results: Sequence[Mapping[str, Any]]) -> list[_Region]:
    """Regions in drawing order, without other results such as relations."""
    found: dict[Any, _Region] = {}
    for place, result in enumerate(results):
        given = result.get("value")
        value = given if isinstance(given, dict) else {}
        tool = next((tool for name, tool in _TOOLS.items() if name in value), "")
        region = found.setdefault(result["id"] if isinstance(result.get("id"), str) else place, _Region(result))
        if tool and not region.tool:
            region.result, region.tool = result, tool
        region.is_drawn |= bool(tool or _DRAWN.fullmatch(str(result.get("type"))))
        region.labels += [label for name in value if name.endswith("labels") for label in _names(value[name])]
        region.choices += _names(value.get("choices"))
    return [region for region in found.values() if region.is_drawn or region.labels]


def _names(value: Any) -> list[str]:
    return [name.strip() for name in value if isinstance(name, str) and name.strip()] if isinstance(value, list) else []


# ---- a file


def _read_file(sheet: Sheet) -> None:
    """Add the images and regions of a file. Raises UnusableError if the file as a whole can't be read."""
    tasks = _tasks(sheet.json())
    found = _find(sheet, [name for task in tasks for name in task.images.values()])
    aside: Counter[str] = Counter()
    lost = 0
    for task in tasks:
        works = sorted((work for work in task.works if not work.cancelled), key=lambda work: work.rank)
        unused = [work for work in task.works if work.cancelled] + works[:-1]
        regions = sum(len(work.regions) for work in unused)
        lost += regions
        aside["tasks without an annotation"] += not works
        aside["cancelled annotations"] += len(task.works) - len(works)
        aside["annotations of tasks that have a later one"] += len(works[:-1])
        aside["regions in these"] += regions
        aside["predictions and drafts"] += task.predictions
        if works:
            _read_task(sheet, task, works[-1].regions, found)
    if counts := ", ".join(f"{number} {what}" for what, number in aside.items() if number):
        sheet.fault("set-aside", counts, lost=lost)


def _find(sheet: Sheet, names: Sequence[str]) -> dict[str, str]:
    """Find image files, with and without the prefix that Label Studio adds to uploaded files."""
    found = sheet.assembly.find(names, sheet.split, remote=True)
    own = {name: _UPLOADED.sub("", name) for name in names if name not in found}
    more = sheet.assembly.find(own.values(), sheet.split, but=set(found.values()), remote=True)
    return found | {name: more[short_name] for name, short_name in own.items() if short_name in more}


def _read_task(sheet: Sheet, task: _Task, regions: Sequence[_Region], found: Mapping[str, str]) -> None:
    """Add the regions of a task to its image, or to the images that they refer to."""
    by_image: dict[str, list[_Region]] = {name: [] for name in task.images.values()} if len(task.images) == 1 else {}
    strays = 0
    for region in regions:
        name = _image_of(task, region)
        if name is None:
            strays += 1
        else:
            by_image.setdefault(name, []).append(region)
    if strays or not by_image:
        what = f"task {task.name} has {len(task.images)} images" if task.images else f"task {task.name} has no image"
        sheet.leave_out(UnusableError("record", f"{what}: expected one"), strays)
    for name, own in by_image.items():
        path = found.get(name)
        size = _stated_size(own[0].result) if own and path is None else None
        image = sheet.image(name, path, annotations=len(own), size=size)
        if image is not None:
            for number, region in enumerate(own):
                with sheet.losing(f"task {task.name}: region {number}", image):
                    _add(sheet, image, region)


def _image_of(task: _Task, region: _Region) -> str | None:
    """The only image of a task, or the one whose key is the region's ``to_name``."""
    if len(task.images) == 1:
        return next(iter(task.images.values()))
    return task.images.get(str(region.result.get("to_name")))


def _add(sheet: Sheet, image: ImageRecord, region: _Region) -> None:
    """Add a region to the data set. Raises UnusableError if it has no mask or no single label."""
    if region.tool not in _READERS:
        what = f"a {region.tool}" if region.tool else "it"
        raise UnusableError("no-mask", f"{what} encloses no pixels of its own: expected {', '.join(_READERS)}")
    if region.result.get("image_rotation"):
        raise UnusableError("record", "it was drawn on an image rotated in Label Studio: undo the rotation there")
    labels = region.labels or (region.choices if len(region.choices) == 1 else [])
    if not labels:
        raise UnusableError("record", "it has no label")
    extra = {"attributes": {"labels": labels}} if len(labels) > 1 else NOTHING
    sheet.add(image, labels[0], _READERS[region.tool](region.result, image.size), extra=extra)


# ---- regions, in an image of (height, width); all raise UnusableError


def _polygon(result: Mapping[str, Any], size: tuple[int, int]) -> Segmentation:
    value = result["value"]
    if value.get("closed") is False:
        raise UnusableError("polygon-broken", "the polygon is not closed")
    return (closed_ring(_pixels(parse_points(value["points"]), size)),)


def _ellipse(result: Mapping[str, Any], size: tuple[int, int]) -> Segmentation:
    value = {"rotation": 0, **result["value"]}
    given = [value.get(key) for key in ("x", "y", "radiusX", "radiusY", "rotation")]
    if not all(map(is_number, given)):
        raise UnusableError("polygon-broken", f"x, y, radiusX, radiusY are {short(given)}: expected numbers")
    (x, y), (radius_x, radius_y) = _pixels(parse_points([given[:2], given[2:4]]), size).tolist()
    return (ellipse(x, y, radius_x, radius_y, float(value["rotation"])),)


def _pixels(percent: Ring, size: tuple[int, int]) -> Ring:
    ring: Ring = np.round(percent * np.asarray(size[::-1]) / 100, _GRID)
    return ring


def _brush(result: Mapping[str, Any], size: tuple[int, int]) -> str:
    given, (height, width) = result["value"]["rle"], _stated_size(result) or size
    try:
        if not min(height, width) > 0 or height * width > MAX_PIXELS:
            raise ValueError(f"their size is {width} x {height} pixels")
        alpha = _decode(bytes(given), height * width)
    except (ValueError, TypeError) as error:
        raise UnusableError("rle-broken", f"its run lengths {short(given)} can't be used: {error}") from None
    return _fitting(alpha.reshape(height, width), size)


def _bitmask(result: Mapping[str, Any], size: tuple[int, int]) -> str:
    given = result["value"]["imageDataURL"]
    try:
        return _fitting(mask_of(base64.b64decode(str(given).rpartition(",")[2], validate=True)), size)
    except (ValueError, InputError) as error:
        raise UnusableError("rle-broken", f"its bitmask {short(given)} can't be used: {error}") from None


def _fitting(mask: Mask, size: tuple[int, int]) -> str:
    if mask.shape == size:
        return rle_encode(mask)
    what = f"its mask has {mask.shape[1]} x {mask.shape[0]} pixels, the image {size[1]} x {size[0]}"
    raise UnusableError("rle-broken", what)


_READERS: dict[str, Callable[[Mapping[str, Any], tuple[int, int]], Segmentation]] = {
    "polygon": _polygon,
    "ellipse": _ellipse,
    "brush": _brush,
    "bitmask": _bitmask,
}


def _stated_size(result: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = (as_integer(result.get(key)) for key in ("original_height", "original_width"))
    return None if height is None or width is None else (height, width)


def _decode(data: bytes, pixels: int) -> Mask:
    """Decode the opaque pixels of an RGBA image from Label Studio's run lengths, row by row: (pixels,) bool.

    After a header, each group of bits is: a flag; the index of one of four bit widths; the length minus 1 in that
    width; then one value to repeat if the flag is set, else ``length`` values.

    Raises:
        ValueError: not valid run lengths of this number of pixels.
    """
    numbers = _Numbers(bin(int.from_bytes(b"\1" + data, "big"))[3:])
    total, word = numbers.take(32), numbers.take(5) + 1
    widths = [numbers.take(4) + 1 for _ in range(4)]
    if total != 4 * pixels:
        raise ValueError(f"they have {total} values, expected {4 * pixels}")
    values = np.zeros(total, np.bool_)
    start = 0
    while start < total:
        repeated = numbers.take(1)
        stop = start + 1 + numbers.take(widths[numbers.take(2)])
        if stop > total:
            raise ValueError("a run extends beyond the image")
        values[start:stop] = numbers.take(word) != 0 if repeated else numbers.nonzero(word, stop - start)
        start = stop
    return values[3::4]


class _Numbers:
    """Reader of a bit string."""

    def __init__(self, bits: str) -> None:
        self.bits, self.position = bits, 0

    def _next(self, width: int) -> str:
        start, self.position = self.position, self.position + width
        if self.position > len(self.bits):
            raise ValueError("they are truncated")
        return self.bits[start : self.position]

    def take(self, width: int) -> int:
        """The next integer of ``width`` bits."""
        return int(self._next(width), 2)

    def nonzero(self, width: int, count: int) -> Mask:
        """Whether each of the next ``count`` integers is nonzero: (count,) bool."""
        digits = np.frombuffer(self._next(width * count).encode("ascii"), np.uint8)
        return np.asarray((digits == ord("1")).reshape(count, width).any(axis=1))
