"""CVAT for images 1.1: one ``annotations.xml`` for all images, with the images in ``images`` next to it.

Project exports put them in ``images/<subset>`` and state the subset of each; subsets named like a split become splits.
Coordinates are COCO's, as CVAT exports polygons to COCO unchanged. Masks are run lengths, row by row in the box of
``left``, ``top``, ``width`` and ``height``. An object of several parts is several shapes with the same label and
``group_id``. CVAT has no crowds; an attribute ``iscrowd`` or ``crowd`` marks them.
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
from maskline.data.categories import unify_categories
from maskline.data.dataset import NOTHING, Annotation, Category, Dataset, Extra, ImageRecord
from maskline.data.faults import Count, Fault, Reading, UnusableError
from maskline.data.file_access import relative_name
from maskline.data.file_tree import SPLIT_WORDS, SPLITS, UNSPLIT, Match, split_of, suffix_of
from maskline.data.formats.class_names import fit_names, one_line, renamed_note
from maskline.data.formats.cvat.shapes import region
from maskline.data.formats.groups import Groups
from maskline.data.image_files import copy_images, unique_names
from maskline.data.image_headers import image_size
from maskline.data.shapes import Segmentation, crop, to_polygons
from maskline.data.source import Source
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
_NO_REGION = ("tag", "points", "polyline", "cuboid", "skeleton")  # label types without a region
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # characters that are invalid in XML


def detect(source: Source) -> list[str]:
    """CVAT's XML files."""
    return source.of_kind("cvat")


def read(source: Source) -> Reading:
    """Read all splits of an export, of several exports in a folder, or of an XML file; missing images are faults.

    Raises:
        DatasetNotFoundError: the file does not exist.
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
    """Write a data set to an empty folder like a CVAT project export, with a subset per split; unsplit as a task.

    Polygons keep all their digits. RLE masks become polygons of the same pixels, or, with holes, shapes of type
    ``mask``, which CVAT supports since version 2.3, but not every reader of its files.

    Returns:
        What was lost, one line each with counts.

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
    """Stream the children of ``<annotations>``, each complete, and free each after use.

    Raises DatasetError if the file can't be read, is not XML, or defines entities (a known attack).
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
    except (
        ParseError,
        ValueError,
        LookupError,
    ) as error:  # the latter two: encodings, and constructs forbidden by defusedxml
        raise DatasetError(f"{path} is not readable XML ({' '.join(str(error).split())})") from None


@dataclass(slots=True)
class _Part:
    """A split being read.

    Attributes:
        source: the first file with this split.
        images: by path below the images' root.
        starts: the folders that image names are relative to, with a trailing slash unless empty.
        refused: number of unusable images.
        lost: number of unusable shapes.
    """

    source: Path
    images: dict[str, ImageRecord] = field(default_factory=dict)
    starts: set[str] = field(default_factory=set)
    annotations: list[Annotation] = field(default_factory=list)
    refused: int = 0
    lost: int = 0
    groups: Groups = field(default_factory=Groups)


class _Reader:
    """Reader of all files: the splits, classes and faults so far."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.parts: dict[str, _Part] = {}
        self.classes: dict[str, int] = {}  # ids by name
        self.faults: list[Fault] = []

    def read_file(self, path: str) -> None:
        later: list[tuple[Element, str, Match]] = []  # images that are not at their expected path
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
        usual = any(part.images for part in self.parts.values())  # some images are at their expected path
        moved: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for element, split, match in later:
            with self.refusing(element, path, split):
                if any(match.path in part.images for part in self.parts.values()):
                    raise UnusableError("image-missing", f"the only candidate, {match.path}, belongs to another image")
                if match.moved or usual:
                    moved[split][element.get("name", "")] = match.path
                self.read_image(element, path, split, match.path)
        for split, paths in moved.items():
            self.faults += accounting.moved_faults(split, path, paths)

    @contextmanager
    def refusing(self, element: Element, path: str, split: str) -> Iterator[None]:
        """Turn an UnusableError into a fault of a whole image."""
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
        """The split from the image's subset, else from the name of the file or its folder."""
        if subset := element.get("subset"):
            return _split_named(subset)
        return split_of(PurePosixPath(path).stem) or _split_named(PurePosixPath(path).parent.name)

    def read_image(self, element: Element, path: str, split: str, name: str) -> None:
        """Read an image and its shapes; ``name`` is the path of its file. Raises UnusableError."""
        part = self.parts[split]
        height, width = _size(element, self.source.images.root / name)
        image = ImageRecord(len(part.images) + 1, name, width, height)
        part.starts.add(_base_of(name, element.get("name", "")))
        known = part.images.setdefault(name, image)
        if known is not image:
            self.faults.append(Fault("image-listed-twice", split, path, f"image {name} is listed twice", known.id))
        for label, found in self.objects(element, known, path, split):
            key = len(part.annotations) + 1
            part.annotations.append(replace(found, id=key, category_id=self.class_id(label)))

    def find_image(self, path: str, element: Element, split: str) -> tuple[Match, bool]:
        """The file of an image, and whether it is at the path that CVAT gives it.

        Video frames are listed without the suffix of their files.

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
        raise UnusableError("image-missing", f"no such file in {images.root}")

    def objects(self, element: Element, image: ImageRecord, path: str, split: str) -> Iterator[tuple[str, Annotation]]:
        """Label and annotation of each object; annotation and category ids are still 0."""
        groups: dict[Any, list[tuple[Element, Segmentation]]] = {}
        for number, shape in enumerate(
            shape for shape in element if shape.tag != "tag"
        ):  # a tag applies to the whole image
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
        """The split, with image names as in the file if all are relative to one folder."""
        start = next(iter(part.starts)) if len(part.starts) == 1 else ""
        images = tuple(replace(image, file_name=name.removeprefix(start)) for name, image in part.images.items())
        folder = self.source.images.root / start
        return Dataset(split, folder, images, tuple(part.annotations), categories, part.source)


def _base_of(path: str, name: str) -> str:
    """The folder that a name, with or without suffix, is relative to; the file's own folder if the name differs."""
    for end in (PurePosixPath(path).suffix, ""):
        start = path.removesuffix(end).removesuffix(name.replace("\\", "/").removesuffix(end))
        if start != path.removesuffix(end) and (not start or start.endswith("/")):
            return start
    return path[: path.rfind("/") + 1]


