"""CVAT for images 1.1: one ``annotations.xml`` for all images, which lie in ``images`` beside it.

Exports of projects put them in ``images/<subset>`` and give the subset of each: those named as a split are read as one.
Coordinates are COCO's, as CVAT hands polygons on to COCO unchanged; a mask counts whole pixels, its run lengths go row
by row through the box of ``left``, ``top``, ``width`` and ``height``. An object in several parts is several shapes of
one label with one ``group_id``. CVAT has no crowd: an attribute ``iscrowd`` or ``crowd`` stands for it.
https://docs.cvat.ai/docs/dataset_management/formats/xml_format/
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from defusedxml.ElementTree import ParseError, iterparse

from maskline._files import replace_file
from maskline._wording import short
from maskline.data import accounting, crowds
from maskline.data.dataset import NOTHING, Annotation, Category, Dataset, Extra, ImageRecord
from maskline.data.faults import Count, Fault, Reading, UnusableError
from maskline.data.formats.cvat.shapes import region
from maskline.data.formats.groups import Groups
from maskline.data.formats.labels import fitted, one_line, renamed
from maskline.data.image_files import copy_images, unique_names
from maskline.data.merge import unify_categories
from maskline.data.shapes import Segmentation, crop, to_polygons
from maskline.data.source import Source
from maskline.data.sources import image_size, relative_name
from maskline.data.tree import SPLIT_WORDS, SPLITS, UNSPLIT, Match, split_of, suffix_of
from maskline.errors import DatasetError, DatasetNotFoundError, InputError
from maskline.inputs import MAX_PIXELS, SUFFIXES
from maskline.masks import Mask, Window
from maskline.render import PALETTE

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

TITLE = "CVAT"
FILE = "annotations.xml"

_CROWD_SET = f'<attribute name="{crowds.NAMES[0]}">true</attribute>'
_CROWD_LISTED = (
    f"<attribute><name>{crowds.NAMES[0]}</name><mutable>False</mutable><input_type>checkbox</input_type>"
    "<default_value>false</default_value><values></values></attribute>"
)
_NO_REGION = ("tag", "points", "polyline", "cuboid", "skeleton")  # types of labels that no region has
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # characters that XML can't hold


def detect(source: Source) -> list[str]:
    """CVAT's XML files."""
    return source.of_kind("cvat")


def read(source: Source) -> Reading:
    """Read all splits of an export, of several in a folder, or of an XML file; missing images are faults.

    Raises:
        DatasetNotFoundError: there is no such file.
        DatasetError: the only file is damaged XML, unsafe XML, or an export of another kind ("CVAT for video").
    """
    paths = detect(source)
    if not paths:
        raise DatasetNotFoundError(f"no {FILE} in {source.given}: expected an export of CVAT as 'CVAT for images 1.1'")
    reader = _Reader(source)
    unread: list[DatasetError] = []
    for path in paths:
        try:
            reader.read_file(path)
        except DatasetError as error:
            unread.append(error)
            reader.faults.append(Fault("file", UNSPLIT, path, str(error)))
    if len(unread) == len(paths):
        raise unread[0]
    return replace(reader.reading(), files=tuple(paths))


