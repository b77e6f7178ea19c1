"""YOLO segmentation labels: a text file per image, with one line per instance.

A line is ``class x1 y1 x2 y2 ...``: a class index, and one polygon as fractions of the image's width and height.
``data.yaml`` names the classes and the images of each split; the label file of an image is found by replacing the last
``images`` in its path with ``labels``. A missing or empty file means an image without instances.
https://docs.ultralytics.com/datasets/segment/

An instance has only one polygon, so parts and holes are joined by *bridges* (`maskline.data.formats.yolo.bridges`).
`read` removes bridges again, whatever tool added them.
"""

from __future__ import annotations

import math
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias, cast

import numpy as np
import yaml

from maskline._files import replace_file
from maskline._progress import track
from maskline._wording import counted
from maskline.data import accounting
from maskline.data.accounting import first_names
from maskline.data.categories import unify_categories
from maskline.data.dataset import Annotation, Category, Dataset, Id, ImageRecord
from maskline.data.faults import Count, Fault, Reading, UnusableError
from maskline.data.file_access import read_text_file
from maskline.data.file_tree import UNSPLIT, FileTree, Finder, Match
from maskline.data.formats.yolo.bridges import apart, boundary, bridged
from maskline.data.formats.yolo.files import (
    SPLIT_KEYS,
    Config,
    class_lists,
    find_configs,
    folders_of,
    image_name,
    images_at,
    label_files,
    listed_names,
    pair_labels,
    resolve_path,
    split_of_path,
    start_of,
    with_folders,
)
from maskline.data.formats.yolo.lines import GRID, brief, has_numbers, parse_line, to_pixels
from maskline.data.image_files import copy_images
from maskline.data.image_headers import image_size
from maskline.data.shapes import Ring, Segmentation, to_rle
from maskline.data.source import Source
from maskline.errors import DatasetError, DatasetNotFoundError, InputError
from maskline.masks import rle_window

TITLE = "YOLO"

_Place: TypeAlias = tuple[str, list[str]]  # of a split: the folder that its file names are relative to, and its images

_MOST_CLASSES = 10_000  # a higher index is considered an error
_NONE = ("", "~", "null")  # YAML's spellings of null


def detect(source: Source) -> list[str]:
    """The label files of images; without any, the ``data.yaml`` that lists the images."""
    try:
        config = next(iter(find_configs(source)), None)
        if config is not None and config[1].keys() & SPLIT_KEYS.keys():
            return list(_Files.of(source, config).labels) or [config[0]]
    except (DatasetError, OSError):
        if source.file is not None:
            return []
    return [] if source.file is not None else list(pair_labels(label_files(source.tree), source.images))


def read(source: Source) -> Reading:
    """Read all splits.

    Args:
        source: a folder, or a YAML file; its paths may be those of another machine. Without a YAML file, splits follow
            from folder names, and classes from ``classes.txt`` or the indices in use.

    Returns:
        The usable part. Category ids are YOLO's indices; images are numbered from 1, sorted by path.

    Raises:
        DatasetNotFoundError: there are no images in a split.
        DatasetError: the YAML file can't be read, or is for key points.
    """
    every = find_configs(source)
    config = every[0] if every else None
    if config is None and source.file is not None:
        raise DatasetError(f"{source.given} is not a data.yaml: expected one with names, train and val")
    files = _Files.of(source, config)
    reader = _Reader(files)
    if config is None or not config[1].get("names"):
        reader.names = listed_names(source)
    if config is not None:
        reader.refuse_other_names(source, config, every[1:])
    places = {} if config is None else reader.configured(source.root / config[0], config[1], _bases(source, config))
    if not places:
        folders = folders_of(files.images.images, [match.path for match in files.labels.values()])
        places = {split: (start_of(images), images) for split, images in folders.items()}
    if not any(images for _, images in places.values()):
        expected = "expected data.yaml with train and val, or folders named images and labels"
        raise DatasetNotFoundError(f"no images of a YOLO data set found in {source.given}: {expected}")
    splits = {split: reader.split(split, *place) for split, place in places.items()}
    reader.unmatched({path for _, images in places.values() for path in images})
    if reader.names is None and reader.highest > 0 and not (config and "names" in config[1]):
        what = f"neither data.yaml nor classes.txt names the {counted(reader.highest + 1, 'class', 'classes')}"
        reader.fault("no-class", next(iter(splits)), next(iter(files.labels)), what)
    splits = {split: replace(dataset, categories=reader.categories()) for split, dataset in splits.items()}
    return Reading(splits, reader.faults, reader.listed, files=tuple(files.labels))


