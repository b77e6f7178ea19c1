"""CVAT for images 1.1: one XML file for a whole task or project, as CVAT exports and imports it.

Masks count pixels: runs of background and foreground in turn, background first, row by row within a box. Other shapes
have COCO's coordinates. CVAT has no crowd: an attribute ``iscrowd`` of the shape stands for it. An object in several
parts is several shapes of one label with one ``group_id``. https://docs.cvat.ai/docs/manual/advanced/xml_format/
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO
from xml.etree.ElementTree import Element, ParseError
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import iterparse

from maskline.data.coco import relative_name
from maskline.data.dataset import NOTHING, Annotation, Category, Dataset, Extra, ImageRecord
from maskline.data.faults import Fault, Reading, UnusableError, short
from maskline.data.layout import SPLIT_WORDS, SPLITS, UNSPLIT, copy_images, split_of
from maskline.data.shapes import Ring, Segmentation, crop, from_mask, place, union
from maskline.errors import DatasetError, DatasetNotFoundError
from maskline.inputs import MAX_PIXELS
from maskline.instances import ByteArray
from maskline.render import PALETTE

TITLE = "CVAT"
FILE = "annotations.xml"

CROWD = "iscrowd"
FARTHEST = 1e9  # pixels: no coordinate lies beyond
ELLIPSE_CORNERS = 72
NOT_SHAPES = ("tag",)  # of an image: they say something of the whole
LOOKED_AT = 4096  # bytes of a file that tell its kind


def detect(root: Path) -> bool:
    """Whether there is a file that starts as CVAT's do."""
    try:
        path = _find(root)
        return path is not None and b"<annotations" in path.read_bytes()[:LOOKED_AT]
    except OSError:
        return False


def read(root: Path) -> Reading:
    """Read an export: a folder with ``annotations.xml``, or the file itself.

    Splits are the subsets of a project's export; a task's is ``all``. Pictures are looked for below ``images/``, in
    their subset's folder or not, and beside the file; one that is missing keeps its record.

    Raises:
        DatasetNotFoundError: no such folder, or no such file in it.
        DatasetError: it is no XML, or not of CVAT for images.
    """
    path = _find(root)
    if path is None:
        raise DatasetNotFoundError(f"{root} has no {FILE}: expected an export of CVAT for images")
    return _Reader(path).read()


def write(splits: Mapping[str, Dataset], folder: Path) -> list[str]:
    """Write ``annotations.xml``, and the pictures as ``images/<split>/...`` (a single ``all`` as ``images/...``).

    Returns:
        What is lost or may surprise, a line each.

    Raises:
        DatasetError: a picture is missing or can't be read.
        OSError: it can't be written.
    """
    losses = _Losses()
    with (folder / FILE).open("w", encoding="utf-8") as file:
        _write_head(file, splits)
        number = 0
        for split, dataset in splits.items():
            subset = None if set(splits) == {UNSPLIT} else split
            copied = copy_images(dataset, folder / "images" / (subset or ""))
            for image in copied.images:
                _write_image(file, copied, image, number, subset, losses)
                number += 1
        file.write("</annotations>\n")
    return losses.notes()


def _find(root: Path) -> Path | None:
    """The file itself, the one in a folder, or the only one below."""
    if root.is_file():
        return root if root.suffix.lower() == ".xml" else None
    below = [path for path in sorted(root.rglob(FILE)) if path.is_file()]
    return root / FILE if root / FILE in below else below[0] if len(below) == 1 else None


# ---- reading


@dataclass(slots=True)
class _Part:
    """A split being read."""

    images: dict[str, ImageRecord] = field(default_factory=dict)
    annotations: list[Annotation] = field(default_factory=list)


