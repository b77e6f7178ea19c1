"""Split a data set into train and val, reproducibly, without losing or repeating images."""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from random import Random
from typing import cast

import numpy as np
import numpy.typing as npt

from maskline._files import AnyPath, back_up, new_folder, replace_file
from maskline._progress import status, track
from maskline._wording import counted, short
from maskline.data import reading
from maskline.data.categories import unify_categories
from maskline.data.check import near_duplicates
from maskline.data.dataset import Annotation, Dataset, Id, ImageRecord
from maskline.data.file_access import is_file
from maskline.data.file_tree import UNSPLIT
from maskline.data.formats.coco import coco_json
from maskline.data.formats.coco.layout import annotation_name, write_annotations
from maskline.data.image_files import place_images
from maskline.data.options import BY_FOLDER, BY_KEY, BY_SIMILARITY, SplitConfig
from maskline.errors import DatasetError, ParameterError
from maskline.inputs import read_image

logger = logging.getLogger("maskline")

TRAIN, VAL = "train", "val"


def merge(splits: Mapping[str, Dataset]) -> Dataset:
    """Merge all splits to one named ``all``, with one list of categories.

    Ids are kept if free, otherwise renumbered. An image listed in several splits is kept once with all of its
    annotations, without identical ones, and a warning gives the numbers.

    Raises:
        DatasetError: an image has different sizes in two splits, so its masks can't be merged.
    """
    parts = list(unify_categories(splits).values())
    folder = Path(os.path.commonpath([dataset.folder.absolute() for dataset in parts]))
    images: dict[Path, ImageRecord] = {}
    annotations: dict[Id, list[Annotation]] = {}
    image_ids, annotation_ids = _Ids(), _Ids()
    repeated = Counter[str]()
    for dataset in parts:
        for image in dataset.images:
            path = dataset.path(image).absolute()
            if first := images.get(path):
                _check_same_size(first, image, dataset)
                found = _unlike(dataset.of(image), annotations[first.id])
                repeated += Counter(images=1, identical=len(dataset.of(image)) - len(found), added=len(found))
                images[path] = replace(first, extra={**image.extra, **first.extra})
            else:
                first = replace(image, id=image_ids.free(image.id), file_name=path.relative_to(folder).as_posix())
                images[path], annotations[first.id], found = first, [], list(dataset.of(image))
            annotations[first.id] += [replace(a, id=annotation_ids.free(a.id), image_id=first.id) for a in found]
    if repeated:
        logger.warning(
            "%s listed again in another split: %s kept once, %s added; `maskline check` finds objects annotated twice",
            counted(repeated["images"], "image"),
            counted(repeated["identical"], "identical annotation"),
            counted(repeated["added"], "different one"),
        )
    return replace(
        parts[0],
        split=UNSPLIT,
        folder=folder,
        images=tuple(images.values()),
        annotations=tuple(annotation for of_image in annotations.values() for annotation in of_image),
        info={key: value for dataset in reversed(parts) for key, value in dataset.info.items()},
    )


def _check_same_size(first: ImageRecord, image: ImageRecord, dataset: Dataset) -> None:
    if image.size != first.size:
        raise DatasetError(
            f"{dataset.source}: image {short(image.file_name)} is {image.width} x {image.height}, but "
            f"{first.width} x {first.height} in another split: correct one; `maskline check` shows which"
        )


def _unlike(annotations: Iterable[Annotation], present: Iterable[Annotation]) -> list[Annotation]:
    """Annotations without an identical one among those present; each of the latter is used once."""
    partners = Counter(map(_content, present))
    found = []
    for annotation in annotations:
        content = _content(annotation)
        if partners[content]:
            partners[content] -= 1
        else:
            found.append(annotation)
    return found


def _content(annotation: Annotation) -> Hashable:
    """Key for identical annotations of an image: everything except ids, box and area."""
    shape = annotation.segmentation
    outline = shape if isinstance(shape, str) else tuple(ring.tobytes() for ring in shape)
    return annotation.category_id, annotation.crowd, outline, json.dumps(annotation.extra, sort_keys=True, default=repr)


class _Ids:
    """Allocates unique ids."""

    def __init__(self) -> None:
        self._taken: set[Id] = set()
        self._numbers = count(1)

    def free(self, key: Id) -> Id:
        """The id itself, or a new number if it is taken."""
        while key in self._taken:
            key = next(self._numbers)
        self._taken.add(key)
        return key