def write(splits: Mapping[str, Dataset], folder: Path) -> list[str]:
    """Write ``data.yaml``, ``images/<split>/`` and ``labels/<split>/`` to an empty folder; sub-folders are kept.

    `read` restores every mask exactly. Polygons keep their vertices to 1/1000 pixel. Polygons that extend beyond the
    image or overlap with each other are redrawn along their pixels, like RLE masks.

    Returns:
        What was lost, one line each with counts.

    Raises:
        DatasetError: an image is missing.
        OutputError, OSError: a file can't be written.
    """
    splits = unify_categories(splits)
    names = next((dataset.names for dataset in splits.values()), [])
    counts: Counter[str] = Counter()
    folders = {split: "train" if split == UNSPLIT and "train" not in splits else split for split in splits}
    for split, dataset in splits.items():
        new_names = _free_names(dataset)
        counts["renamed"] += sum(new_names[image.id] != image.file_name for image in dataset.images)
        copy_images(dataset, folder / "images" / folders[split], new_names)
        for image in track(dataset.images, f"annotations of {split}", len(dataset.images)):
            path = (folder / "labels" / folders[split] / new_names[image.id]).with_suffix(".txt")
            _save(path, "".join(_lines(dataset, image, counts)))
    # No "path": trainers resolve a relative one against their own folder; without it, against this file.
    config = {**{name: f"images/{name}" for name in folders.values()}, "names": dict(enumerate(names))}
    _save(folder / "data.yaml", yaml.safe_dump(config, allow_unicode=True, sort_keys=False))
    notes = [text.format(counts[key]) for key, text in _NOTES.items() if counts[key]]
    if UNSPLIT in splits and "train" not in splits:
        notes.append("the set is not split: all of it is written as train (`maskline split` creates val)")
    return notes


_NOTES = {
    "empty": "annotations without pixels left out: {}",
    "crowd": "crowd regions written as ordinary objects: {}",
    "joined": "instances with holes or several parts written as one polygon, joined by bridges without width: {}",
    "redrawn": "instances redrawn along their pixels, as polygons overlap, extend beyond the image or are too fine: {}",
    "renamed": "images renamed, as labels are found by the name without suffix and by the folder images: {}",
}


# ---- reading


@dataclass(frozen=True)
class _Files:
    """The files of a data set.

    Attributes:
        tree: all files, including folders outside the data set that ``data.yaml`` names.
        images: the files to search for images.
        labels: label files with their images.
        unpaired: label files without an image.
    """

    tree: FileTree
    images: FileTree
    labels: Mapping[str, Match]
    unpaired: Sequence[str]

    @classmethod
    def of(cls, source: Source, config: tuple[str, Config] | None) -> _Files:
        bases, targets = [source.root], []
        if config is not None:
            bases = _bases(source, config)
            entries = [config[1][key] for key in SPLIT_KEYS if key in config[1]]
            names = [name for entry in entries for name in (entry if isinstance(entry, list) else [entry])]
            found = (images_at(name, bases) for name in names if isinstance(name, str) and name not in _NONE)
            targets = [path for path in found if path is not None and path.is_dir()]
        tree = with_folders(source.tree, targets)
        images = tree if source.images is source.tree else source.images
        labels = label_files(tree)
        paired = pair_labels(labels, images)
        return cls(tree, images, paired, [path for path in labels if path not in paired])


def _bases(source: Source, config: tuple[str, Config]) -> list[Path]:
    """The folders that paths in ``data.yaml`` may be relative to."""
    folder = (source.root / config[0]).parent
    given = config[1].get("path")
    base = resolve_path(given, [folder]) if isinstance(given, str) and given not in _NONE else None
    bases = [folder] if base is None or not base.is_dir() else [base, folder]
    return list(dict.fromkeys(Path(os.path.abspath(path)) for path in (*bases, source.images.root)))  # noqa: PTH100