def write(splits: Mapping[str, Dataset], folder: Path) -> list[str]:
    """Fill an empty folder as CVAT exports a project, with a subset for each split; a set not divided as a task.

    Polygons keep all their digits. Run lengths become polygons that cover the same pixels, or, where they have holes,
    shapes of type ``mask``, which CVAT has from version 2.3 on, but not every reader of its files.

    Returns:
        What was lost, a line each with counts.

    Raises:
        DatasetError: an image is missing.
        OutputError, OSError: a file can't be written.
    """
    splits = unify_categories(splits)
    writer = _Writer(splits, folder)
    copied = {split: writer.copy(split, dataset) for split, dataset in splits.items()}

    def save(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(writer.document(copied))

    replace_file(folder / FILE, save)
    return writer.notes()


# ---- reading


def _elements(path: Path) -> Iterator[Element]:
    """The elements right below ``<annotations>``, each complete, and forgotten afterwards.

    Raises DatasetError if the file can't be read, is not XML, or defines entities, as an attack would.
    """
    depth, root = 0, None
    try:
        with path.open("rb") as file:
            for event, element in iterparse(file, ("start", "end")):
                depth += 1 if event == "start" else -1
                root = element if root is None else root
                if event == "end" and depth == 1:
                    yield element
                    root.clear()
    except OSError as error:
        raise DatasetError(f"{path} can't be read: {error.strerror}") from error
    except (ParseError, ValueError, LookupError) as error:  # the latter two: encodings, and what defusedxml forbids
        raise DatasetError(f"{path} is not readable XML ({' '.join(str(error).split())})") from None


@dataclass(slots=True)
class _Part:
    """A split being read.

    Attributes:
        source: the file it was met in first.
        images: by path from the folder of the images.
        starts: the folders that the names of images start from, with a trailing slash unless empty.
        refused: images that can't be used.
        lost: shapes that can't be used.
    """

    source: Path
    images: dict[str, ImageRecord] = field(default_factory=dict)
    starts: set[str] = field(default_factory=set)
    annotations: list[Annotation] = field(default_factory=list)
    refused: int = 0
    lost: int = 0
    groups: Groups = field(default_factory=Groups)


class _Reader:
    """Files being read: the splits and classes so far, and the faults."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.parts: dict[str, _Part] = {}
        self.classes: dict[str, int] = {}  # ids by name
        self.faults: list[Fault] = []

    def read_file(self, path: str) -> None:
        later: list[tuple[Element, str, Match]] = []  # images that are not where they should be
        for element in _elements(self.source.root / path):
            if element.tag == "meta":
                for name in _label_names(element):
                    self.class_id(name)
            elif element.tag == "track":
                raise DatasetError(f"{path} is in the format 'CVAT for video': export it as 'CVAT for images 1.1'")
            elif element.tag == "image":
                split = self.split(element, path)
                with self.refusing(element, path, split):
                    match, certain = self.find_image(path, element, split)
                    if not certain:
                        later.append((element, split, match))
                    else:
                        self.read_image(element, path, split, match.path)
        usual = any(part.images for part in self.parts.values())  # some images are where CVAT puts them
        moved: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for element, split, match in later:
            with self.refusing(element, path, split):
                if any(match.path in part.images for part in self.parts.values()):
                    raise UnusableError("image-missing", f"there is only {match.path}, which is another image's")
                if match.moved or usual:
                    moved[split][element.get("name", "")] = match.path
                self.read_image(element, path, split, match.path)
        for split, paths in moved.items():
            self.faults += accounting.moved(split, path, paths)

    @contextmanager
    def refusing(self, element: Element, path: str, split: str) -> Iterator[None]:
        """Make a fault of what is wrong with an image as a whole."""
        part = self.parts.setdefault(split, _Part(self.source.root / path))
        try:
            yield
        except UnusableError as error:
            lost = sum(shape.tag != "tag" for shape in element)
            part.refused += 1
            part.lost += lost
            what = f"image {short(element.get('name'))}: {error}"
            self.faults.append(Fault(error.code, split, path, what, lost=lost))

    def class_id(self, name: str) -> int:
        return self.classes.setdefault(name, len(self.classes) + 1)

    def split(self, element: Element, path: str) -> str:
        """By its subset; without one, by the name of the file or of its folder."""
        if subset := element.get("subset"):
            return _split_named(subset)
        return split_of(PurePosixPath(path).stem) or _split_named(PurePosixPath(path).parent.name)

    def read_image(self, element: Element, path: str, split: str, name: str) -> None:
        """``name``: the path of the image. Raises UnusableError."""
        part = self.parts[split]
        height, width = _size(element, self.source.images.root / name)
        image = ImageRecord(len(part.images) + 1, name, width, height)
        part.starts.add(_base_of(name, element.get("name", "")))
        known = part.images.setdefault(name, image)
        if known is not image:
            self.faults.append(Fault("image-listed-twice", split, path, f"image {name} is there twice", known.id))
        for label, found in self.objects(element, known, path, split):
            key = len(part.annotations) + 1
            part.annotations.append(replace(found, id=key, category_id=self.class_id(label)))

    def find_image(self, path: str, element: Element, split: str) -> tuple[Match, bool]:
        """The file of an image, and whether it is where CVAT puts it.

        Frames of a video are listed without the suffix that their files have.

        Raises UnusableError.
        """
        name, images = element.get("name", ""), self.source.images
        finder = images.all if suffix_of(name) in SUFFIXES else images.image_stems
        folder = PurePosixPath(path).parent / "images" / element.get("subset", "")
        absolute = relative_name(name) is None
        expected = name if absolute else str(folder / name.replace("\\", "/"))
        match = finder.find(expected, split, local=not absolute)
        if match is not None and not match.moved:
            return match, True
        if not absolute:  # the folder may have another name
            near = "" if folder == PurePosixPath("images") else f"{folder.parent}/"
            named = finder.find(name, split, near=near)
            match = named if match is None or (named is not None and not named.moved) else match
        if match is not None:
            return match, False
        if absolute:
            raise UnusableError("image-path", "expected the path of a file below 'images'")
        raise UnusableError("image-missing", f"there is no such file in {images.root}")

    def objects(self, element: Element, image: ImageRecord, path: str, split: str) -> Iterator[tuple[str, Annotation]]:
        """Label and annotation of each object; the ids of annotation and category are yet to be given."""
        groups: dict[Any, list[tuple[Element, Segmentation]]] = {}
        for number, shape in enumerate(shape for shape in element if shape.tag != "tag"):  # of the whole image
            try:
                label, part = _label(shape), region(shape, image.size)
            except UnusableError as error:
                what = f"image {image.file_name}: shape {number} ({short(shape.get('label'))}): {error}"
                self.faults.append(Fault(error.code, split, path, what, image.id, lost=1))
                self.parts[split].lost += 1
                continue
            group = shape.get("group_id", "0").strip()
            key = number if group in ("", "0") else (label, group, _is_crowd(shape))
            groups.setdefault(key, []).append((shape, part))
        for members in groups.values():
            shape = members[0][0]
            parts = [(part, member.tag == "box") for member, part in members]
            whole = self.parts[split].groups.union(parts, image.size)
            yield _label(shape), Annotation(0, image.id, 0, whole, crowd=_is_crowd(shape), extra=_extra(shape))

    def reading(self) -> Reading:
        categories = tuple(Category(number, name) for name, number in self.classes.items())
        parts = {split: self.parts[split] for split in (*SPLITS, UNSPLIT) if split in self.parts}
        parts = parts or {UNSPLIT: _Part(self.source.given)}
        for split, part in parts.items():
            self.faults.extend(part.groups.faults(split, part.source.name))
        listed = {
            split: Count(len(part.images) + part.refused, len(part.annotations) + part.lost)
            for split, part in parts.items()
        }
        splits = {split: self.dataset(split, part, categories) for split, part in parts.items()}
        return Reading(splits, self.faults, listed)

    def dataset(self, split: str, part: _Part, categories: tuple[Category, ...]) -> Dataset:
        """The split, its images named as in the file if all of them start from one folder."""
        start = next(iter(part.starts)) if len(part.starts) == 1 else ""
        images = tuple(replace(image, file_name=name.removeprefix(start)) for name, image in part.images.items())
        folder = self.source.images.root / start
        return Dataset(split, folder, images, tuple(part.annotations), categories, part.source)


def _base_of(path: str, name: str) -> str:
    """The folder that a name starts from, without a suffix or not; that of the file if the name leads elsewhere."""
    for end in (PurePosixPath(path).suffix, ""):
        start = path.removesuffix(end).removesuffix(name.replace("\\", "/").removesuffix(end))
        if start != path.removesuffix(end) and (not start or start.endswith("/")):
            return start
    return path[: path.rfind("/") + 1]


def _label_names(meta: Element) -> Iterator[str]:
    """The classes of a task, project or job: its labels but for those of joints of skeletons and of no region."""
    for label in meta.iter("label"):
        name = (label.findtext("name") or "").strip()
        if name and not label.findtext("parent") and label.findtext("type", "any").strip() not in _NO_REGION:
            yield name


def _split_named(subset: str) -> str:
    """``Validation`` means ``val``; what names no split, such as CVAT's ``default``, that there is none."""
    return next((s for s, word in SPLIT_WORDS.items() if re.fullmatch(word, subset.strip().lower())), UNSPLIT)


def _size(element: Element, path: Path) -> tuple[int, int]:
    """``(height, width)`` as stated, else as the image has it. Raises UnusableError."""
    stated = [element.get(key, "").strip() for key in ("height", "width")]
    height, width = (int(text) if re.fullmatch(r"\d{1,9}", text) else 0 for text in stated)
    if 0 < height * width <= MAX_PIXELS:
        return height, width
    try:
        return image_size(path)
    except InputError as error:
        raise UnusableError("image-unreadable", f"its size is not stated, and {error}") from None


def _label(shape: Element) -> str:
    if name := shape.get("label", "").strip():
        return name
    raise UnusableError("record", f"a {shape.tag} without a label")


def _attributes(shape: Element) -> dict[str, str]:
    return {element.get("name", ""): (element.text or "").strip() for element in shape.findall("attribute")}


def _is_crowd(shape: Element) -> bool:
    return crowds.is_marked(_attributes(shape))


def _extra(shape: Element) -> Extra:
    """The attributes that people gave it."""
    kept = {name: text for name, text in crowds.unmarked(_attributes(shape)).items() if name}
    return {"attributes": kept} if kept else NOTHING


# ---- writing


class _Writer:
    """Splits being written: the labels of their classes, and what is lost, counted."""

    def __init__(self, splits: Mapping[str, Dataset], folder: Path) -> None:
        self.images = folder / "images"
        self.subsets = {split: None if set(splits) == {UNSPLIT} else split for split in splits}
        self.labels = fitted((name for dataset in splits.values() for name in dataset.names), _as_xml)
        self.groups, self.image_ids = count(1), count()
        self.crowds = self.attributes = self.masks = self.empty = 0

    def notes(self) -> list[str]:
        told = [
            (self.crowds, "crowd regions written with the attribute iscrowd, which CVAT shows as ordinary objects"),
            (self.attributes, "annotations that lose their attributes"),
            (self.masks, "masks with holes written as <mask> shapes, which FiftyOne and CVAT projects skip"),
            (self.empty, "annotations without pixels left out"),
        ]
        return [f"{what}: {number}" for number, what in told if number] + renamed(self.labels, "to fit XML")

    def copy(self, split: str, dataset: Dataset) -> Dataset:
        """The split with its images copied to the folder of its subset, under names that XML can hold."""
        names = unique_names({split: dataset})[split].items()
        safe = {key: _NOT_XML.sub(lambda found: f"%{ord(found[0]):02x}", name) for key, name in names}
        return copy_images(dataset, self.images / (self.subsets[split] or ""), safe)

    def document(self, splits: Mapping[str, Dataset]) -> Iterator[str]:
        """The file in pieces.

        Of a project, CVAT reads the labels and ``<subsets>``; Datumaro reads the subsets, and CVAT's fork of it the
        labels, of the tasks in it.
        """
        yield '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n<meta>\n'
        labels = "".join(self.listed(splits))
        if subsets := [subset for subset in self.subsets.values() if subset]:
            yield f"<project>{labels}<subsets>" + "\n".join(subsets) + "</subsets>\n<tasks>\n"
            for number, subset in enumerate(subsets, 1):
                yield f"<task><id>{number}</id><subset>{subset}</subset>{labels}</task>\n"
            yield "</tasks></project>\n"
        else:
            yield f"<task>{labels}</task>\n"
        yield "</meta>\n"
        for split, dataset in splits.items():
            for image in dataset.images:
                given = {"id": next(self.image_ids), "name": image.file_name, "subset": self.subsets[split]}
                yield _start("image", given | {"width": image.width, "height": image.height}) + "\n"
                for annotation in dataset.of(image):
                    name = dataset.categories[dataset.labels[annotation.category_id]].name
                    yield from self.shapes(annotation, image, self.labels[name])
                yield "</image>\n"
        yield "</annotations>\n"

    def listed(self, splits: Mapping[str, Dataset]) -> Iterator[str]:
        """The list of labels. CVAT takes attributes of shapes only where their label lists them."""
        crowd = any(annotation.crowd for dataset in splits.values() for annotation in dataset.annotations)
        yield "<labels>\n"
        for number, label in enumerate(self.labels.values()):
            colour = "#{:02x}{:02x}{:02x}".format(*PALETTE[number % len(PALETTE)])
            yield f"<label><name>{escape(label)}</name><color>{colour}</color><type>any</type>"
            yield f"<attributes>{_CROWD_LISTED if crowd else ''}</attributes></label>\n"
        yield "</labels>\n"

    def shapes(self, annotation: Annotation, image: ImageRecord, label: str) -> Iterator[str]:
        given: dict[str, object] = {"label": label, "source": "manual", "occluded": 0, "z_order": 0}
        inner = _CROWD_SET if annotation.crowd else ""
        self.crowds += annotation.crowd
        self.attributes += bool(annotation.extra.get("attributes"))
        shape = to_polygons(annotation.segmentation, image.size)
        if shape is None:
            self.empty += 1
        elif isinstance(shape, str):
            self.masks += 1
            yield f"{_start('mask', given | _mask(shape, image.size))}{inner}</mask>\n"
        else:
            given["group_id"] = next(self.groups) if len(shape) > 1 else None
            for ring in shape:
                points = ";".join(f"{_digits(x)},{_digits(y)}" for x, y in ring.tolist())
                yield f"{_start('polygon', given | {'points': points})}{inner}</polygon>\n"


def _as_xml(name: str) -> str:
    """The name of a class as XML can hold it and as CVAT keeps it, without spaces around."""
    return _NOT_XML.sub("\ufffd", one_line(name))


def _mask(rle: str, size: tuple[int, int]) -> dict[str, object]:
    """The attributes of a shape of type ``mask``, from run lengths over an image of ``(height, width)``, not empty."""
    mask, window = cast("tuple[Mask, Window]", crop(rle, size))
    flat = np.concatenate([[False], mask.ravel() != 0, [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(edges, prepend=0, append=mask.size)  # the last is 0 where the box ends with the mask's own pixel
    rle = ", ".join(map(str, runs[: len(runs) - (runs[-1] == 0)].tolist()))
    return {"rle": rle, "left": window.left, "top": window.top, "width": window.width, "height": window.height}


def _digits(value: float) -> str:
    """All digits of a number that it needs, and no more."""
    return repr(value).removesuffix(".0")


def _start(tag: str, attributes: Mapping[str, object]) -> str:
    """A start tag; attributes that are None are left out."""
    given = (f" {key}={quoteattr(str(value))}" for key, value in attributes.items() if value is not None)
    return f"<{tag}{''.join(given)}>"