def split_dataset(dataset: Dataset, how: SplitConfig) -> dict[str, Dataset]:
    """Split at random into ``train`` and ``val``.

    Logs a warning if a split gets no images, or if only some of the images have a group.

    Raises:
        DatasetError: there are fewer than two images, or all are in one group.
        ParameterError: no image has a group of the requested kind.
    """
    images = sorted(dataset.images, key=lambda image: image.file_name)
    units = _groups(dataset, images, how.group)
    if 0 < how.val_percent < 100 and len(units) < 2:
        given = counted(len(images), "image") + (f" in {counted(len(units), 'group')}" if how.group else "")
        raise DatasetError(f"{dataset.source} has {given}: expected at least two, to split")
    num_val = _val_count(len(images), how.val_percent)
    Random(how.seed).shuffle(units)
    chosen = _stratified(dataset, units, num_val) if how.stratify else _at_random(units, num_val)
    val = {image.id for number in chosen for image in units[number]}
    for part, size in ((TRAIN, len(images) - len(val)), (VAL, len(val))):
        if not size:
            logger.warning("%s has no images: check and training need some", part)
    return {
        TRAIN: dataset.select((image for image in dataset.images if image.id not in val), TRAIN),
        VAL: dataset.select((image for image in dataset.images if image.id in val), VAL),
    }


def split_in_place(root: AnyPath, how: SplitConfig) -> dict[str, Dataset]:
    """Split a data set in our layout again; its annotation files are replaced, and kept as ``.bak``.

    Existing ``train`` and ``val`` are merged first; ``test`` is unchanged. Image files are not needed; missing ones are
    reported by a warning.

    Returns:
        The new splits.

    Raises:
        DatasetError: the data set has another layout or has errors; nothing is changed.
    """
    with status(f"reading {root}"):
        splits = reading.load_splits(root)
    splits.pop("test", None)
    folder = _our_root(splits)
    merged = merge(splits)
    new_splits = split_dataset(merged, how)
    missing = [image.file_name for d in splits.values() for image in d.images if not is_file(d.path(image))]
    if missing:
        which = counted(len(missing), "image file is", "image files are")
        logger.warning("%s missing, the first: %s; `maskline check` lists all", which, missing[0])
    files = {split: folder / annotation_name(split, merged.source) for split in new_splits}
    files |= {split: dataset.source for split, dataset in splits.items() if split in new_splits}
    write_in_place(new_splits, files)
    return new_splits


def split_into(
    target: AnyPath, root: AnyPath, how: SplitConfig, format_: str | None = None, images: AnyPath | None = None
) -> dict[str, Dataset]:
    """As `split_in_place`, but to a new folder with copies of the images, and from any supported format."""
    with status(f"reading {root}"):
        splits = reading.load_splits(root, format_, images)
    test = {split: splits.pop(split) for split in ("test",) if split in splits}
    new_splits = split_dataset(merge(splits), how)
    with new_folder(target, root) as folder:
        write_annotations(place_images(new_splits | test, folder / "images"), folder)
    return new_splits


def write_in_place(splits: Mapping[str, Dataset], files: Mapping[str, Path]) -> None:
    """Write or replace the annotation file of each split; existing ones are kept as ``.bak``."""
    new = {split: file.with_name(f".{file.name}.new") for split, file in files.items()}
    try:
        for split, path in new.items():
            coco_json.write(splits[split], path)
        for file in files.values():
            back_up(file)
        for split, path in new.items():
            replace_file(files[split], path.replace)
    finally:
        for path in new.values():
            path.unlink(missing_ok=True)


def _our_root(splits: Mapping[str, Dataset]) -> Path:
    for split, dataset in splits.items():
        root = dataset.source.parent.parent
        if dataset.source != root / annotation_name(split, dataset.source) or dataset.folder != root / "images":
            expected = f"{annotation_name('train')} and images/"
            raise DatasetError(f"{dataset.source} is not in the layout {expected}: name a folder for the new data set")
    return root


def _val_count(images: int, val_percent: float) -> int:
    num_val = images - int(images * (100 - val_percent) / 100 + 0.5)
    return num_val if val_percent in (0, 100) or images < 2 else min(max(num_val, 1), images - 1)


# ---- groups


def _groups(dataset: Dataset, images: Sequence[ImageRecord], group: str | None) -> list[list[ImageRecord]]:
    """Groups of images; images without a group form one each. Raises ParameterError if no image has a group."""
    if group is None:
        return [[image] for image in images]
    found: dict[Hashable, list[ImageRecord]] = defaultdict(list)
    ungrouped: list[list[ImageRecord]] = []
    key = _group_key(dataset, images, group)
    for image in images:
        name = key(image)
        if name is None:
            ungrouped.append([image])
        else:
            found[name].append(image)
    if images and not found:
        what = f"an entry {group.removeprefix(BY_KEY)!r}" if group.startswith(BY_KEY) else "a file name that matches"
        raise ParameterError(f"group is {group!r}: none of {counted(len(images), 'image')} has {what}")
    if ungrouped:
        which = f"{len(ungrouped)} of {counted(len(images), 'image')}"
        logger.warning("%s without a group by %r: each forms a group of its own", which, group)
    return [*found.values(), *ungrouped]


