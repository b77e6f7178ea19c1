"""Pascal VOC instance segmentation: two PNG files per image, in which a pixel's value is its instance or class.

``SegmentationObject/<stem>.png`` numbers the instances, ``SegmentationClass/<stem>.png`` the classes, both from 1; 0 is
background and 255 *void*: borders of objects and regions to ignore. ``ImageSets/Segmentation`` lists the stems of each
split; the images are in ``JPEGImages``. http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf

Files have a palette or are grey; 16-bit files, our extension for more than 254 instances, have 65535 for void. In RGB
files, as written by CVAT and Datumaro, a colour stands for its index in VOC's palette; for classes, in
``labelmap.txt``.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from maskline._files import replace_file
from maskline._wording import counted
from maskline.data.accounting import first_names, moved_faults
from maskline.data.categories import unify_categories
from maskline.data.dataset import Annotation, Category, Dataset, Id, ImageRecord
from maskline.data.faults import Count, Fault, Reading
from maskline.data.file_access import read_text_file, relative_name
from maskline.data.file_tree import SPLITS, UNSPLIT, Finder, key_of, split_of, suffix_of
from maskline.data.formats.class_names import fit_names, one_line, renamed_note
from maskline.data.formats.voc.maps import (
    VOID,
    VOID_16,
    LabelMap,
    colour_numbers,
    palette,
    read_map,
    save_map,
    separate_instances,
)
from maskline.data.image_files import copy_images, unique_names
from maskline.data.image_headers import image_size
from maskline.data.shapes import crop
from maskline.data.source import Source
from maskline.errors import DatasetError, DatasetNotFoundError, InputError
from maskline.inputs import SUFFIXES

TITLE = "Pascal VOC"

#: The classes of the challenge, used for a folder without a class list.
CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_Values: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
_IMAGES, _OBJECTS, _CLASSES = "JPEGImages", "SegmentationObject", "SegmentationClass"
_KINDS = (_OBJECTS, _CLASSES)
_LISTS = PurePosixPath("ImageSets", "Segmentation")
_COLOUR_LIST = "labelmap.txt"  # CVAT and Datumaro, and ours
_NAME_FILES = (_COLOUR_LIST, "labels.txt", "class_names.txt", "classes.txt")  # maskline 0.1; LabelMe's converter
_BACKGROUND = ("background", "_background_", "__background__")
_IGNORED = "__ignore__"  # first line of LabelMe's lists: the value -1, which does not occur
_ENTRY = re.compile(r"(?P<name>[^:]+):\s*(?:(?P<colour>\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3})\s*)?:[^:]*:[^:]*")
_VOID_NAME = "ignored"  # name of void in a labelmap, on its last line
_MOST_WRITTEN = VOID_16 - 2  # 255 and 65535 are void
_WHOLE_SET = "trainval"  # VOC's name for the list of all images


def detect(source: Source) -> list[str]:
    """The files in folders named ``SegmentationObject``."""
    if source.file is not None:
        return []
    return [path for path in source.tree.with_suffix("png") if _base_of(path) is not None]


def read(source: Source) -> Reading:
    """Read all splits.

    Args:
        source: the folder with ``SegmentationObject``, or a parent, such as of ``VOCdevkit/VOC2012``.

    Returns:
        The usable part, with masks as RLE. Category ids are the values in ``SegmentationClass``. A listed image with
        neither of the two files is background. Void regions are lost.

    Raises:
        DatasetNotFoundError: there are no masks or no images.
        DatasetError: there are several data sets.
    """
    files = _Files.of(source)
    reader = _Reader(files, _read_labels(source.root / files.base))
    stems = files.stems()
    splits = {split: reader.split(split, names) for split, names in stems.items()}
    reader.unlisted({name for names in stems.values() for name in names})
    reader.unread()
    return Reading(splits, reader.faults, reader.listed, files=tuple(files.objects))


def write(splits: Mapping[str, Dataset], folder: Path) -> list[str]:
    """Write a complete VOC data set to an empty folder, with the ``labelmap.txt`` that CVAT and Datumaro require.

    ``labelmap.txt`` lists the classes in the order of their values, background first and void last, with their colours
    in VOC's palette. Overlapping instances are painted with the smaller on top. Crowd regions become void. With more
    than 254 instances in an image, ``SegmentationObject`` is a 16-bit file, without the value 255, which readers may
    take for void.

    Returns:
        What was lost, one line each with counts.

    Raises:
        DatasetError: there are more classes or instances than values, or an image is missing.
        OutputError, OSError: a file can't be written.
    """
    splits = unify_categories(splits)
    names = next((dataset.names for dataset in splits.values()), [])
    if len(names) >= VOID:
        raise DatasetError(f"{len(names)} classes: SegmentationClass can hold at most {VOID - 1}")
    counts: Counter[str] = Counter()
    for split, new_names in unique_names(splits, flat=True).items():
        counts["renamed"] += sum(new_names[image.id] != image.file_name for image in splits[split].images)
        dataset = copy_images(splits[split], folder / _IMAGES, new_names)
        stems = [PurePosixPath(image.file_name).stem for image in dataset.images]
        for image, stem in zip(dataset.images, stems, strict=True):
            objects, classes = _paint(dataset, image, counts)
            save_map(objects, folder / _OBJECTS / f"{stem}.png")
            save_map(classes, folder / _CLASSES / f"{stem}.png")
        _save_lines(folder / _LISTS / f"{_WHOLE_SET if split == UNSPLIT else split}.txt", stems)
    labels = fit_names(names, _label)
    _save_lines(folder / _COLOUR_LIST, _labelmap(labels.values()))
    notes = [text.format(counts[key]) for key, text in _NOTES.items() if counts[key]]
    return notes + renamed_note(labels, f"to fit a line of {_COLOUR_LIST}")


_NOTES = {
    "empty": "annotations without pixels left out: {}",
    "crowd": "crowd regions written as void: {}",
    "covered": "instances that lose pixels to smaller ones on top, as a pixel holds one instance: {}",
    "gone": "of these, instances that lose all their pixels: {}",
    "wide": "images with more than 254 instances, whose 16-bit SegmentationObject few tools read: {}",
    "renamed": "images renamed, as VOC has no sub-folders and ignores suffixes: {}",
}


# ---- finding


def _base_of(path: str) -> str | None:
    """The data set folder that a file of instances belongs to, with a trailing slash unless empty."""
    match = re.fullmatch(rf"((?:.+/)?){_OBJECTS}(?:PNG)?/.+", path)
    return None if match is None else match[1]


class _Files:
    """The files of a data set.

    Attributes:
        source: the folder given by the user.
        base: the folder of the data set below it, with a trailing slash unless empty.
        objects, classes: the files of instances and of classes.
        images: finds images by their stems.
    """

    def __init__(self, source: Source, base: str) -> None:
        self.source = source
        self.base = base
        self.objects = self._maps(_OBJECTS)
        self.classes = self._maps(_CLASSES)
        self._objects, self._classes = (Finder(maps, stems=True) for maps in (self.objects, self.classes))
        maps = {*self.objects, *self.classes}
        images = [path for path in source.images.images if path not in maps and "Segmentation" not in path]
        own = [path for path in images if path.startswith(f"{base}{_IMAGES}/")]
        self.start = f"{base}{_IMAGES}/" if own else ""
        self.images = Finder(own or images, stems=True)

    @classmethod
    def of(cls, source: Source) -> _Files:
        """Find the files. Raises DatasetError unless there is exactly one data set."""
        bases = {base for path in source.tree.with_suffix("png") if (base := _base_of(path)) is not None}
        if not bases:
            what = f"no {_OBJECTS} in {source.given}: Annotations (boxes) and {_CLASSES} have no instances"
            raise DatasetNotFoundError(what)
        depth = min(base.count("/") for base in bases)
        outermost = sorted(base for base in bases if base.count("/") == depth)
        if len(outermost) > 1:
            names = ", ".join(str(source.root / base) for base in outermost)
            raise DatasetError(f"several data sets in {source.given}: name one of {names}")
        files = cls(source, outermost[0])
        if not len(files.images):
            raise DatasetNotFoundError(f"no {_IMAGES} in {source.root / files.base}: expected the images there")
        return files

    def _maps(self, name: str) -> list[str]:
        """PNG files of instances or classes; LabelMe's converter puts them in a separate folder."""
        files = self.source.tree.with_suffix("png")
        own = [path for path in files if path.startswith(f"{self.base}{name}PNG/")]
        return own or [path for path in files if path.startswith(f"{self.base}{name}/")]

    def maps_of(self, stem: str) -> list[str | None]:
        """The files of instances and of classes of an image; None for a missing one."""
        matches = (finder.find(stem, local=True) for finder in (self._objects, self._classes))
        return [None if match is None else match.path for match in matches]

    def stems(self) -> dict[str, list[str]]:
        """The image stems of each split, from the lists; without lists, all images with masks."""
        by_split: defaultdict[str, list[str]] = defaultdict(list)
        folder = PurePosixPath(self.base, _LISTS)
        for path in map(PurePosixPath, self.source.tree.with_suffix("txt")):
            if path.parent == folder:
                by_split[split_of(path.stem) or UNSPLIT] += _listed(self.source.root / path)
        if len(by_split) > 1:
            by_split.pop(UNSPLIT, None)  # trainval
        if by_split:
            return {split: list(dict.fromkeys(by_split[split])) for split in (*SPLITS, UNSPLIT) if split in by_split}
        return {UNSPLIT: sorted({self.stem(path) for path in (*self.objects, *self.classes)})}

    def stem(self, path: str) -> str:
        """The path of a file of instances relative to its folder, without suffix."""
        return str(PurePosixPath(path.removeprefix(self.base).partition("/")[2]).with_suffix(""))


