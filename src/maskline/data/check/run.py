"""Look at a whole data set and tell everything that is wrong with it: every record, every image, every mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from maskline._progress import status, track
from maskline._wording import counted
from maskline.data import crowds, scale
from maskline.data.check import images, masks, near_duplicates, sizes
from maskline.data.crowds import Crowd
from maskline.data.dataset import Dataset, Id, ImageRecord
from maskline.data.faults import NAMES_TOLD, Fault, Reading, ordered
from maskline.data.reading import read
from maskline.instances import IntArray

Fingerprints: TypeAlias = dict[tuple[str, str], near_duplicates.Fingerprint]  # by split and file name


def check(root: Path, format_: str | None = None, images: Path | None = None, crowd: Crowd | None = None) -> Reading:
    """Read a data set of any format and check it: every record, image and mask.

    Every image is decoded, by as many threads as there are cores, while a bar shows the progress.

    Args:
        root: the folder, or the annotation file.
        format_: a key of `maskline.data.reading.FORMATS`; None recognizes it.
        images: the folder with the images, if they are not below ``root``.
        crowd: what crowd regions are; None makes it a fault if they seem to be single objects.

    Returns:
        What can be used of the splits, and all faults in the order in which they are told.

    Raises:
        DatasetError: there is nothing to check: no annotations, or a file that can't be read at all.
    """
    with status(f"reading {root}"):
        reading = read(root, format_, images, crowd)
    told = {(fault.code, fault.split, fault.image_id) for fault in reading.faults if fault.annotation_id is None}
    examined, areas = _examined(reading)
    found = [
        fault
        for fault in examined
        if fault.image_id is None
        or fault.annotation_id is not None
        or (fault.code, fault.split, fault.image_id) not in told
    ]
    found += [] if crowd else crowds.faults(reading.splits)
    return replace(reading, faults=ordered(reading.faults + found), areas=areas)


def _examined(reading: Reading) -> tuple[list[Fault], dict[str, IntArray]]:
    """All faults of images, masks and between splits; and `Reading.areas`."""
    splits, told = reading.splits, reading.faults
    faults: list[Fault] = []
    prints: Fingerprints = {}
    areas: dict[str, IntArray] = {}
    for split, dataset in splits.items():
        if not dataset.images:
            faults.append(_without_images(split, dataset, told))
        looks = track(images.look_at_all(dataset), f"images of {split}", len(dataset.images))
        shown = []
        for image, look in zip(dataset.images, looks, strict=True):
            faults.extend(look.faults)
            if look.fingerprint is not None:
                prints[split, image.file_name] = look.fingerprint
            if look.shown is not None:
                shown.append(look.shown)
        scaled = scale.in_pixels(dataset)
        findings = list(sizes.of_sizes(scaled, shown))
        faults.extend(finding.fault for finding in findings)
        found, areas[split] = _mask_faults(scaled, {finding.image.id: finding.drawn for finding in findings})
        faults.extend(found)
    faults.extend(_category_faults(list(splits.values())))
    with status("comparing images"):
        faults.extend(_twin_faults(prints))
    return faults, areas


def _without_images(split: str, dataset: Dataset, told: Sequence[Fault]) -> Fault:
    """An error, unless a split that nothing is learned from was left empty, to be filled when the set is divided."""
    if split in ("val", "test") and not any(fault.split == split for fault in told):
        return Fault("empty-list", split, dataset.source.name, "no image is listed: nothing can be evaluated")
    return Fault("no-images", split, dataset.source.name, "no image that could be used")


def _mask_faults(dataset: Dataset, drawn: Mapping[Id, ImageRecord | None]) -> tuple[list[Fault], IntArray]:
    """The faults of all masks of a split, and their areas in the order of `Dataset.annotations`.

    Args:
        drawn: images that are not of the size on which their masks were drawn, by id: see `sizes.Finding`.
    """
    faults: list[Fault] = []
    scales = scale.Masks(dataset)
    areas: dict[Id, Iterator[int]] = {}
    for listed in track(dataset.images, f"masks of {dataset.split}", len(dataset.images)):
        image = drawn.get(listed.id) or listed
        look = masks.look(dataset, image)
        faults.extend(look.faults)
        scales.add(image, dataset.of(image), look.areas)
        areas[image.id] = iter(look.areas)
    in_order = np.fromiter((next(areas[a.image_id]) for a in dataset.annotations), np.int64)
    return [*faults, *scales.faults()], in_order


def _category_faults(splits: Sequence[Dataset]) -> Iterator[Fault]:
    for other in splits[1:]:
        if difference := _difference(splits[0], other):
            yield Fault("categories-differ", other.split, other.source.name, difference)
    for dataset in splits:
        counts = Counter(annotation.category_id for annotation in dataset.annotations if not annotation.crowd)
        absent = [category.name for category in dataset.categories if not counts[category.id]]
        if absent and dataset.images:
            more = f" and {len(absent) - NAMES_TOLD} more" if len(absent) > NAMES_TOLD else ""
            what = f"{len(absent)} of {counted(len(dataset.categories), 'class', 'classes')} without instances: "
            what += ", ".join(map(repr, absent[:NAMES_TOLD])) + more
            yield Fault("class-missing", dataset.split, dataset.source.name, what)


def _difference(first: Dataset, other: Dataset) -> str | None:
    """How the class lists of two splits differ, or None."""
    if [(c.id, c.name) for c in first.categories] == [(c.id, c.name) for c in other.categories]:
        return None
    parts = []
    for has, lacks in ((first, other), (other, first)):
        names = [repr(name) for name in has.names if name not in lacks.names]
        if names:
            parts.append(f"only {has.source.name} has {', '.join(names[:NAMES_TOLD])}")
    return "; ".join(parts) or f"{first.source.name} has the same classes with other ids or in another order"


def _twin_faults(prints: Fingerprints) -> Iterator[Fault]:
    keys = list(prints)
    for pair in near_duplicates.pairs([prints[key] for key in keys]):
        (split, name), other = keys[pair.first], keys[pair.second]
        if split == other[0]:
            if pair.exact:
                yield Fault("image-twice", split, name, f"the same image as {other[1]}", others=(other,))
            continue
        code, how = ("leak", "the same image as") if pair.exact else ("leak-near", f"{pair.similarity:.1%} like")
        mirrored = ", mirrored" if pair.mirrored else ""
        yield Fault(code, split, name, f"in {split}: {how} {other[1]} in {other[0]}{mirrored}", others=(other,))
