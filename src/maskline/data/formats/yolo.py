"""YOLO's segmentation labels: a text file for each picture, in it a line for each instance.

A line is ``class x1 y1 x2 y2 ...``: the index of a class, and one polygon in shares of the picture's width and height.
``data.yaml`` names the classes and the pictures of each split; a picture's labels are found by putting ``labels`` for
the last ``images`` in its path. No file, or an empty one, is a picture without instances.
https://docs.ultralytics.com/datasets/segment/

One polygon is all an instance can have, so parts and holes are joined to one: it goes round a ring, over a *bridge* to
the next, round that, and back over the same bridge. Bridges have no width and what counts as inside is even-odd, so the
pixels are those of the parts less the holes. `read` takes bridges out again, whoever put them in.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias, cast

import numpy as np
import yaml

from maskline.data.dataset import Annotation, Category, Dataset, Id, ImageRecord
from maskline.data.faults import Fault, Reading
from maskline.data.formats.bridges import apart, boundary, bridged
from maskline.data.formats.yolo_tree import (
    SPLIT_KEYS,
    Config,
    bare_folders,
    find_config,
    has_labels,
    labels_of,
    listed_names,
    pictures_in,
    resolve,
    start_of,
)
from maskline.data.layout import UNSPLIT, copy_images, unify
from maskline.data.shapes import Ring, Segmentation, to_rle
from maskline.data.sources import is_file, picture_size, text_of
from maskline.errors import DatasetError, DatasetNotFoundError, InputError
from maskline.files import replace_file
from maskline.inputs import SUFFIXES
from maskline.masks import rle_window
from maskline.progress import track

TITLE = "YOLO"

_Place: TypeAlias = tuple[Path, list[Path]]  # of a split: the folder its file names start from, and its pictures

_MOST_CLASSES = 10_000  # a higher index is taken for a mistake
_FAR = 0.5  # a coordinate may lie outside the picture by this share of its side
_GRID = 3  # decimals of a pixel that coordinates keep
_NONE = ("", "~", "null")  # how YAML writes nothing


def detect(root: Path) -> bool:
    """Whether this is a YOLO data set: its ``data.yaml``, or a folder with one, or with ``images`` and ``labels``."""
    try:
        config = find_config(root)
        if config is not None and config[1].keys() & SPLIT_KEYS.keys():
            return True
    except DatasetError:
        pass  # it may still have both folders
    except OSError:
        return False
    return root.is_dir() and any(map(has_labels, bare_folders(root).values()))


def read(root: Path) -> Reading:
    """Read all splits.

    Args:
        root: the folder, or a YAML file in it. Paths in the file may be those of another machine. Without a YAML file
            ``images`` and ``labels`` are looked for, with classes named in ``classes.txt`` or numbered.

    Returns:
        What could be used. Category ids are YOLO's indices; images are numbered from 1, sorted by their paths.

    Raises:
        DatasetNotFoundError: no such folder, or no pictures that belong to a split.
        DatasetError: the YAML file can't be read, or is one of key points.
    """
    if not root.exists():
        raise DatasetNotFoundError(f"{root} does not exist: expected the folder of a YOLO data set")
    config = find_config(root)
    if config is None and not root.is_dir():
        raise DatasetError(f"{root} is no data.yaml: expected one with names, train and val")
    folder = Path(os.path.abspath(root if root.is_dir() else root.parent))  # noqa: PTH100 (links stay)
    reader = _Reader(folder, listed_names(folder))
    places = {} if config is None else reader.configured(folder / config[0].name, config[1])
    if not places:
        places = {split: (inner, pictures_in(inner)) for split, inner in bare_folders(folder).items()}
    if not any(pictures for _, pictures in places.values()):
        expected = "expected data.yaml with train and val, or the folders images and labels"
        raise DatasetNotFoundError(f"no pictures of a YOLO data set found in {root}: {expected}")
    splits = {split: reader.split(split, *place) for split, place in places.items()}
    return Reading({split: replace(d, categories=reader.categories()) for split, d in splits.items()}, reader.faults)


def write(splits: Mapping[str, Dataset], folder: Path) -> list[str]:
    """Fill an empty folder with ``data.yaml``, ``images/<split>/`` and ``labels/<split>/``; sub-folders are kept.

    `read` gives back every mask pixel for pixel. Polygons keep their vertices to 1/1000 pixel, but for those that
    would not: what leaves the picture, or parts that overlap. They are drawn anew along their pixels, as run lengths
    are.

    Returns:
        What was lost, a line each with counts.

    Raises:
        DatasetError: a picture is missing.
        OutputError, OSError: a file can't be written.
    """
    splits = unify(splits)
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
    # No "path": trainers look for a relative one below a folder of their own, but without it beside this file.
    config = {**{name: f"images/{name}" for name in folders.values()}, "names": dict(enumerate(names))}
    _save(folder / "data.yaml", yaml.safe_dump(config, allow_unicode=True, sort_keys=False))
    notes = [text.format(counts[key]) for key, text in _NOTES.items() if counts[key]]
    if UNSPLIT in splits and "train" not in splits:
        notes.append("the set is not split: all of it is written as train (`maskline split` makes val)")
    return notes


_NOTES = {
    "empty": "{} annotations without pixels are left out",
    "crowd": "{} crowd regions are written as ordinary objects",
    "joined": "{} instances of several parts or with holes are written as one polygon, joined by bridges without width",
    "redrawn": "{} instances are drawn anew along their pixels: polygons overlap, leave the picture or are too fine",
    "renamed": "{} pictures get another name: labels go by the name without suffix, and by the folder images",
}


# ---- reading


class _BadLineError(Exception):
    """A line that is no instance: the code of its fault, and what is wrong."""

    def __init__(self, code: str, what: str) -> None:
        super().__init__(what)
        self.code = code


@dataclass
class _Reader:
    """A data set being read: the faults so far, and the highest class met.

    Attributes:
        names: of classes; None where they are not known.
    """

    root: Path
    names: list[str] | None = None

    def __post_init__(self) -> None:
        self.faults: list[Fault] = []
        self.highest = -1

    def fault(self, code: str, split: str, path: Path, what: str, image_id: Id | None = None) -> None:
        inside = path.is_relative_to(self.root)
        file = path.relative_to(self.root).as_posix() if inside else str(path)
        self.faults.append(Fault(code, split, file, what, image_id))

    def categories(self) -> tuple[Category, ...]:
        """Those that are named; else as many as there need to be."""
        names = [f"class_{index}" for index in range(self.highest + 1)] if self.names is None else self.names
        return tuple(Category(index, name) for index, name in enumerate(names))

    # -- data.yaml

    def configured(self, path: Path, config: Config) -> dict[str, _Place]:
        """The splits a YAML file lists. Raises DatasetError."""
        if "kpt_shape" in config:
            raise DatasetError(f"{path} is of key points: expected polygons (YOLO's labels for segmentation)")
        self.names = self.class_names(path, config) or self.names
        given = config.get("path")
        base = resolve(given, [path.parent]) if isinstance(given, str) and given not in _NONE else None
        bases = [path.parent] if base is None or not base.is_dir() else [base, path.parent]
        places: dict[str, _Place] = {}
        for key, split in SPLIT_KEYS.items():
            if split not in places and config.get(key, "") not in _NONE:
                places |= self.place(split, path, config[key], bases)
        return places

    def class_names(self, path: Path, config: Config) -> list[str] | None:
        """From ``names``, a list or a mapping from index to name, and ``nc``; None if neither is of use."""
        stated = _whole(config.get("nc"))
        names = _indexed(config.get("names", []))
        if names is None:
            self.fault("record", "all", path, "names: expected a list of class names, or a mapping from index to name")
            names = {}
        count = max(names, default=-1) + 1
        if "nc" in config and stated != count and names:
            self.fault("record", "all", path, f"nc is {_short(config['nc'])}, but {count} classes are named")
        count = max(count, stated or 0)
        found = [names.get(index, f"class_{index}") for index in range(count)]
        for name, times in Counter(found).items():
            if times > 1:
                self.fault("category-name", "all", path, f"{times} classes are named {name!r}")
        return found or None

    def place(self, split: str, path: Path, given: Any, bases: Sequence[Path]) -> dict[str, _Place]:
        """Where a split's pictures are: by split, nothing if none are found."""
        entries = given if isinstance(given, list) else [given]
        targets: list[Path] = []
        pictures: dict[Path, None] = {}
        for entry in entries:
            target = resolve(entry, bases) if isinstance(entry, str) else None
            if target is None or not (target.is_dir() or target.suffix.lower() == ".txt"):
                self.fault("record", split, path, f"{split} is {_short(entry)}: no such folder, or list of pictures")
                continue
            targets.append(target)
            inside = pictures_in(target) if target.is_dir() else self.listed(split, target, bases)
            pictures.update(dict.fromkeys(inside))
        return {split: (start_of(targets, list(pictures)), list(pictures))} if targets else {}

    def listed(self, split: str, path: Path, bases: Sequence[Path]) -> Iterator[Path]:
        """The pictures that a text file lists, one a line."""
        try:
            lines = text_of(path).splitlines()
        except DatasetError as error:
            self.fault("record", split, path, str(error))
            return
        for number, line in enumerate(lines, 1):
            entry = line.strip()
            picture = resolve(entry, [path.parent, *bases]) if entry else None
            if picture is not None and picture.suffix[1:].lower() in SUFFIXES and is_file(picture):
                yield picture
            elif entry:
                self.fault("image-missing", split, path, f"line {number}: no picture {_short(entry)}")

    # -- labels

    def split(self, split: str, folder: Path, pictures: Sequence[Path]) -> Dataset:
        """One split, still without categories."""
        images: list[ImageRecord] = []
        annotations: list[Annotation] = []
        for picture in pictures:
            try:
                height, width = picture_size(picture)
            except InputError as error:
                self.fault("image-unreadable", split, picture, str(error))
                continue
            images.append(ImageRecord(len(images) + 1, picture.relative_to(folder).as_posix(), width, height))
            annotations += self.labels(split, picture, images[-1], len(annotations))
        return Dataset(split, folder, tuple(images), tuple(annotations), (), self.root)

    def labels(self, split: str, picture: Path, image: ImageRecord, before: int) -> list[Annotation]:
        """The instances of a picture. ``before``: how many annotations the split has so far."""
        path = labels_of(picture)
        if path is None:
            return []
        found: list[Annotation] = []
        try:
            lines = text_of(path).splitlines()
        except DatasetError as error:
            self.fault("record", split, path, str(error), image.id)
            return []
        for number, line in enumerate(lines, 1):
            try:
                label, shape = self.instance(line, image.size) if line.strip() else (None, ())
            except _BadLineError as error:
                self.fault(error.code, split, path, f"line {number}: {error}", image.id)
            else:
                if label is not None:
                    found.append(Annotation(before + len(found) + 1, image.id, label, shape))
        return found

    def instance(self, line: str, size: tuple[int, int]) -> tuple[int, Segmentation]:
        """A line's class and shape. Raises _BadLineError."""
        label, shares = _parse(line)
        if self.names is not None and label >= len(self.names):
            raise _BadLineError("unknown-category", f"class {label}: expected one from 0 to {len(self.names) - 1}")
        if label >= _MOST_CLASSES:
            raise _BadLineError("unknown-category", f"class {label}: expected an index below {_MOST_CLASSES}")
        self.highest = max(self.highest, label)
        ring = _in_pixels(shares, size)
        if len(ring) < 3 or not np.ptp(ring, axis=0).all():
            raise _BadLineError("polygon-broken", f"the polygon has no area: {_short(line.strip())}")
        return label, apart(ring, size)


