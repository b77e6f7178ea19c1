"""LabelMe: a JSON file per image, as written by LabelMe and compatible tools.

Supported are PaddleX's layout (``images/``, ``annotations/``, and lists of each split's JSON files,
``train_anno_list.txt`` and so on) and any folder tree with such files. LabelMe has holes only in masks, a class list
only in ``label.txt``, and no crowds; a flag ``iscrowd`` or ``crowd`` of a shape marks them. An object of several parts
is several shapes with the same label and ``group_id``. https://github.com/wkentaro/labelme
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from maskline._files import read_json, replace_file
from maskline._wording import counted, short
from maskline.data import accounting
from maskline.data.accounting import first_names
from maskline.data.background_classes import is_background
from maskline.data.dataset import NOTHING, Annotation, Category, Dataset, Extra, Id, ImageRecord
from maskline.data.faults import Count, Fault, Reading, UnusableError
from maskline.data.file_tree import SPLIT_WORDS, UNSPLIT, Match, key_of, suffix_of
from maskline.data.formats.class_names import fit_names, one_line, renamed_note
from maskline.data.formats.groups import Groups
from maskline.data.formats.labelme.files import LabelMeFiles, common_folder, is_blank, read_lines, split_folder
from maskline.data.formats.labelme.shapes import (
    extra_of,
    holds_image,
    is_box,
    is_crowd,
    label_of,
    region,
)
from maskline.data.image_files import copy_images, unique_names
from maskline.data.image_headers import decode_base64, image_size
from maskline.data.safe_json import dump_json, encode_json
from maskline.data.shapes import Segmentation, crop
from maskline.data.source import Source
from maskline.errors import DatasetError, InputError
from maskline.inputs import MAX_PIXELS
from maskline.outputs.labelme_json import VERSION, Json, document, exact_shapes

TITLE = "LabelMe"

LISTS = {split: f"{split}_anno_list.txt" for split in (*SPLIT_WORDS, UNSPLIT)}
CLASS_LISTS = ("label.txt", "labels.txt")


def detect(source: Source) -> list[str]:
    """LabelMe's JSON files; without any, the lists of the splits."""
    found = source.of_kind("labelme")
    return found or (list(_lists(source).values()) if source.file is None else [])


def read(source: Source) -> Reading:
    """Read a folder: splits from lists, else from sub-folders ``train``, ``val``, ``test``, else one split ``all``.

    Classes are in the order of ``label.txt``, then of first appearance in train, val, test; the same in all splits.
    Missing images keep their records. Sizes are those stated. The lists may also be in a sub-folder, if only one
    contains lists.

    Raises:
        DatasetError: there are no LabelMe files, or a list can't be read.
    """
    return _Reader(source).read()


def write(splits: Mapping[str, Dataset], folder: Path) -> list[str]:
    """Write ``images/``, ``annotations/``, ``label.txt`` and the lists of the splits.

    Args:
        splits: by name; a single split ``all`` gets no list.
        folder: an empty folder.

    Returns:
        What is lost or represented differently, one line each.

    Raises:
        DatasetError: an image is missing or can't be read.
        OutputError, OSError: a file can't be written.
    """
    return _Writer(splits, folder).write()


# ---- reading


def _lists(source: Source) -> dict[str, str]:
    """Existing lists by split: those of the folder itself, or of the only sub-folder with lists."""
    found = [PurePosixPath(path) for path in source.tree.files if PurePosixPath(path).name in LISTS.values()]
    folders = {path.parent for path in found}
    folder = folders.pop() if len(folders) == 1 else PurePosixPath()
    return {split: str(folder / name) for split, name in LISTS.items() if folder / name in found}


