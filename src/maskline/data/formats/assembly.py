"""Assemble a data set from annotation files that name images; shared by the readers of such formats."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from maskline._files import read_json
from maskline._wording import counted, short
from maskline.data import accounting
from maskline.data.dataset import NOTHING, Annotation, Category, Dataset, Extra, Id, ImageRecord
from maskline.data.faults import Count, Fault, Reading, UnusableError
from maskline.data.file_tree import SPLITS, UNSPLIT, Finder, parts_of, split_of, suffix_of
from maskline.data.image_headers import image_size
from maskline.data.shapes import Segmentation
from maskline.data.source import Source
from maskline.errors import DatasetError, InputError
from maskline.inputs import MAX_PIXELS, SUFFIXES

OBJECT = "object"  # class name for annotations without one


@dataclass(slots=True)
class _Part:
    """A split being assembled.

    Attributes:
        images: by their path below the images' root.
        owners: the annotation file that each image was read from, by the image's path.
        numbers: of annotations, by image id.
        unused: number of images that could not be used.
        repeated: by annotation file and fault code, the numbers of annotations of images that were read from another
            file.
    """

    files: dict[str, None] = field(default_factory=dict)
    images: dict[str, ImageRecord] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    annotations: list[Annotation] = field(default_factory=list)
    numbers: Counter[Id] = field(default_factory=Counter)
    unused: int = 0
    repeated: dict[tuple[str, str], list[int]] = field(default_factory=dict)


class Assembly:
    """The splits, classes and faults so far."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.faults: list[Fault] = []
        self.ids: dict[str, int] = {}  # of classes, by name
        self._parts: dict[str, _Part] = {}

    def sheet(self, file: str, *, of_one_image: bool = False) -> Sheet:
        """Add an annotation file; its split is the one that its name or one of its folders mentions.

        Args:
            of_one_image: the file is named after its image, so only its folders are considered.
        """
        parts = file.split("/")[: -1 if of_one_image else None]
        split = next((split for part in reversed(parts) if (split := split_of(part))), UNSPLIT)
        part = self._parts.setdefault(split, _Part())
        part.files[file] = None
        return Sheet(self, part, split, file)

    def declare(self, names: Iterable[str]) -> None:
        """Add classes in this order, with or without annotations."""
        for name in names:
            self.ids.setdefault(name, len(self.ids) + 1)

    def find(
        self, names: Iterable[str], split: str, but: Collection[str] = (), *, remote: bool = False
    ) -> dict[str, str]:
        """Find the image files that names refer to, as paths below the images' root. Names may lack a suffix.

        Args:
            but: files to exclude, such as masks.
            remote: the names are URLs, so a match by their end is expected and not a fault.
        """
        given = list(names)
        tree = self.source.images
        whole, stems = tree.images, tree.image_stems
        if but and tree is self.source.tree:
            files = [path for path in whole if path not in but]
            whole, stems = Finder(files), Finder(files, stems=True)
        found = whole.find_all([name for name in given if suffix_of(name) in SUFFIXES], split)
        found |= stems.find_all([name for name in given if suffix_of(name) not in SUFFIXES], split)
        file = next(iter(self._parts[split].files), "") if split in self._parts else ""
        if not remote:
            self.faults += accounting.moved_faults(split, file, {name: m.path for name, m in found.items() if m.moved})
        return {name: match.path for name, match in found.items()}

    def reading(self, expected: str) -> Reading:
        """The complete reading. Raises DatasetError if there are no annotation files, or none can be read.

        Args:
            expected: the files that were expected, for the message.
        """
        if not self._parts:
            raise DatasetError(f"no annotations in {self.source.given}: expected {expected}")
        for split, part in self._parts.items():
            for (file, code), numbers in part.repeated.items():
                which = f"{counted(sum(numbers), 'annotation')} of {counted(len(numbers), 'image')}"
                others = "that have fewer in" if code == "file-unread" else "that were read from"
                self.faults.append(Fault(code, split, file, f"{which} {others} another file", lost=sum(numbers)))
        unread = [fault for fault in self.faults if fault.code == "file"]
        if unread and not any(part.images or part.unused for part in self._parts.values()):
            raise DatasetError(f"{self.source.root / unread[0].file} {unread[0].what}: expected {expected}")
        categories = tuple(Category(number, name) for name, number in self.ids.items())
        parts = {split: self._parts[split] for split in (*SPLITS, UNSPLIT) if split in self._parts}
        return Reading(
            {split: self._dataset(split, part, categories) for split, part in parts.items()},
            self.faults,
            {split: self._count(split, part) for split, part in parts.items()},
            files=tuple(file for part in parts.values() for file in part.files),
        )

    def _count(self, split: str, part: _Part) -> Count:
        lost = sum(fault.lost for fault in self.faults if fault.split == split)
        return Count(len(part.images) + part.unused, len(part.annotations) + lost)

    def _dataset(self, split: str, part: _Part, categories: tuple[Category, ...]) -> Dataset:
        """A split, its image names relative to the deepest common folder."""
        root = self.source.images.root
        common = posixpath.commonpath([posixpath.dirname(path) for path in part.images] or [""])
        prefix = f"{common}/" if common else ""
        images = tuple(replace(image, file_name=path.removeprefix(prefix)) for path, image in part.images.items())
        source = self.source.root / next(iter(part.files)) if len(part.files) == 1 else self.source.root
        return Dataset(split, root / prefix, images, tuple(part.annotations), categories, source)