class _Reader:
    """Reader of a data set, with the faults so far.

    Attributes:
        names: class names; None if unknown.
        listed: images and annotations of each split, including unusable ones.
        highest: the highest class index so far.
    """

    def __init__(self, files: _Files) -> None:
        self.files = files
        self.names: list[str] | None = None
        self.faults: list[Fault] = []
        self.listed: dict[str, Count] = {}
        self.highest = -1
        self.labels_of = {match.path: label for label, match in files.labels.items()}

    def fault(self, code: str, split: str, path: str, what: str, image_id: Id | None = None, lost: int = 0) -> None:
        self.faults.append(Fault(code, split, path, what, image_id, lost=lost))

    def categories(self) -> tuple[Category, ...]:
        """The named classes; without names, as many as the highest index requires."""
        names = [f"class_{index}" for index in range(self.highest + 1)] if self.names is None else self.names
        return tuple(Category(index, name) for index, name in enumerate(names))

    def refuse_other_names(
        self, source: Source, config: tuple[str, Config], others: Iterable[tuple[str, Config]]
    ) -> None:
        """Raise DatasetError if labels belong to another folder whose YAML file or list names different classes."""
        names, own = _names(config[1]), PurePosixPath(config[0]).parent
        named = [(path, _names(content)) for path, content in others]
        named += [(path, list(lines)) for lines, path in class_lists(source).items()]
        for path, theirs in named:
            folder = PurePosixPath(path).parent
            if not theirs or theirs == names or folder.is_relative_to(own) or own.is_relative_to(folder):
                continue
            if any(label.startswith(f"{folder}/") for label in self.files.labels):
                what = f"{config[0]} and {path} in {source.given} name different classes"
                raise DatasetError(f"{what}: read the data sets separately")

    # -- data.yaml

    def configured(self, path: Path, config: Config, bases: Sequence[Path]) -> dict[str, _Place]:
        """The splits a YAML file lists. Raises DatasetError."""
        if "kpt_shape" in config:
            raise DatasetError(f"{path} is for key points: expected polygons (YOLO segmentation labels)")
        self.names = self.class_names(path.name, config) or self.names
        places: dict[str, _Place] = {}
        for key, split in SPLIT_KEYS.items():
            if split not in places and config.get(key, "") not in _NONE:
                places |= self.place(split, path, config[key], bases)
        return places

    def class_names(self, path: str, config: Config) -> list[str] | None:
        """Class names from ``names``, a list or a mapping from index to name, and ``nc``; None if neither is valid."""
        stated = _whole(config.get("nc"))
        names = _indexed(config.get("names", []))
        if names is None:
            self.fault("record", "all", path, "names: expected a list of class names, or a mapping from index to name")
            names = {}
        count = max(names, default=-1) + 1
        if "nc" in config and stated != count and names:
            self.fault("record", "all", path, f"nc is {brief(config['nc'])}, but {count} classes are named")
        count = max(count, stated or 0)
        found = [names.get(index, f"class_{index}") for index in range(count)]
        for name, times in Counter(found).items():
            if times > 1:
                self.fault("category-name", "all", path, f"{times} classes are named {name!r}")
        return found or None

    def place(self, split: str, path: Path, given: Any, bases: Sequence[Path]) -> dict[str, _Place]:
        """The folder and images of a split, by split; empty if no folder or list is found."""
        found: dict[str, None] = {}
        starts: list[str] = []
        for entry in given if isinstance(given, list) else [given]:
            target = images_at(entry, bases) if isinstance(entry, str) else None
            if target is None or not (target.is_dir() or target.suffix.lower() == ".txt"):
                what = f"{split} is {brief(entry)}: no such folder or list of images"
                self.fault("record" if split == "train" else "split-missing", split, path.name, what)
                continue
            inside = self.inside(target) if target.is_dir() else self.from_list(split, target)
            starts.append(self.start(target, inside) if target.is_dir() else start_of(inside))
            found.update(dict.fromkeys(inside))
        start = starts[0] if len(starts) == 1 else start_of(list(found))
        return {split: (start, list(found))} if starts else {}

    def inside(self, folder: Path) -> list[str]:
        """The images in a folder."""
        prefix = os.path.relpath(folder, self.files.images.root).replace(os.sep, "/")
        prefix = "" if prefix == "." else f"{prefix}/"
        return [path for path in self.files.images.images if path.startswith(prefix)]

    def start(self, folder: Path, inside: Sequence[str]) -> str:
        """The folder, or its sub-folder ``images`` if that contains all of its images."""
        prefix = os.path.relpath(folder, self.files.images.root).replace(os.sep, "/")
        prefix = "" if prefix == "." else f"{prefix}/"
        inner = f"{prefix}images/"
        return inner if inside and all(path.startswith(inner) for path in inside) else prefix

    def from_list(self, split: str, path: Path) -> list[str]:
        """The images listed in a text file, one per line."""
        try:
            lines = [line.strip() for line in read_text_file(path).splitlines()]
        except DatasetError as error:
            self.fault("record", split, path.name, str(error))
            return []
        found = self.files.images.images.find_all([line for line in lines if line], split)
        for number, line in enumerate(lines, 1):
            if line and line not in found:
                self.fault("image-missing", split, path.name, f"line {number}: image {brief(line)} not found")
        return list(dict.fromkeys(found[line].path for line in lines if line in found))

    # -- labels

    def split(self, split: str, start: str, paths: Sequence[str]) -> Dataset:
        """Read one split, still without categories."""
        images: list[ImageRecord] = []
        annotations: list[Annotation] = []
        lines = 0
        root = self.files.images.root
        for path in paths:
            label = self.labels_of.get(path)
            content = [] if label is None else self.lines(split, label)
            lines += sum(bool(line) for line in content)
            try:
                height, width = image_size(root / path)
            except InputError as error:
                self.fault("image-unreadable", split, path, str(error), lost=sum(map(bool, content)))
                continue
            images.append(ImageRecord(len(images) + 1, path.removeprefix(start), width, height))
            if label is not None:
                annotations += self.labels(split, label, content, images[-1], len(annotations))
        self.listed[split] = Count(len(paths), lines)
        own = {self.labels_of[path]: path for path in paths if path in self.labels_of}
        moved = {label: path for label, path in own.items() if self.files.labels[label].moved}
        self.faults += accounting.moved_faults(split, next(iter(moved), ""), moved)
        if paths and not any(path in self.labels_of for path in paths):
            code = "no-labels" if not self.files.labels else "no-annotations"
            expected = posixpath.splitext(paths[0].replace("images", "labels"))[0]
            what = f"{counted(len(paths), 'image')} without label files, such as {expected}.txt"
            self.fault(code, split, start.rstrip("/") or ".", what)
        return Dataset(split, root / start, tuple(images), tuple(annotations), (), self.files.tree.root)

    def lines(self, split: str, label: str) -> list[str]:
        """The stripped lines of a label file."""
        try:
            return [line.strip() for line in read_text_file(self.files.tree.root / label).splitlines()]
        except DatasetError as error:
            self.fault("record", split, label, str(error))
            return []

    def labels(self, split: str, label: str, lines: Sequence[str], image: ImageRecord, before: int) -> list[Annotation]:
        """The instances of an image. ``before``: annotations of the split so far."""
        found: list[Annotation] = []
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                category, shape = self.instance(line, image.size)
            except UnusableError as error:
                self.fault(error.code, split, label, f"line {number}: {error}", image.id, lost=1)
            else:
                found.append(Annotation(before + len(found) + 1, image.id, category, shape))
        return found

    def unmatched(self, used: Set[str]) -> None:
        """Add a fault for each label file whose image is missing, unsupported, or not in a split."""
        unread = Finder(self.files.images.unread_images, stems=True)
        idle = [(label, match.path) for label, match in self.files.labels.items() if match.path not in used]
        for label, image in (*idle, *((label, "") for label in self.files.unpaired)):
            split = split_of_path(label)
            content = self.lines(split, label)
            lines = sum(map(bool, content))
            if not lines or not (image or any(map(has_numbers, content))):
                continue
            why = f"its image {image} is not in a split" if image else self.why_unpaired(label, split, unread)
            self.fault("label-unmatched", split, label, f"{counted(lines, 'line')}; {why}", lost=lines)
            before = self.listed.get(split, Count(0, 0))
            self.listed[split] = Count(before.images, before.annotations + lines)

    def why_unpaired(self, label: str, split: str, unread: Finder) -> str:
        """Why a label file has no image."""
        name, stems = image_name(label), self.files.images.image_stems
        if match := stems.find(name, split, local=True):
            return f"its image {match.path} has another label file, {self.labels_of.get(match.path)}"
        if rivals := stems.rivals(name, split):
            return f"several images have its name: {first_names(rivals)}"
        if match := unread.find(posixpath.splitext(label)[0], split):
            return f"its image {match.path} has an unsupported format"
        return "no image has its name"

    def instance(self, line: str, size: tuple[int, int]) -> tuple[int, Segmentation]:
        """The class and shape of a line. Raises UnusableError."""
        label, shares = parse_line(line)
        if self.names is not None and label >= len(self.names):
            raise UnusableError("unknown-category", f"class {label}: expected one from 0 to {len(self.names) - 1}")
        if label >= _MOST_CLASSES:
            raise UnusableError("unknown-category", f"class {label}: expected an index below {_MOST_CLASSES}")
        self.highest = max(self.highest, label)
        ring = to_pixels(shares, size)
        if len(ring) < 3 or not np.ptp(ring, axis=0).all():
            raise UnusableError("polygon-broken", f"the polygon has no area: {brief(line.strip())}")
        return label, apart(ring, size)