@dataclass(slots=True)
class _Part:
    """A split being read.

    Attributes:
        source: its list, or the folder.
        images: by path below the images' root.
        groups: of shapes.
        moved: images found elsewhere, by the stated path.
        lost: number of unusable shapes.
    """

    split: str
    source: Path
    images: dict[str, ImageRecord] = field(default_factory=dict)
    annotations: list[Annotation] = field(default_factory=list)
    groups: Groups = field(default_factory=Groups)
    moved: dict[str, str] = field(default_factory=dict)
    lost: int = 0

    def count(self) -> Count:
        """Images and annotations, including those that could not be used."""
        return Count(len(self.images), len(self.annotations) + self.lost)


class _Reader:
    """Reader of a data set: its classes and faults so far."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.files = LabelMeFiles(source, self.sheets(source))
        self.faults: list[Fault] = []
        self.classes: dict[str, int] = {}  # ids by name

    @staticmethod
    def sheets(source: Source) -> list[str]:
        """The JSON files, including empty ones, so that they are reported."""
        empty = [path for path in source.files if suffix_of(path) == "json" and is_blank(source.root / path)]
        return sorted({*source.of_kind("labelme"), *empty})

    def read(self) -> Reading:
        lists = {} if self.source.file is not None else _lists(self.source)
        self.read_class_list(lists)
        plan = self.by_lists(lists) if lists else self.by_folders()
        if not plan:
            raise DatasetError(
                f"{self.source.given} holds no LabelMe annotations: expected JSON files with shapes and imagePath"
            )
        parts = self.parts(plan, lists)
        categories = tuple(Category(number, name) for name, number in self.classes.items())
        folder = common_folder([name for part in parts for name in part.images])
        root = self.source.images.root
        return Reading(
            {part.split: _dataset(part, root, folder, categories) for part in parts},
            self.faults,
            {part.split: part.count() for part in parts},
            files=tuple(sheet for sheets in plan.values() for sheet in sheets),
        )

    def read_class_list(self, lists: Mapping[str, str]) -> None:
        folder = self.source.root / PurePosixPath(next(iter(lists.values()), "")).parent
        found = next((folder / name for name in CLASS_LISTS if (folder / name).is_file()), None)
        for name in read_lines(found) if found else []:
            if not is_background(name):
                self.class_id(name)

    def class_id(self, name: str) -> int:
        return self.classes.setdefault(name, len(self.classes) + 1)

    def by_lists(self, lists: Mapping[str, str]) -> dict[str, list[str]]:
        plan = {split: self.listed(split, path) for split, path in lists.items()}
        named = {sheet for sheets in plan.values() for sheet in sheets}
        self.report_unlisted([sheet for sheet in self.files.sheets if sheet not in named], "not in any list")
        return plan

    def listed(self, split: str, path: str) -> list[str]:
        found: dict[str, None] = {}
        for line in read_lines(self.source.root / path):
            sheet = self.files.listed_sheet(line) or self.any_file(line)
            if sheet is None:
                self.faults.append(Fault("record", split, path, f"names {short(line)}, which does not exist"))
            elif sheet in found:
                self.faults.append(Fault("image-listed-twice", split, path, f"names {sheet} twice"))
            else:
                found[sheet] = None
        return list(found)

    def any_file(self, line: str) -> str | None:
        """A listed JSON file that is not LabelMe's, so that it is reported."""
        match = self.source.tree.all.find(line.strip("\"'"))
        return match.path if match is not None and suffix_of(match.path) == "json" else None

    def by_folders(self) -> dict[str, list[str]]:
        """JSON files by the first folder in their path named like a split; one split if there are fewer than two."""
        plan: dict[str, list[str]] = {}
        for sheet in self.files.sheets:
            plan.setdefault(split_folder(sheet), []).append(sheet)
        if UNSPLIT in plan and len(plan) < 3:
            return {UNSPLIT: self.files.sheets}
        self.report_unlisted(plan.pop(UNSPLIT, []), "not in the folder of a split")
        return {split: plan[split] for split in LISTS if split in plan}

    def report_unlisted(self, sheets: Sequence[str], how: str) -> None:
        shapes = 0
        for sheet in sheets:
            with contextlib.suppress(UnusableError):
                shapes += len(_parse(self.source.root / sheet)["shapes"])
        if sheets:
            numbers = f"{counted(len(sheets), 'annotation file')} with {counted(shapes, 'shape')}"
            what = f"{numbers}, {how}: {first_names(sheets)}"
            self.faults.append(Fault("file-unlisted", UNSPLIT, self.source.root.name, what))

    def parts(self, plan: Mapping[str, Sequence[str]], lists: Mapping[str, str]) -> list[_Part]:
        """The splits. Images matched by the end of their name come last, so that they don't take others' images."""
        parts = [_Part(split, self.source.root / lists.get(split, "")) for split in plan]
        later = [
            (part, path)
            for part, sheets in zip(parts, plan.values(), strict=True)
            for path in sheets
            if not self.add(part, path)
        ]
        for part, path in later:
            self.add(part, path, taken={name for other in parts for name in other.images})
        for part in parts:
            self.faults += accounting.moved_faults(part.split, part.source.name, part.moved)
            self.faults.extend(part.groups.faults(part.split, part.source.name))
        return parts

    def add(self, part: _Part, path: str, taken: Set[str] | None = None) -> bool:
        """Add a JSON file to a split; returns False, without adding, if its image is moved and ``taken`` is None.

        Args:
            taken: images that a moved one can't be.
        """
        try:
            content = _parse(self.source.root / path)
        except UnusableError as error:
            self.faults.append(Fault(error.code, part.split, path, str(error)))
            return True
        sheet = _Sheet(self.files, part.split, path, content, self.faults, part.groups)
        found = sheet.find()
        if found is not None and found.moved:
            if taken is None:
                return False
            found = None if found.path in taken else found
            if found is not None:
                part.moved[sheet.image_path] = found.path
        try:
            image = sheet.image(part.images, None if found is None else found.path)
        except UnusableError as error:
            self.faults.append(Fault(error.code, part.split, path, str(error), lost=len(content["shapes"])))
            part.lost += len(content["shapes"])
            return True
        for label, annotation in sheet.objects(image):
            number = len(part.annotations) + 1
            part.annotations.append(replace(annotation, id=number, category_id=self.class_id(label)))
        part.lost += sheet.lost
        return True