def _parse(line: str) -> tuple[int, Ring]:
    """A line's class, and its vertices (V, 2) in shares of the picture. Raises _BadLineError."""
    try:
        values = [float(token) for token in line.split()]
    except ValueError:
        what = f"expected numbers (class x1 y1 x2 y2 ...), not {_short(line.strip())}"
        raise _BadLineError("record", what) from None
    label, coordinates = values[0], values[1:]
    if not label.is_integer() or label < 0:
        raise _BadLineError("record", f"the class is {line.split()[0]}: expected a whole number from 0")
    if len(coordinates) == 4:
        raise _BadLineError(
            "no-mask", "a box (class x y width height): expected a polygon (class x1 y1 x2 y2 x3 y3 ...)"
        )
    if len(coordinates) < 6 or len(coordinates) % 2:
        what = f"{len(coordinates)} coordinates: expected pairs of x and y, 3 or more"
        raise _BadLineError("polygon-broken", what)
    low, high = min(coordinates), max(coordinates)
    if not all(map(math.isfinite, coordinates)) or low < -_FAR or high > 1 + _FAR:
        what = f"coordinates from {low:g} to {high:g}: expected shares of width and height, from 0 to 1"
        raise _BadLineError("polygon-broken", what + (" (are they pixels?)" if 1 + _FAR < high < math.inf else ""))
    return int(label), np.asarray(coordinates, np.float64).reshape(-1, 2)


