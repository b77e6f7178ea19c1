"""From any format to any other: a star around COCO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from maskline.data import layout
from maskline.data.dataset import Dataset
from maskline.data.faults import Fault, Reading
from maskline.data.sources import is_file
from maskline.data.split import Division, divide, merge, write_in_place
from maskline.data.texts import can_be_written, escaped
from maskline.errors import DatasetError, DatasetNotFoundError, UnknownNameError


class Format(Protocol):
    """What the module of a format offers."""

    TITLE: str  # as people write it

    def detect(self, root: Path) -> bool:
        """Whether a folder or file looks like this format. Raises nothing."""

    def read(self, root: Path) -> Reading:
        """Read all splits. Raises DatasetError where there is nothing to read; what is wrong in part becomes faults."""

    def write(self, splits: Mapping[str, Dataset], folder: Path) -> list[str]:
        """Fill an empty folder with pictures and annotations; returns what this data set loses, a line each."""


#: Modules by the format's name on the command line, in the order in which they are tried on an unknown folder.
FORMATS = {
    "cvat": "formats.cvat",
    "yolo": "formats.yolo",
    "voc": "formats.voc",
    "labelme": "formats.labelme",
    "coco": "layout",
}


@dataclass(frozen=True, slots=True)
class Converted:
    """What a conversion did.

    Attributes:
        source_format: its key in `FORMATS`.
        splits: as read.
        skipped: what could not be read and so is not there.
        notes: what the new format can't hold.
    """

    source_format: str
    splits: dict[str, Dataset]
    skipped: list[Fault]
    notes: list[str]


def get(name: str) -> Format:
    """The module of a format, by its key or title in any case. Raises UnknownNameError."""
    key = name.lower()
    if key not in FORMATS:
        raise UnknownNameError.of("format", name, FORMATS)
    return cast("Format", import_module(f"maskline.data.{FORMATS[key]}"))


def recognize(root: Path) -> str:
    """The format of a folder or file. Raises DatasetNotFoundError, DatasetError."""
    if not root.exists():
        raise DatasetNotFoundError(f"{root} does not exist: expected the folder of a data set")
    for name in FORMATS:
        if get(name).detect(root):
            return name
    known = ", ".join(get(name).TITLE for name in FORMATS)
    raise DatasetError(f"{root} is no data set of a known form ({known}): check the folder, or name its form (--from)")


def read(root: Path) -> Reading:
    """Read a data set of any format. Raises DatasetError; where nothing is recognized, in terms of COCO's form."""
    try:
        layout.find(root)
    except DatasetNotFoundError:
        for name in FORMATS:
            if get(name).detect(root):
                return _read(name, root)
        raise
    return layout.read(root)


def _read(name: str, root: Path) -> Reading:
    return with_names_that_can_be_written(get(name).read(root))


def convert(source: Path, target: Path, to: str, from_: str | None = None, *, skip_errors: bool = False) -> Converted:
    """Convert a data set; its pictures are copied. The source is only read.

    Args:
        source: the folder, or the annotation file.
        target: a new folder, complete or not there at all afterwards.
        to, from_: keys of `FORMATS`; None finds out.
        skip_errors: leave out what can't be read, instead of refusing the whole.

    Raises:
        UnknownNameError: no such format.
        DatasetError: the source can't be read, or parts of it without ``skip_errors``, or the format can't hold it.
        OutputError: the target is there already, or can't be written.
    """
    writer = get(to)
    name = from_.lower() if from_ is not None else recognize(source)
    reading = _read(name, source)
    if skip_errors:
        reading = without_missing(reading)
    else:
        layout.refuse_errors(reading, "--skip-errors leaves them out")
    splits = layout.unify(reading.splits)
    with layout.new_folder(target, source) as folder:
        notes = writer.write(splits, folder)
    return Converted(name, splits, reading.errors, notes)


def without_missing(reading: Reading) -> Reading:
    """Without the pictures whose files are not there; each is told."""
    splits, faults = {}, list(reading.faults)
    for split, dataset in reading.splits.items():
        there = [image for image in dataset.images if is_file(dataset.path(image))]
        splits[split] = dataset.select(there)
        told = {fault.image_id for fault in faults if fault.code == "image-missing" and fault.split == split}
        for image in dataset.images:
            if not is_file(dataset.path(image)) and image.id not in told:
                what = f"there is no file {dataset.folder.name}/{image.file_name}"
                faults.append(Fault("image-missing", split, image.file_name, what, image.id))
    return Reading(splits, faults, reading.listed)


def with_names_that_can_be_written(reading: Reading) -> Reading:
    """Without pictures whose names no text can hold, and with an escape in such names of classes; each is told."""
    splits, faults = {}, list(reading.faults)
    for split, dataset in reading.splits.items():
        kept = []
        for image in dataset.images:
            if can_be_written(image.file_name):
                kept.append(image)
            else:
                what = f"image {image.id!r} is named {image.file_name!r}"
                faults.append(Fault("name", split, image.file_name, what, image.id))
        for category in dataset.categories:
            if not can_be_written(category.name):
                faults.append(Fault("name", split, dataset.source.name, f"a class is named {category.name!r}"))
        categories = tuple(replace(category, name=escaped(category.name)) for category in dataset.categories)
        part = dataset if len(kept) == len(dataset.images) else dataset.select(kept)
        splits[split] = replace(part, categories=categories)
    return Reading(splits, faults, reading.listed)


def convert_in_place(root: Path, from_: str, seed: int = 0) -> dict[str, Dataset]:
    """Write COCO annotations, with PaddleX's names, into a data set of another form; existing ones become ``.bak``.

    Pictures stay where they are if that is below ``images``, else they are copied there, once: it can be done again,
    which makes ``.bak2`` and so on. A set without a ``val`` split is
    divided at random, as `Division` does by default.

    Raises:
        UnknownNameError: no such format.
        DatasetError: nothing could be read, or something not; nothing has changed then.
    """
    reading = _read(from_.lower(), root)
    layout.refuse_errors(reading, "correct them, or leave them out with `maskline convert --skip-errors`")
    splits = layout.bring_in(layout.unify(reading.splits), root / "images")
    if "val" not in splits:
        splits |= divide(merge(splits), Division(seed=seed))
    splits = {split: dataset for split, dataset in splits.items() if split != layout.UNSPLIT}
    write_in_place(splits, {split: root / layout.paddlex_name(split) for split in splits})
    return splits