def _listed(path: Path) -> list[str]:
    """The stems in a list, one per line; some tools add quotes, the suffix, or a trailing 1, 0 or -1."""
    found = []
    for line in read_text_file(path).splitlines():
        stem = re.sub(r"\s+-?[01]$", "", line.strip()).strip("\"'")
        named = PurePosixPath(stem.replace("\\", "/"))
        found.append(str(named.with_suffix("")) if named.suffix[1:].lower() in SUFFIXES else str(named))
    return [stem for stem in found if stem != "."]


# ---- reading


@dataclass(frozen=True)
class _Labels:
    """The meaning of values in ``SegmentationClass``.

    Attributes:
        names: class names by value, including background.
        background: its value.
        colours: values by colour number in RGB files, if the class list has colours.
    """

    names: Sequence[str]
    background: int = 0
    colours: Mapping[int, int] = field(default_factory=dict)

    @property
    def categories(self) -> tuple[Category, ...]:
        return tuple(Category(value, name) for value, name in enumerate(self.names) if value != self.background)

    def ignored(self, classes: LabelMap) -> set[int]:
        """The values in a file that are not classes."""
        if classes.coloured and self.colours:
            meant = {number for number, value in self.colours.items() if value != self.background}
            return {0, classes.void, *self.colours} - meant
        return {self.background, classes.void}

    def category(self, value: int, coloured: bool) -> int | None:
        """The class of a value in a file; None if it is not a class."""
        if coloured and self.colours:
            return self.colours.get(value)
        return value if value < len(self.names) else None