def _in_pixels(shares: Ring, size: tuple[int, int]) -> Ring:
    """Vertices in pixels, back on the grid of decimals they were on before they became shares; the last not the first.

    Args:
        shares: (V, 2) of ``(width, height)``.
    """
    ring = np.round(shares * np.asarray(size[::-1], np.float64), _GRID)
    return ring[:-1] if len(ring) > 3 and (ring[0] == ring[-1]).all() else ring


def _indexed(given: Any) -> dict[int, str] | None:
    """Class names by index; None if they are not given as a list or mapping of texts."""
    if isinstance(given, list):
        given = {str(index): name for index, name in enumerate(given)}
    if not isinstance(given, dict):
        return None
    found = {_whole(key): name for key, name in given.items()}
    if None in found or not all(isinstance(name, str) and name.strip() for name in found.values()):
        return None
    return cast("dict[int, str]", found)


def _whole(given: Any) -> int | None:
    """A number of classes or an index, as a text; None if it is something else."""
    good = isinstance(given, str) and re.fullmatch(r"[0-9]{1,6}", given) and int(given) <= _MOST_CLASSES
    return int(given) if good else None


def _short(value: Any) -> str:
    """A value of a YAML file for a message. Lists are not looked into: they may hold themselves."""
    text = repr(value) if isinstance(value, str) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---- writing


