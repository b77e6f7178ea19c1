"""Look at a whole data set and tell everything that is wrong with it: every record, every picture, every mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from maskline.data import check_masks, check_pictures, twins
from maskline.data.dataset import Dataset
from maskline.data.faults import KINDS, Fault, Reading
from maskline.data.reading import read
from maskline.progress import track

Prints: TypeAlias = dict[tuple[str, str], twins.Fingerprint]  # by split and file name

NAMES_TOLD = 5  # of many in one message


def check(root: Path, format_: str | None = None, images: Path | None = None) -> Reading:
    """Read a data set of any format and check it: every record, image and mask.

    Every image is decoded, by as many threads as there are cores, while a bar shows the progress.

    Args:
        root: the folder, or the annotation file.
        format_: a key of `maskline.data.reading.FORMATS`; None recognizes it.
        images: the folder with the images, if they are not below ``root``.

    Returns:
        What can be used of the splits, and all faults in the order of `KINDS`.

    Raises:
        DatasetError: there is nothing to check: no annotations, or a file that can't be read at all.
    """
    reading = read(root, format_, images)
    told = {(fault.code, fault.split, fault.image_id) for fault in reading.faults if fault.annotation_id is None}
    found = [
        fault
        for fault in check_splits(reading.splits)
        if fault.image_id is None
        or fault.annotation_id is not None
        or (fault.code, fault.split, fault.image_id) not in told
    ]
    return replace(reading, faults=_ordered(reading.faults + found))


def check_splits(splits: Mapping[str, Dataset]) -> list[Fault]:
    """All faults beyond those that reading has told."""
    faults: list[Fault] = []
    prints: Prints = {}
    for split, dataset in splits.items():
        if not dataset.images:
            faults.append(Fault("no-images", split, dataset.source.name, "no image that could be used"))
        looks = track(check_pictures.look_at_all(dataset), f"pictures of {split}", len(dataset.images))
        for image, look in zip(dataset.images, looks, strict=True):
            faults.extend(look.faults)
            if look.fingerprint is not None:
                prints[split, image.file_name] = look.fingerprint
        for image in track(dataset.images, f"masks of {split}", len(dataset.images)):
            faults.extend(check_masks.of_image(dataset, image))
    faults.extend(_category_faults(list(splits.values())))
    faults.extend(_twin_faults(prints))
    return faults


def _ordered(faults: list[Fault]) -> list[Fault]:
    places = {code: place for place, code in enumerate(KINDS)}
    return sorted(faults, key=lambda fault: places[fault.code])


def _category_faults(splits: Sequence[Dataset]) -> Iterator[Fault]:
    for other in splits[1:]:
        if difference := _difference(splits[0], other):
            yield Fault("categories-differ", other.split, other.source.name, difference)
    for dataset in splits:
        counts = Counter(annotation.category_id for annotation in dataset.annotations if not annotation.crowd)
        absent = [category.name for category in dataset.categories if not counts[category.id]]
        if absent and dataset.images:
            more = f" and {len(absent) - NAMES_TOLD} more" if len(absent) > NAMES_TOLD else ""
            what = f"{len(absent)} of {len(dataset.categories)} classes have no instance: "
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


def _twin_faults(prints: Prints) -> Iterator[Fault]:
    keys = list(prints)
    for pair in twins.pairs([prints[key] for key in keys]):
        (split, name), other = keys[pair.first], keys[pair.second]
        if split == other[0]:
            if pair.exact:
                yield Fault("image-twice", split, name, f"the same picture as {other[1]}", others=(other,))
            continue
        code, how = ("leak", "the same picture as") if pair.exact else ("leak-near", f"{pair.similarity:.1%} like")
        mirrored = ", mirrored" if pair.mirrored else ""
        yield Fault(code, split, name, f"in {split}: {how} {other[1]} in {other[0]}{mirrored}", others=(other,))