def _read_labels(base: Path) -> _Labels:
    """The class names from the list in the folder, else VOC's. Raises DatasetError if the list can't be read."""
    path = next((base / name for name in _NAME_FILES if (base / name).is_file()), None)
    if path is None:
        return _Labels(CLASSES)
    lines = [line.strip() for line in read_text_file(path).splitlines() if line.strip()]
    if path.name == _COLOUR_LIST:
        entries = [_entry(line) for line in lines if not _is_comment(line)]
    else:  # one class per line, whatever its name: skipping one would shift all that follow
        entries = [(line, None) for line in lines[lines[:1] == [_IGNORED] :]]
    if entries and entries[-1] == (_VOID_NAME, VOID):
        entries.pop()
    places = [place for place, (name, _) in enumerate(entries) if name.lower() in _BACKGROUND]
    if not places:
        entries.insert(0, (CLASSES[0], None))
    colours = {number: value for value, (_, number) in enumerate(entries) if number is not None}
    return _Labels([name for name, _ in entries], places[0] if places else 0, colours)


def _is_comment(line: str) -> bool:
    """Whether a line is a comment, such as the header; a class with a colour may be called ``# one``."""
    return line.startswith("#") and _ENTRY.fullmatch(line) is None


def _entry(line: str) -> tuple[str, int | None]:
    """The class name of a line and its colour number, from ``person:192,128,128::`` or only a name."""
    match = _ENTRY.fullmatch(line)
    if match is None:
        return line, None
    colour = [min(int(part), 255) for part in match["colour"].split(",")] if match["colour"] else None
    return match["name"].strip(), None if colour is None else int(colour_numbers(np.asarray(colour)))


