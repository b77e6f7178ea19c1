"""Check a whole data set: every record, image and mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from maskline._files import AnyPath
from maskline._progress import status, track
from maskline._wording import counted
from maskline.data import crowds, units
from maskline.data.check import images, mask_sizes, masks, near_duplicates, sizes
from maskline.data.dataset import Dataset, Id, ImageRecord
from maskline.data.faults import MAX_NAMES, Fault, Reading, ordered
from maskline.data.options import Crowd
from maskline.data.reading import read_dataset
from maskline.instances import IntArray

Fingerprints: TypeAlias = dict[tuple[str, str], near_duplicates.Fingerprint]  # by split and file name


def check(
    root: AnyPath, format_: str | None = None, images: AnyPath | None = None, crowd: Crowd | None = None
) -> Reading:
    """Read a data set of any format and check every record, image and mask.

    Images are decoded by one thread per core, with a progress bar.

    Args:
        root: the folder, or the annotation file.
        format_: a key of `maskline.data.formats.FORMATS`; None detects it.
        images: the folder with the images, if they are not below ``root``.
        crowd: how to read crowd regions; None makes it a fault if they seem to be single objects.

    Returns:
        The usable part of the splits, and all faults in the order of reports.

    Raises:
        DatasetError: there is nothing to check: no annotations, or no readable file.
    """
    with status(f"reading {root}"):
        reading = read_dataset(root, format_, images, crowd)
    known = {(fault.code, fault.split, fault.image_id) for fault in reading.faults if fault.annotation_id is None}
    examined, areas = _check_splits(reading)
    found = [
        fault
        for fault in examined
        if fault.image_id is None
        or fault.annotation_id is not None
        or (fault.code, fault.split, fault.image_id) not in known
    ]
    found += [] if crowd else crowds.faults(reading.splits)
    return replace(reading, faults=ordered(reading.faults + found), areas=areas)


def _check_splits(reading: Reading) -> tuple[list[Fault], dict[str, IntArray]]:
    """All faults of images, masks and between splits, and `Reading.areas`."""
    splits = reading.splits
    faults: list[Fault] = []
    prints: Fingerprints = {}
    areas: dict[str, IntArray] = {}
    for split, dataset in splits.items():
        if not dataset.images:
            faults.append(_without_images(split, dataset, reading.faults))
        looks = track(images.check_images(dataset), f"images of {split}", len(dataset.images))
        shown = []
        for image, look in zip(dataset.images, looks, strict=True):
            faults.extend(look.faults)
            if look.fingerprint is not None:
                prints[split, image.file_name] = look.fingerprint
            if look.shown is not None:
                shown.append(look.shown)
        scaled = units.in_pixels(dataset)
        findings = list(sizes.size_findings(scaled, shown))
        faults.extend(finding.fault for finding in findings)
        found, areas[split] = _mask_faults(scaled, {finding.image.id: finding.drawn for finding in findings})
        faults.extend(found)
    faults.extend(_category_faults(list(splits.values())))
    with status("comparing images"):
        faults.extend(_duplicate_faults(prints))
    return faults, areas


def _without_images(split: str, dataset: Dataset, faults: Sequence[Fault]) -> Fault:
    """An error; only a warning for a val or test split that is empty without other faults."""
    if split in ("val", "test") and not any(fault.split == split for fault in faults):
        return Fault("empty-list", split, dataset.source.name, "no images are listed: nothing can be evaluated")
    return Fault("no-images", split, dataset.source.name, "no image that could be used")


def _mask_faults(dataset: Dataset, drawn: Mapping[Id, ImageRecord | None]) -> tuple[list[Fault], IntArray]:
    """The faults of all masks of a split, and their areas in the order of `Dataset.annotations`.

    Args:
        drawn: images whose masks were drawn on another size, by id: see `sizes.SizeFinding`.
    """
    faults: list[Fault] = []
    sizes_of_masks = mask_sizes.MaskSizes(dataset)
    areas: dict[Id, Iterator[int]] = {}
    for listed in track(dataset.images, f"masks of {dataset.split}", len(dataset.images)):
        image = drawn.get(listed.id) or listed
        look = masks.check_masks(dataset, image)
        faults.extend(look.faults)
        sizes_of_masks.add(image, dataset.of(image), look.areas)
        areas[image.id] = iter(look.areas)
    in_order = np.fromiter((next(areas[a.image_id]) for a in dataset.annotations), np.int64)
    return [*faults, *sizes_of_masks.faults()], in_order


def _category_faults(splits: Sequence[Dataset]) -> Iterator[Fault]:
    for other in splits[1:]:
        if difference := _difference(splits[0], other):
            yield Fault("categories-differ", other.split, other.source.name, difference)
    for dataset in splits:
        counts = Counter(annotation.category_id for annotation in dataset.annotations if not annotation.crowd)
        absent = [category.name for category in dataset.categories if not counts[category.id]]
        if absent and dataset.images:
            more = f" and {len(absent) - MAX_NAMES} more" if len(absent) > MAX_NAMES else ""
            what = f"{len(absent)} of {counted(len(dataset.categories), 'class', 'classes')} without instances: "
            what += ", ".join(map(repr, absent[:MAX_NAMES])) + more
            yield Fault("class-missing", dataset.split, dataset.source.name, what)


def _difference(first: Dataset, other: Dataset) -> str | None:
    """How the class lists of two splits differ, or None."""
    if [(c.id, c.name) for c in first.categories] == [(c.id, c.name) for c in other.categories]:
        return None
    parts = []
    for has, lacks in ((first, other), (other, first)):
        names = [repr(name) for name in has.names if name not in lacks.names]
        if names:
            parts.append(f"only {has.source.name} has {', '.join(names[:MAX_NAMES])}")
    return "; ".join(parts) or f"{first.source.name} has the same classes with other ids or in another order"


def _duplicate_faults(prints: Fingerprints) -> Iterator[Fault]:
    keys = list(prints)
    for pair in near_duplicates.find_pairs([prints[key] for key in keys]):
        (split, name), other = keys[pair.first], keys[pair.second]
        if split == other[0]:
            if pair.exact:
                yield Fault("image-twice", split, name, f"the same image as {other[1]}", others=(other,))
            continue
        code, how = ("leak", "the same image as") if pair.exact else ("leak-near", f"{pair.similarity:.1%} like")
        mirrored = ", mirrored" if pair.mirrored else ""
        yield Fault(code, split, name, f"in {split}: {how} {other[1]} in {other[0]}{mirrored}", others=(other,))