@dataclass(slots=True)
class _Sheet:
    """One JSON file of a split."""

    files: LabelMeFiles
    split: str
    path: str
    content: Json
    faults: list[Fault]
    groups: Groups
    lost: int = 0

    def fault(self, code: str, what: str, image_id: Id, lost: int = 0) -> None:
        self.faults.append(Fault(code, self.split, self.path, what, image_id, lost=lost))
        self.lost += lost

    @property
    def image_path(self) -> str:
        given = self.content.get("imagePath")
        return given if isinstance(given, str) else ""

    def find(self) -> Match | None:
        """The file of the image."""
        return self.files.image(self.path, self.image_path)

    def image(self, known: dict[str, ImageRecord], found: str | None) -> ImageRecord:
        """Add the record of the image to those known. Raises UnusableError.

        Args:
            found: its file, or None.
        """
        given = self.content.get("imagePath")
        name = found or self.files.name_of_missing(self.path, self.image_path)
        embedded = self.files.source.root / self.path if found is None and holds_image(self.content) else None
        if embedded is not None and name in known:  # another image has this name
            name = str(PurePosixPath("images", self.path).with_suffix(PurePosixPath(name).suffix))
        if name in known:
            self.fault("image-listed-twice", f"annotates the image {name}, as an earlier file does", known[name].id)
            return known[name]
        height, width = self.size(found)
        number = len(known) + 1
        if found is None:
            code, where = ("image-missing", "missing") if embedded is None else ("image-embedded", "only in imageData")
            self.fault(code, f"its image, imagePath {short(given)}, is {where}", number)
        flags = self.content.get("flags")
        extra: Extra = {"flags": flags} if isinstance(flags, dict) and flags else NOTHING
        return known.setdefault(name, ImageRecord(number, name, width, height, extra, embedded))

    def size(self, found: str | None) -> tuple[int, int]:
        """``(height, width)`` as stated, else from the image. Raises UnusableError."""
        height, width = _whole(self.content.get("imageHeight")), _whole(self.content.get("imageWidth"))
        if min(height, width) > 0 and height * width <= MAX_PIXELS:
            return height, width
        try:
            if found is not None:
                return image_size(self.files.source.images.root / found)
            return image_size(io.BytesIO(decode_base64(self.content.get("imageData"))))
        except InputError as error:
            what = f"imageHeight and imageWidth are missing and can't be read from the image: {error}"
            raise UnusableError("image-missing" if found is None else "image-unreadable", what) from None

    def objects(self, image: ImageRecord) -> Iterator[tuple[str, Annotation]]:
        """Label and annotation of each object; annotation and category ids are still 0."""
        groups: dict[Any, list[tuple[Json, Segmentation]]] = {}
        for number, shape in enumerate(self.content["shapes"]):
            try:
                label = label_of(shape)
                if is_background(label):
                    what = f"shape {number} is labelled {label}, which does not name an object"
                    self.fault("shape-ignored", what, image.id, lost=1)
                    continue
                part = region(shape, image.size)
            except UnusableError as error:
                self.fault(error.code, f"shape {number}{_named(shape)}: {error}", image.id, lost=1)
                continue
            group = shape.get("group_id")
            grouped = isinstance(group, (int, float, str))
            groups.setdefault((label, group, is_crowd(shape)) if grouped else number, []).append((shape, part))
        for members in groups.values():
            shape = members[0][0]
            whole = self.groups.union([(part, is_box(member)) for member, part in members], image.size)
            yield label_of(shape), Annotation(0, image.id, 0, whole, crowd=is_crowd(shape), extra=extra_of(shape))