class _Reader:
    """A file being read: its classes and splits so far, and its faults."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.faults: list[Fault] = []
        self.classes: dict[str, int] = {}  # ids by name
        self.parts: dict[str, _Part] = {}

    def read(self) -> Reading:
        for tag, element in self.elements():
            if tag == "track":
                raise DatasetError(f"{self.path} is of CVAT for video: export it as CVAT for images 1.1")
            if tag == "label":
                self.class_id((element.findtext("name") or "").strip())
            elif tag == "image":
                self.image(element)
        if not self.parts:
            raise DatasetError(f"{self.path} holds no images: expected an export of CVAT for images")
        categories = tuple(Category(number, name) for name, number in self.classes.items())
        order = [split for split in (*SPLITS, UNSPLIT) if split in self.parts]
        return Reading({split: self.dataset(split, categories) for split in order}, self.faults)

    def elements(self) -> Iterator[tuple[str, Element]]:
        """Labels, images and tracks as they end; what was read is let go."""
        try:
            with self.path.open("rb") as file:
                root: Element | None = None
                for event, element in iterparse(file, events=("start", "end"), forbid_dtd=True):
                    if root is None:
                        root = element
                        if element.tag != "annotations":
                            raise DatasetError(f"{self.path} starts with <{element.tag}>: expected <annotations>")
                    if event == "end" and element.tag in ("label", "image", "track"):
                        yield element.tag, element
                        element.clear()
                        if element.tag == "image":
                            root.clear()
        except OSError as error:
            raise DatasetError(f"{self.path} can't be read: {error.strerror}") from error
        except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
            raise DatasetError(f"{self.path} is not readable XML ({' '.join(str(error).split())})") from None

    def class_id(self, name: str) -> int:
        return self.classes.setdefault(name, len(self.classes) + 1) if name else 0

    def dataset(self, split: str, categories: tuple[Category, ...]) -> Dataset:
        part = self.parts[split]
        folder = self.image_folder(split, part)
        return Dataset(split, folder, tuple(part.images.values()), tuple(part.annotations), categories, self.path)

    def image_folder(self, split: str, part: _Part) -> Path:
        """The folder that has most of the pictures."""
        base = self.path.parent
        inside = sorted(path for path in (base / "images").glob("*") if path.is_dir())
        named = [path for path in inside if split_of(path.name) == split]
        candidates = [*named, base / "images", base]
        return max(candidates, key=lambda folder: sum((folder / name).is_file() for name in part.images))

    def image(self, element: Element) -> None:
        subset = element.get("subset") or ""
        split = next((s for s, word in SPLIT_WORDS.items() if _matches(word, subset)), UNSPLIT)
        part = self.parts.setdefault(split, _Part())
        given = element.get("name") or ""
        name = relative_name(given) if given else None
        width, height = (_whole(element.get(key)) for key in ("width", "height"))
        if name is None:
            code = "image-path" if given else "record"
            self.faults.append(Fault(code, split, self.path.name, f"an image with the name {short(given)}"))
            return
        if min(width, height) <= 0 or width * height > MAX_PIXELS:
            stated = f"{short(element.get('width'))} x {short(element.get('height'))}"
            self.faults.append(Fault("record", split, self.path.name, f"image {name!r} is {stated} pixels"))
            return
        if name in part.images:
            self.faults.append(Fault("image-listed-twice", split, self.path.name, f"image {name!r} is there twice"))
        image = part.images.setdefault(name, ImageRecord(len(part.images) + 1, name, width, height))
        for label, found in self.objects(split, image, element):
            number = len(part.annotations) + 1
            part.annotations.append(replace(found, id=number, category_id=self.class_id(label)))

    def objects(self, split: str, image: ImageRecord, element: Element) -> Iterator[tuple[str, Annotation]]:
        """Label and annotation of each object; the ids of annotation and category are yet to be given."""
        groups: dict[object, list[tuple[Element, Segmentation]]] = {}
        for number, shape in enumerate(shape for shape in element if shape.tag not in NOT_SHAPES):
            label = (shape.get("label") or "").strip()
            try:
                if not label:
                    raise UnusableError("record", "has no label")
                part = _region(shape, image.size)
            except UnusableError as error:
                what = f"{shape.tag} {number} ({label}): {error}"
                self.faults.append(Fault(error.code, split, image.file_name, what, image.id))
                continue
            group = shape.get("group_id") or "0"
            key = number if group == "0" else (group, label, _is_crowd(shape))
            groups.setdefault(key, []).append((shape, part))
        for members in groups.values():
            shape = members[0][0]
            segmentation = union([part for _, part in members], image.size)
            annotation = Annotation(0, image.id, 0, segmentation, crowd=_is_crowd(shape), extra=_extra(shape))
            yield (shape.get("label") or "").strip(), annotation


def _matches(word: str, subset: str) -> bool:
    return re.fullmatch(word, subset.strip().lower()) is not None


def _attributes(shape: Element) -> dict[str, str]:
    return {a.get("name") or "": (a.text or "").strip() for a in shape.iter("attribute")}


def _is_crowd(shape: Element) -> bool:
    return _attributes(shape).get(CROWD, "").lower() in ("true", "1")


def _extra(shape: Element) -> Extra:
    attributes = {name: value for name, value in _attributes(shape).items() if name != CROWD}
    return {"attributes": attributes} if attributes else NOTHING


# ---- regions


def _region(shape: Element, size: tuple[int, int]) -> Segmentation:
    """Outline or pixels of a shape in an image of ``(height, width)``. Raises UnusableError."""
    if shape.tag == "mask":
        return _pixels(shape, size)
    if shape.tag not in _OUTLINES:
        expected = ", ".join((*_OUTLINES, "mask"))
        raise UnusableError("no-mask", f"a {shape.tag} is no region: expected {expected}")
    ring = _OUTLINES[shape.tag](shape)
    if len(ring) > 3 and (ring[0] == ring[-1]).all():
        ring = ring[:-1]
    if len(ring) < 3 or not np.isfinite(ring).all() or np.abs(ring).max() > FARTHEST or not np.ptp(ring, axis=0).all():
        raise UnusableError("polygon-broken", f"a {shape.tag} that encloses nothing or holds wrong numbers")
    return (ring,)


def _polygon(shape: Element) -> Ring:
    pairs = [pair.split(",") for pair in (shape.get("points") or "").split(";") if pair.strip()]
    if any(len(pair) != 2 for pair in pairs):
        return np.zeros((0, 2))
    return np.asarray([[_number(x), _number(y)] for x, y in pairs]).reshape(-1, 2)


def _box(shape: Element) -> Ring:
    x1, y1, x2, y2 = (_number(shape.get(key)) for key in ("xtl", "ytl", "xbr", "ybr"))
    corners = np.asarray([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    return _turned(corners, _number(shape.get("rotation") or "0"))


def _ellipse(shape: Element) -> Ring:
    cx, cy, rx, ry = (_number(shape.get(key)) for key in ("cx", "cy", "rx", "ry"))
    angles = np.arange(ELLIPSE_CORNERS) * (2 * np.pi / ELLIPSE_CORNERS)
    rim = np.stack([cx + rx * np.cos(angles), cy + ry * np.sin(angles)], axis=1)
    return _turned(rim, _number(shape.get("rotation") or "0"))


def _turned(ring: Ring, degrees: float) -> Ring:
    """Turned clockwise, as one sees it, about the middle of its box."""
    if not degrees:
        return ring
    middle = (ring.min(axis=0) + ring.max(axis=0)) / 2
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turned: Ring = middle + (ring - middle) @ np.asarray([[cos, sin], [-sin, cos]])
    return turned


_OUTLINES: dict[str, Callable[[Element], Ring]] = {"polygon": _polygon, "box": _box, "ellipse": _ellipse}


def _pixels(shape: Element, size: tuple[int, int]) -> str:
    """Run lengths of a mask, cut at the image. Raises UnusableError."""
    left, top, width, height = (_whole(shape.get(key), -1) for key in ("left", "top", "width", "height"))
    runs = [_whole(text, -1) for text in (shape.get("rle") or "").split(",")]
    if min(width, height) <= 0 or width * height > MAX_PIXELS or min(runs) < 0 or sum(runs) != width * height:
        raise UnusableError("rle-broken", f"its runs are not those of a mask of {width} x {height} pixels")
    foreground = (np.arange(len(runs)) & 1).astype(np.uint8)
    mask = np.repeat(foreground, runs).reshape(height, width)
    return place(mask, top, left, size)


def _number(text: str | None) -> float:
    """Not a number where it is none."""
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def _whole(text: str | None, otherwise: int = 0) -> int:
    value = _number(text)
    return int(value) if value.is_integer() else otherwise


# ---- writing


@dataclass(slots=True)
class _Losses:
    """What the notes tell, counted."""

    crowd: int = 0
    empty: int = 0

    def notes(self) -> list[str]:
        """A line for each kind there is."""
        told = [
            (self.crowd, f"crowd regions carry the attribute {CROWD}: other tools take them for ordinary objects"),
            (self.empty, "annotations without a pixel are left out"),
        ]
        return [f"{count} {what}" for count, what in told if count]


def _write_head(file: TextIO, splits: Mapping[str, Dataset]) -> None:
    names = dict.fromkeys(name for dataset in splits.values() for name in dataset.names)
    file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n')
    file.write("  <meta>\n    <task>\n      <labels>\n")
    crowds = any(annotation.crowd for dataset in splits.values() for annotation in dataset.annotations)
    attribute = _CROWD_ATTRIBUTE if crowds else ""
    for number, name in enumerate(names):
        red, green, blue = PALETTE[number % len(PALETTE)]
        colour = f"<color>#{red:02x}{green:02x}{blue:02x}</color>"
        attributes = f"<type>any</type><attributes>{attribute}</attributes>"
        file.write(f"        <label><name>{_text(name)}</name>{colour}{attributes}</label>\n")
    file.write("      </labels>\n    </task>\n  </meta>\n")


_CROWD_ATTRIBUTE = (
    f"<attribute><name>{CROWD}</name><mutable>False</mutable><input_type>checkbox</input_type>"
    "<default_value>false</default_value><values>false</values></attribute>"
)


def _write_image(
    file: TextIO, dataset: Dataset, image: ImageRecord, number: int, subset: str | None, losses: _Losses
) -> None:
    of_subset = {} if subset is None else {"subset": subset}
    attributes = {"id": number, "name": image.file_name, **of_subset, "width": image.width, "height": image.height}
    file.write(f"  <image{_written(attributes)}>\n")
    groups = 0
    for annotation in dataset.of(image):
        parts = _parts(annotation.segmentation, image.size)
        groups += len(parts) > 1
        losses.crowd += annotation.crowd and bool(parts)
        losses.empty += not parts
        label = dataset.names[dataset.labels[annotation.category_id]]
        for tag, part in parts:
            common = {"label": label, "source": "manual", "occluded": 0}
            group = {"group_id": groups} if len(parts) > 1 else {}
            file.write(f"    <{tag}{_written({**common, **part, 'z_order': 0, **group})}>")
            file.write(f'<attribute name="{CROWD}">true</attribute>' if annotation.crowd else "")
            file.write(f"</{tag}>\n")
    file.write("  </image>\n")


def _parts(segmentation: Segmentation, size: tuple[int, int]) -> list[tuple[str, dict[str, object]]]:
    """Tags and attributes of the shapes that an object is made of; none if it has no pixels."""
    if isinstance(segmentation, str):
        found = crop(segmentation, size)
        if found is None:
            return []
        segmentation = from_mask(*found, size)
        if isinstance(segmentation, str):
            return [("mask", _mask(*found))]
    return [("polygon", {"points": _points(ring)}) for ring in segmentation]


def _mask(mask: ByteArray, window: tuple[int, int, int, int]) -> dict[str, object]:
    top, bottom, left, right = window
    flat = mask.ravel()
    edges = np.flatnonzero(np.diff(flat, prepend=0))
    runs = np.diff(edges, prepend=0, append=len(flat))
    box = {"left": left, "top": top, "width": right - left, "height": bottom - top}
    return {"rle": ", ".join(map(str, runs.tolist())), **box}


def _points(ring: Ring) -> str:
    return ";".join(f"{x!r},{y!r}" for x, y in ring.tolist())


def _written(attributes: Mapping[str, object]) -> str:
    return "".join(f" {name}={quoteattr(_legal(str(value)))}" for name, value in attributes.items())


def _text(value: str) -> str:
    return escape(_legal(value))


def _legal(value: str) -> str:
    """Without the characters that XML can't hold."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", value)