def _group_key(dataset: Dataset, images: Sequence[ImageRecord], group: str) -> Callable[[ImageRecord], Hashable | None]:
    """A function from an image to the key of its group, or None."""
    if group == BY_FOLDER:
        return lambda image: image.file_name.rpartition("/")[0]
    if group == BY_SIMILARITY:
        looks = _similar(dataset, images)
        return lambda image: looks[image.id]
    if group.startswith(BY_KEY):
        name = group.removeprefix(BY_KEY)
        return lambda image: None if image.extra.get(name) is None else repr(image.extra[name])
    pattern = re.compile(group)

    def of_name(image: ImageRecord) -> Hashable | None:
        match = pattern.search(image.file_name)
        return match[1 if pattern.groups else 0] if match else None

    return of_name


def _similar(dataset: Dataset, images: Sequence[ImageRecord]) -> dict[Id, int]:
    """The group number of each image among near-duplicates, by image id."""
    tracked = track(images, "images", len(images))
    prints = [near_duplicates.fingerprint(read_image(dataset.path(image))) for image in tracked]
    roots = list(range(len(images)))  # union-find: each image points to another of its group, the first to itself

    def root(number: int) -> int:
        while roots[number] != number:
            roots[number] = number = roots[roots[number]]
        return number

    for pair in near_duplicates.find_pairs(prints):
        first, second = sorted((root(pair.first), root(pair.second)))
        roots[second] = first
    return {image.id: root(number) for number, image in enumerate(images)}


# ---- selection; units are groups of images in random order; returned are the indices of those for val


def _at_random(units: Sequence[Sequence[ImageRecord]], num_val: int) -> list[int]:
    """Take units in order while they fit, and one more if that is closer to ``num_val`` images."""
    chosen: list[int] = []
    room = num_val
    for number, unit in enumerate(units):
        if len(unit) <= room:
            chosen.append(number)
            room -= len(unit)
    others = sorted(set(range(len(units))) - set(chosen), key=lambda number: len(units[number]))
    if room and len(others) > 1 and (not chosen or len(units[others[0]]) < 2 * room):
        chosen.append(others[0])
    return chosen


def _stratified(dataset: Dataset, units: Sequence[Sequence[ImageRecord]], num_val: int) -> list[int]:
    """Iterative stratification: the rarest class first, each unit to the split that lacks most of that class."""
    present = _class_counts(dataset, units)
    sizes = np.asarray([len(unit) for unit in units])
    shares = np.asarray([sizes.sum() - num_val, num_val]) / max(sizes.sum(), 1)  # of train, of val
    lacking = shares[:, None] * present.sum(axis=0)  # (2, classes), in images
    room = shares * sizes.sum()
    part = np.full(len(units), -1)
    open_units = (present > 0).sum(axis=0).astype(float)  # units with each class that are not assigned yet
    while open_units.any():
        rarest = int(np.where(open_units > 0, open_units, np.inf).argmin())
        for number in np.flatnonzero((part < 0) & (present[:, rarest] > 0)).tolist():
            part[number] = k = _neediest(lacking[:, rarest], room)
            lacking[k] -= present[number]
            room[k] -= sizes[number]
            open_units -= present[number] > 0
    for number in np.flatnonzero(part < 0).tolist():  # background
        part[number] = k = int(room.argmax())
        room[k] -= sizes[number]
    return cast("list[int]", np.flatnonzero(part == 1).tolist())


def _neediest(lacking: npt.NDArray[np.float64], room: npt.NDArray[np.float64]) -> int:
    """The split that lacks most of a class among those with room; ties go to the emptier one."""
    return max((0, 1), key=lambda k: (room[k] > 0, lacking[k], room[k]))


def _class_counts(dataset: Dataset, units: Sequence[Sequence[ImageRecord]]) -> npt.NDArray[np.int64]:
    """Number of images with each class: (units, classes)."""
    counts = np.zeros((len(units), len(dataset.categories)), np.int64)
    for number, unit in enumerate(units):
        for image in unit:
            counts[number, list({dataset.labels[a.category_id] for a in dataset.of(image)})] += 1
    return counts