def _names(config: Config) -> list[str]:
    """The class names of a YAML file in the order of their indices; empty if invalid."""
    found = _indexed(config.get("names", []))
    return [found[index] for index in sorted(found)] if found else []


def _indexed(given: Any) -> dict[int, str] | None:
    """Class names by index; None if they are not a list or mapping of strings."""
    if isinstance(given, list):
        given = {str(index): name for index, name in enumerate(given)}
    if not isinstance(given, dict):
        return None
    found = {_whole(key): name for key, name in given.items()}
    if None in found or not all(isinstance(name, str) and name.strip() for name in found.values()):
        return None
    return cast("dict[int, str]", found)


def _whole(given: Any) -> int | None:
    """A number of classes or an index, from a string; None if invalid."""
    good = isinstance(given, str) and re.fullmatch(r"[0-9]{1,6}", given) and int(given) <= _MOST_CLASSES
    return int(given) if good else None


# ---- writing


def _lines(dataset: Dataset, image: ImageRecord, counts: Counter[str]) -> Iterator[str]:
    """The label lines of an image. Losses are added to ``counts``, by the keys of `_NOTES`."""
    for annotation in dataset.of(image):
        shares, how = _polygon(annotation.segmentation, image.size)
        counts["crowd"] += annotation.crowd and shares is not None
        counts.update(how)
        if shares is not None:
            yield f"{dataset.labels[annotation.category_id]} {shares}\n"