@dataclass(frozen=True, slots=True)
class Sheet:
    """An annotation file of a split, through which images, annotations and faults are added to the assembly."""

    assembly: Assembly
    part: _Part
    split: str
    file: str

    def json(self) -> Any:
        """Parse the file. Raises UnusableError."""
        return json_of(self.assembly.source.root / self.file)

    def image(
        self, name: str, path: str | None, *, annotations: int, size: tuple[int, int] | None = None
    ) -> ImageRecord | None:
        """Add an image. Returns None, and adds a fault, if it can't be used or was read from another file.

        Args:
            name: as in the file.
            path: of the image below the images' root; None if it was not found.
            annotations: number of annotations lost without it.
            size: ``(height, width)`` as stated; if that is not valid, it is read from the image.
        """
        key = path or "/".join(parts_of(name))
        images = self.part.images
        if key in images and self.part.owners[key] != self.file:
            code = "file-unread" if annotations > self.part.numbers[images[key].id] else "file-repeated"
            self.part.repeated.setdefault((self.file, code), []).append(annotations)
            return None
        if key in images:
            self.fault("image-listed-twice", f"image {name} is listed again", images[key])
            return images[key]
        try:
            if not key:
                raise UnusableError("record", "an image without a name")
            if size is None or min(size) <= 0 or size[0] * size[1] > MAX_PIXELS:
                size = self._size(name, path)
        except UnusableError as error:
            self.leave_out(error, annotations)
            return None
        self.part.owners[key] = self.file
        return images.setdefault(key, ImageRecord(len(images) + 1, key, size[1], size[0]))

    def _size(self, name: str, path: str | None) -> tuple[int, int]:
        if path is None:
            raise UnusableError("image-missing", f"image {name} not found, and its size is not stated")
        try:
            return image_size(self.assembly.source.images.root / path)
        except InputError as error:
            raise UnusableError("image-unreadable", str(error)) from None

    def leave_out(self, error: UnusableError, annotations: int) -> None:
        """Add a fault for an unusable image, with the number of annotations lost with it."""
        lost = f"; {counted(annotations, 'annotation')} of it left out" if annotations else ""
        self.fault(error.code, f"{error}{lost}", lost=annotations)
        self.part.unused += 1

    def add(
        self,
        image: ImageRecord,
        name: str,
        segmentation: Segmentation,
        *,
        crowd: bool = False,
        extra: Extra = NOTHING,
    ) -> None:
        """Add an annotation of the class with this name."""
        self.assembly.declare([name])
        annotations, category = self.part.annotations, self.assembly.ids[name]
        self.part.numbers[image.id] += 1
        annotations.append(Annotation(len(annotations) + 1, image.id, category, segmentation, crowd=crowd, extra=extra))

    def fault(self, code: str, what: str, image: ImageRecord | None = None, *, lost: int = 0) -> None:
        """Add a fault, with the number of annotations lost by it."""
        image_id: Id | None = None if image is None else image.id
        self.assembly.faults.append(Fault(code, self.split, self.file, what, image_id, lost=lost))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn an UnusableError into a fault of the whole file."""
        try:
            yield
        except UnusableError as error:
            self.fault("file", str(error))

    @contextmanager
    def losing(self, what: str, image: ImageRecord) -> Iterator[None]:
        """Turn an UnusableError into a fault that loses one annotation, ``what``."""
        try:
            yield
        except UnusableError as error:
            self.fault(error.code, f"{what}: {error}", image, lost=1)


def located(assembly: Assembly, names: Mapping[str, str]) -> Iterator[tuple[Sheet, str, str | None]]:
    """Add annotation files of one image each; yields each with the image's name and, if found, path.

    Args:
        names: of the images, by annotation file.
    """
    by_split: dict[str, list[Sheet]] = {}
    for file in names:
        sheet = assembly.sheet(file, of_one_image=True)
        by_split.setdefault(sheet.split, []).append(sheet)
    for split, sheets in by_split.items():
        found = assembly.find((names[sheet.file] for sheet in sheets), split)
        for sheet in sheets:
            yield sheet, names[sheet.file], found.get(names[sheet.file])


def json_of(path: Path) -> Any:
    """Parse a JSON file. Raises UnusableError."""
    try:
        return read_json(path)
    except OSError as error:
        raise UnusableError("file", f"can't be read: {error.strerror}") from None
    except ValueError as error:
        raise UnusableError("file", f"is not readable JSON ({error})") from None


def as_dict(value: Any, what: str) -> Mapping[str, Any]:
    """Check that a value is a JSON object. Raises UnusableError."""
    if isinstance(value, dict):
        return value
    raise UnusableError("record", f"{what} is {short(value)}: expected an object")