def _label_names(meta: Element) -> Iterator[str]:
    """The classes of a task, project or job: its labels without skeleton joints and labels without a region."""
    for label in meta.iter("label"):
        name = (label.findtext("name") or "").strip()
        if name and not label.findtext("parent") and label.findtext("type", "any").strip() not in _NO_REGION:
            yield name


def _split_named(subset: str) -> str:
    """The split of a subset: ``val`` for ``Validation``, `UNSPLIT` for other names such as CVAT's ``default``."""
    return next((s for s, word in SPLIT_WORDS.items() if re.fullmatch(word, subset.strip().lower())), UNSPLIT)


def _size(element: Element, path: Path) -> tuple[int, int]:
    """``(height, width)`` as stated, else from the image file. Raises UnusableError."""
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
    """User-defined attributes of a shape."""
    kept = {name: text for name, text in crowds.unmarked(_attributes(shape)).items() if name}
    return {"attributes": kept} if kept else NOTHING


# ---- writing


class _Writer:
    """Writer of all splits: labels by class name, and counts of what is lost."""

    def __init__(self, splits: Mapping[str, Dataset], folder: Path) -> None:
        self.images = folder / "images"
        self.subsets = {split: None if set(splits) == {UNSPLIT} else split for split in splits}
        self.labels = fit_names((name for dataset in splits.values() for name in dataset.names), _as_xml)
        self.groups, self.image_ids = count(1), count()
        self.crowds = self.attributes = self.masks = self.empty = 0

    def notes(self) -> list[str]:
        lines = [
            (self.crowds, "crowd regions written with the attribute iscrowd, which CVAT shows as ordinary objects"),
            (self.attributes, "annotations that lose their attributes"),
            (self.masks, "masks with holes written as <mask> shapes, which FiftyOne and CVAT projects skip"),
            (self.empty, "annotations without pixels left out"),
        ]
        return [f"{what}: {number}" for number, what in lines if number] + renamed_note(self.labels, "to fit XML")

    def copy(self, split: str, dataset: Dataset) -> Dataset:
        """Copy the images of a split to the folder of its subset, under names that are valid in XML."""
        names = unique_names({split: dataset})[split].items()
        safe = {key: _NOT_XML.sub(lambda found: f"%{ord(found[0]):02x}", name) for key, name in names}
        return copy_images(dataset, self.images / (self.subsets[split] or ""), safe)

    def document(self, splits: Mapping[str, Dataset]) -> Iterator[str]:
        """The file in pieces.

        In a project, CVAT reads the labels and ``<subsets>``; Datumaro reads the subsets of its tasks, and CVAT's fork
        of Datumaro their labels.
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
        """The list of labels. CVAT imports attributes of shapes only if their label declares them."""
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
    """A class name that is valid in XML and unchanged by CVAT, without surrounding spaces."""
    return _NOT_XML.sub("\ufffd", one_line(name))


def _mask(rle: str, size: tuple[int, int]) -> dict[str, object]:
    """Attributes of a ``mask`` shape from a non-empty RLE over an image of ``(height, width)``."""
    mask, window = cast("tuple[Mask, Window]", crop(rle, size))
    flat = np.concatenate([[False], mask.ravel() != 0, [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(edges, prepend=0, append=mask.size)  # the last is 0 if the last pixel of the box is foreground
    rle = ", ".join(map(str, runs[: len(runs) - (runs[-1] == 0)].tolist()))
    return {"rle": rle, "left": window.left, "top": window.top, "width": window.width, "height": window.height}


def _digits(value: float) -> str:
    """The shortest string that restores a number."""
    return repr(value).removesuffix(".0")


def _start(tag: str, attributes: Mapping[str, object]) -> str:
    """A start tag; attributes with value None are left out."""
    given = (f" {key}={quoteattr(str(value))}" for key, value in attributes.items() if value is not None)
    return f"<{tag}{''.join(given)}>"