def _polygon(shape: Segmentation, size: tuple[int, int]) -> tuple[str | None, Iterable[str]]:
    """The coordinates of a shape for a line, None if it has no pixels; and the changes, by the keys of `_NOTES`."""
    whole = to_rle(shape, size)
    found = rle_window(whole, size)
    if found is None:
        return None, ["empty"]
    if not isinstance(shape, str):
        rings = [ring for ring in shape if ring.min() >= 0 and (ring <= size[::-1]).all()]
        text = _text(bridged(rings), size) if len(rings) == len(shape) else ""
        if text and to_rle((to_pixels(_shares(text), size),), size) == whole:
            return text, ["joined"] if len(rings) > 1 else []
    rings = boundary(*found)
    how = ["joined"] if len(rings) > 1 else []
    if not isinstance(shape, str):
        how.append("redrawn")
    return _text(bridged(rings), size), how


def _text(ring: Ring, size: tuple[int, int]) -> str:
    """Vertices in pixels as fractions of the image, with enough decimals to restore them to 1/1000 pixel."""
    digits = math.ceil(math.log10(max(size))) + GRID
    return " ".join(f"{value:.{digits}f}" for value in (ring / size[::-1]).ravel().tolist())


def _shares(text: str) -> Ring:
    return np.asarray(text.split(), np.float64).reshape(-1, 2)


def _free_names(dataset: Dataset) -> dict[Id, str]:
    """File names by image id, with unique stems, and without folders named ``images``."""
    taken: set[str] = set()
    found: dict[Id, str] = {}
    for image in dataset.images:
        path = PurePosixPath(image.file_name)
        folders = [f"{part}_" if part.casefold() == "images" else part for part in path.parts[:-1]]
        stem, number = path.stem, 1
        while (name := str(PurePosixPath(*folders, stem))).casefold() in taken:
            number += 1
            stem = f"{path.stem}_{number}"
        taken.add(name.casefold())
        found[image.id] = name + path.suffix
    return found


def _save(path: Path, text: str) -> None:
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