class _Reader:
    """Reader of a data set, with the faults so far.

    Attributes:
        listed: images and annotations of each split, including unusable ones.
    """

    def __init__(self, files: _Files, labels: _Labels) -> None:
        self.files = files
        self.labels = labels
        self.faults: list[Fault] = []
        self.listed: dict[str, Count] = {}

    def fault(self, code: str, split: str, path: str, what: str, image_id: Id | None = None, lost: int = 0) -> None:
        self.faults.append(Fault(code, split, path.removeprefix(self.files.base), what, image_id, lost=lost))

    def split(self, split: str, stems: Sequence[str]) -> Dataset:
        """Read one split: the images whose files are all usable."""
        images: list[ImageRecord] = []
        annotations: list[Annotation] = []
        root = self.files.source.images.root
        found = self.files.images.find_all(stems, split, near=self.files.start)
        self.faults += moved_faults(split, _LISTS.as_posix(), {name: m.path for name, m in found.items() if m.moved})
        before = sum(fault.lost for fault in self.faults)
        for stem in stems:
            if stem not in found:
                code = "image-path" if relative_name(stem) is None else "image-missing"
                what = f"no image {stem!r} in {_IMAGES}"
                self.fault(code, split, _LISTS.as_posix(), what, lost=self.instances_in(stem))
                continue
            path = found[stem].path
            try:
                size = image_size(root / path)
            except InputError as error:
                self.fault("image-unreadable", split, path, str(error), lost=self.instances_in(stem))
                continue
            image = ImageRecord(len(images) + 1, path.removeprefix(self.files.start), size[1], size[0])
            masks = self.annotations(split, stem, image, len(annotations))
            if masks is not None:
                images.append(image)
                annotations += masks
        lost = sum(fault.lost for fault in self.faults) - before
        self.listed[split] = Count(len(stems), len(annotations) + lost)
        folder, base = root / self.files.start, self.files.source.root / self.files.base
        return Dataset(split, folder, tuple(images), tuple(annotations), self.labels.categories, base)

    def instances_in(self, stem: str) -> int:
        """The number of instances of an unusable image, 0 if unknown."""
        objects = self.files.maps_of(stem)[0]
        return 0 if objects is None else self.instances(objects)

    def instances(self, objects: str) -> int:
        """The number of instances in a file, 0 if it can't be read."""
        try:
            found = read_map(self.files.source.root / objects)
        except InputError:
            return 0
        return len(set(np.unique(found.values).tolist()) - {0, found.void})

    def unlisted(self, stems: Set[str]) -> None:
        """Add a fault for files of instances that are not listed."""
        known = set(map(key_of, stems))
        names = [stem for path in self.files.objects if key_of(stem := self.files.stem(path)) not in known]
        if names:
            number = sum(map(self.instances_in, names))
            what = f"{counted(len(names), 'file')} with {counted(number, 'instance')}: {first_names(names)}"
            self.fault("file-unlisted", UNSPLIT, f"{self.files.base}{_OBJECTS}", what)

    def unread(self) -> None:
        """Add faults for masks that are not PNG files, and for those of nested data sets."""
        tree = self.files.source.tree
        folder = re.compile(rf"{re.escape(self.files.base)}({'|'.join(_KINDS)})/.+")
        if other := [
            path for path in tree.with_suffix(*SUFFIXES) if folder.fullmatch(path) and suffix_of(path) != "png"
        ]:
            self.fault("file", UNSPLIT, other[0], f"{counted(len(other), 'mask')} of another format: expected PNG")
        inner = [path for path in tree.with_suffix("png") if _base_of(path) not in (None, self.files.base)]
        if inner:
            lost = sum(map(self.instances, inner))
            what = f"{counted(lost, 'instance')} in {counted(len(inner), 'file')} of a data set inside this one"
            self.fault("file-unread", UNSPLIT, inner[0], what, lost=lost)

    def annotations(self, split: str, stem: str, image: ImageRecord, before: int) -> list[Annotation] | None:
        """The instances of an image; None if its files are unusable. ``before``: annotations of the split so far."""
        paths = self.files.maps_of(stem)
        if paths == [None, None]:
            return []
        maps: list[LabelMap] = []
        for kind, path in zip(_KINDS, paths, strict=True):
            try:
                maps.append(self.map(path, image.size))
            except InputError as error:
                file = path or f"{self.files.base}{kind}/{stem}.png"
                self.fault("record", split, file, str(error), lost=self.instances_in(stem))
                return None
        objects, classes = maps
        file = str(paths[0])
        found: list[Annotation] = []
        try:
            for number, rle, value in separate_instances(objects, classes, self.labels.ignored(classes)):
                category = None if value is None else self.labels.category(value, classes.coloured)
                if category is None:
                    what = "is background or void" if value is None else f"has the value {value}, which is not a class,"
                    what = f"instance {number} {what} in {_CLASSES}"
                    self.fault("unknown-category", split, file, what, image.id, lost=1)
                else:
                    found.append(Annotation(before + len(found) + 1, image.id, category, rle))
        except InputError as error:
            self.fault("record", split, file, str(error), lost=self.instances_in(stem))
            return None
        return found

    def map(self, path: str | None, size: tuple[int, int]) -> LabelMap:
        """Read the map of an image of ``(height, width)``. Raises InputError if it is unusable."""
        if path is None:
            raise InputError("missing, though the image has the other of its two files")
        found = read_map(self.files.source.root / path)
        height, width = found.values.shape
        if (height, width) != size:
            turned = " (made without its EXIF orientation?)" if (width, height) == size else ""
            raise InputError(f"{width} x {height} pixels, but the image has {size[1]} x {size[0]}{turned}")
        return found