def _parse(path: Path) -> Json:
    """Parse a LabelMe JSON file. Raises UnusableError."""
    try:
        content = read_json(path)
    except OSError as error:
        raise UnusableError("record", f"can't be read: {error.strerror}") from None
    except ValueError as error:
        raise UnusableError("record", f"is not readable JSON ({error})") from None
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise UnusableError("record", "has no list of shapes: expected LabelMe's JSON")
    return content


def _dataset(part: _Part, root: Path, folder: str, categories: tuple[Category, ...]) -> Dataset:
    images = tuple(replace(image, file_name=name.removeprefix(folder)) for name, image in part.images.items())
    return Dataset(part.split, root / folder, images, tuple(part.annotations), categories, part.source)


def _whole(value: Any) -> int:
    """An integer, also as ``640.0``; 0 if invalid."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0
    return int(value) if isinstance(value, int) or value.is_integer() else 0


def _named(shape: Any) -> str:
    label = shape.get("label") if isinstance(shape, dict) else None
    return f" ({label[:40]})" if isinstance(label, str) else ""


# ---- writing


@dataclass(slots=True)
class _Losses:
    """Counts for the notes."""

    crowd: int = 0
    empty: int = 0
    masks: int = 0

    def notes(self) -> list[str]:
        """One line for each nonzero count."""
        lines = [
            (self.crowd, "crowd regions written with the flag iscrowd, which other tools treat as ordinary objects"),
            (self.masks, "masks with holes written as shapes of the type mask, supported since LabelMe 5.4"),
            (self.empty, "annotations without pixels left out"),
        ]
        return [f"{what}: {count}" for count, what in lines if count]


class _Writer:
    """Writer of all splits to a folder."""

    def __init__(self, splits: Mapping[str, Dataset], folder: Path) -> None:
        self.splits = splits
        self.folder = folder
        self.losses = _Losses()
        names = (name for dataset in splits.values() for name in dataset.names)
        self.labels = fit_names(names, _label)  # by the name of the class
        self.taken: set[str] = set()  # keys of JSON files

    def write(self) -> list[str]:
        _write_text(self.folder / CLASS_LISTS[0], _joined(self.labels.values()))
        names = unique_names(self.splits)
        for split, dataset in self.splits.items():
            copied = copy_images(dataset, self.folder / "images", names[split])
            classes = {category.id: self.labels[category.name] for category in dataset.categories}
            sheets = [self.write_sheet(copied, image, classes) for image in copied.images]
            if set(self.splits) != {UNSPLIT}:
                _write_text(self.folder / LISTS[split], _joined(sheets))
        return self.losses.notes() + renamed_note(self.labels, f"to fit a line of {CLASS_LISTS[0]}")

    def write_sheet(self, dataset: Dataset, image: ImageRecord, classes: Mapping[Id, str]) -> str:
        """Write the JSON file of an image and return its relative path."""
        path = self.free_path(image.file_name)
        flags = image.extra.get("flags")
        content = {
            "version": VERSION,
            "flags": flags if isinstance(flags, dict) else {},
            "shapes": self.shapes(dataset.of(image), image.size, classes),
            "imagePath": f"{'../' * path.count('/')}images/{image.file_name}",
            "imageData": None,
            "imageHeight": image.height,
            "imageWidth": image.width,
        }
        _write_text(self.folder / path, document(content, dump_json))
        return path

    def free_path(self, file_name: str) -> str:
        """Path of an image's JSON file: its stem, or its full name if two images differ only in the suffix."""
        stem = str(PurePosixPath(file_name).with_suffix(""))
        numbered = (f"{file_name}_{number}" for number in range(2, len(self.taken) + 3))
        path = next(name for name in (stem, file_name, *numbered) if key_of(name) not in self.taken)
        self.taken.add(key_of(path))
        return f"annotations/{path}.json"

    def shapes(self, annotations: Iterable[Annotation], size: tuple[int, int], classes: Mapping[Id, str]) -> list[Json]:
        """The shapes of an image, in the order of its annotations; parts of one object share a new ``group_id``."""
        found: list[Json] = []
        groups = 0
        for annotation in annotations:
            parts = self.parts(annotation.segmentation, size)
            groups += len(parts) > 1
            self.losses.crowd += annotation.crowd and bool(parts)
            for part in parts:
                shape = _shape(annotation, classes[annotation.category_id], groups if len(parts) > 1 else None)
                found.append({**shape, **part})
        return found

    def parts(self, segmentation: Segmentation, size: tuple[int, int]) -> list[Json]:
        """The keys that differ between the shapes of an object; empty if it has no pixels."""
        if not isinstance(segmentation, str):
            return [{"points": ring.tolist()} for ring in segmentation]
        found = crop(segmentation, size)
        if found is None:
            self.losses.empty += 1
            return []
        shapes = exact_shapes(*found)
        self.losses.masks += shapes[0]["shape_type"] == "mask"
        return shapes


def _label(name: str) -> str:
    """A class name that can be read back: on one line, and not reserved by LabelMe."""
    base = one_line(name)
    return f"{base} class" if is_background(base) else base


def _shape(annotation: Annotation, label: str, group: int | None) -> Json:
    """The keys that the shapes of an object have in common, in LabelMe's order."""
    extra = annotation.extra
    flags = extra.get("flags")
    shape: Json = {
        "label": label,
        "points": [],
        "group_id": group,
        "description": extra.get("description") or "",
        "shape_type": "polygon",
        "flags": {**(flags if isinstance(flags, dict) else {}), **({"iscrowd": True} if annotation.crowd else {})},
        "mask": None,
    }
    return {**shape, "attributes": extra["attributes"]} if extra.get("attributes") else shape


def _joined(texts: Iterable[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


def _write_text(path: Path, text: str) -> None:
    replace_file(path, lambda temporary: temporary.write_bytes(encode_json(text)))