def _lines(dataset: Dataset, image: ImageRecord, counts: Counter[str]) -> Iterator[str]:
    """The lines of a picture's labels. ``counts``: how often what was lost, by the keys of `_NOTES`; added to."""
    for annotation in dataset.of(image):
        shares, how = _polygon(annotation.segmentation, image.size)
        counts["crowd"] += annotation.crowd and shares is not None
        counts.update(how)
        if shares is not None:
            yield f"{dataset.labels[annotation.category_id]} {shares}\n"


def _polygon(shape: Segmentation, size: tuple[int, int]) -> tuple[str | None, Iterable[str]]:
    """A shape as the coordinates of a line, and what happened to it; None if it has no pixels."""
    whole = to_rle(shape, size)
    found = rle_window(whole, size)
    if found is None:
        return None, ["empty"]
    joined = ["joined"]
    if not isinstance(shape, str):
        rings = [ring for ring in shape if ring.min() >= 0 and (ring <= size[::-1]).all()]
        text = _text(bridged(rings), size) if len(rings) == len(shape) else ""
        if text and to_rle((_in_pixels(_shares(text), size),), size) == whole:
            return text, joined[: len(rings) > 1]
    rings = boundary(*found)
    return _text(bridged(rings), size), joined[: len(rings) > 1] + ["redrawn"][: not isinstance(shape, str)]


def _text(ring: Ring, size: tuple[int, int]) -> str:
    """Vertices in pixels as shares of the picture, with the decimals that bring them back to 1/1000 pixel."""
    digits = math.ceil(math.log10(max(size))) + _GRID
    return " ".join(f"{value:.{digits}f}" for value in (ring / size[::-1]).ravel().tolist())


def _shares(text: str) -> Ring:
    return np.asarray(text.split(), np.float64).reshape(-1, 2)


def _free_names(dataset: Dataset) -> dict[Id, str]:
    """File names by image id, no two alike but for their suffix, and without a folder ``images`` on the way down."""
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