# ---- writing


def _paint(dataset: Dataset, image: ImageRecord, counts: Counter[str]) -> tuple[_Values, npt.NDArray[np.uint8]]:
    """The two maps of an image, (H, W) each. Losses are added to ``counts``, by the keys of `_NOTES`.

    Raises DatasetError if there are more instances than values.
    """
    objects, classes = np.zeros(image.size, np.uint16), np.zeros(image.size, np.uint8)
    shapes = [(annotation, crop(annotation.segmentation, image.size)) for annotation in dataset.of(image)]
    crowd = [found for annotation, found in shapes if annotation.crowd and found is not None]
    single = [(dataset.labels[a.category_id], *found) for a, found in shapes if not a.crowd and found is not None]
    if len(single) > _MOST_WRITTEN:
        raise DatasetError(f"{image.file_name} has {len(single)} instances: expected at most {_MOST_WRITTEN}")
    wide = len(single) >= VOID
    for mask, window in crowd:
        objects[window.slices][mask != 0] = VOID_16 if wide else VOID
        classes[window.slices][mask != 0] = VOID
    areas = np.asarray([np.count_nonzero(mask) for _, mask, _ in single], np.int64)
    numbers = np.arange(1, len(single) + 1)
    numbers[VOID - 1 :] += 1
    for place in np.argsort(-areas, kind="stable"):
        label, mask, window = single[place]
        objects[window.slices][mask != 0] = numbers[place]
        classes[window.slices][mask != 0] = label + 1
    left_over = np.bincount(objects.ravel(), minlength=1 << 16)[numbers]
    counts.update(
        empty=sum(found is None for _, found in shapes),
        crowd=len(crowd),
        covered=int((left_over < areas).sum()),
        gone=int((left_over == 0).sum()),
        wide=int(wide),
    )
    return objects if wide else objects.astype(np.uint8), classes


def _label(name: str) -> str:
    """A class name that every reader of ``labelmap.txt`` restores: one line, no colon, no leading ``#``."""
    label = one_line(name.replace(":", "-")).lstrip("# ") or "class"
    return f"{label} class" if label in (CLASSES[0], _VOID_NAME) else label


def _labelmap(labels: Iterable[str]) -> Iterator[str]:
    """The lines of ``labelmap.txt``."""
    yield "# label:color_rgb:parts:actions"
    colours = palette().tolist()
    for label, colour in [*zip((CLASSES[0], *labels), colours, strict=False), (_VOID_NAME, colours[VOID])]:
        yield f"{label}:{','.join(map(str, colour))}::"


def _save_lines(path: Path, lines: Iterable[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
