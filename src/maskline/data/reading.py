"""Data sets of any format: recognized, read, and held to account for what was not read. All commands read here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from maskline._wording import counted
from maskline.data import accounting, foreign
from maskline.data.crowds import Crowd
from maskline.data.dataset import Dataset
from maskline.data.faults import WHOLE_FILE, Fault, Reading
from maskline.data.formats.coco.layout import paddlex_name
from maskline.data.source import Source
from maskline.data.texts import can_be_written, escaped
from maskline.data.tree import SPLITS, UNSPLIT
from maskline.data.whole import log_warnings, settled
from maskline.errors import DatasetError, DatasetNotFoundError, UnknownNameError

MAX_ERRORS = 5  # in one message


class Format(Protocol):
    """What the module of a format offers."""

    TITLE: str  # as people write it

    def detect(self, source: Source) -> list[str]:
        """Annotation files of this format, relative to the folder of the data set; none if it is another. No errors."""

    def read(self, source: Source) -> Reading:
        """Read all splits. What is wrong in part becomes faults. Raises DatasetError where there is nothing to read."""


class WritableFormat(Format, Protocol):
    """The module of a format that can be written too."""

    def write(self, splits: Mapping[str, Dataset], folder: Path) -> list[str]:
        """Fill an empty folder with images and annotations; returns what the format can't hold, a line each."""


#: Modules by the format's name on the command line. Of formats that hold equally many instances the first one is read.
FORMATS = {
    "coco": "formats.coco",
    "cvat": "formats.cvat",
    "labelme": "formats.labelme",
    "yolo": "formats.yolo",
    "voc": "formats.voc",
    "labelstudio": "formats.label_studio",
    "via": "formats.via",
    "supervisely": "formats.supervisely",
    "panoptic": "formats.coco_panoptic",
    "cityscapes": "formats.cityscapes",
    "qupath": "formats.qupath",
    "kaggle": "formats.kaggle_rle",
}


def get(name: str) -> Format:
    """The module of a format, by its key in any case. Raises UnknownNameError."""
    key = name.lower()
    if key not in FORMATS:
        raise UnknownNameError.of("format", name, FORMATS)
    return cast("Format", import_module(f"maskline.data.{FORMATS[key]}"))


def read(path: Path, format_: str | None = None, images: Path | None = None, crowd: Crowd | None = None) -> Reading:
    """Read a data set.

    The format is that of the annotations that belong to images. If a folder holds several, the one with the most
    instances is read, and a fault names each other. PaddleX's ``annotations/instance_train.json`` wins over all: it is
    made from the others.

    Args:
        path: the folder of the data set, or its annotation file.
        format_: a key of `FORMATS`; None recognizes it.
        images: the folder with the images, if they are not below ``path``.
        crowd: what crowd regions are; None keeps them as they are.

    Raises:
        UnknownNameError: there is no such format.
        DatasetError: there is no data set of a format that is read, or it can't be read at all.
    """
    source = Source.of(path, images)
    return settled(_read(source, format_), crowd)


def _read(source: Source, format_: str | None) -> Reading:
    if format_ is not None:
        return _finished(source, format_.lower(), get(format_).read(source))
    candidates = _candidates(source)
    if not candidates:
        raise DatasetError(_unknown(source))
    if len(candidates) == 1:
        (name,) = candidates
        return _finished(source, name, get(name).read(source))
    best = "coco" if any(paddlex_name(split) in candidates.get("coco", ()) for split in SPLITS) else None
    return _most(source, candidates, best)


def is_dataset(path: Path) -> bool:
    """Whether a folder or file has annotations of a format that is read."""
    return path.exists() and bool(_candidates(Source.of(path)))


def _candidates(source: Source) -> dict[str, list[str]]:
    """Annotation files by format, of formats that have some."""
    return {name: files for name in FORMATS if (files := get(name).detect(source))}


def _most(source: Source, candidates: Mapping[str, list[str]], best: str | None) -> Reading:
    """The reading with the most instances, with faults for what the others have. Raises DatasetError.

    Args:
        candidates: annotation files by format.
        best: the format to be read, if it is settled.
    """
    tried = {name: _attempt(source, name) for name in (candidates if best is None else (best,))}
    readings = {name: result for name, result in tried.items() if isinstance(result, Reading)}
    if not readings:
        raise next(error for error in tried.values() if isinstance(error, DatasetError))
    best = best or max(readings, key=lambda name: _annotations(readings[name]))
    splits = list(readings[best].splits.values())
    faults = list(readings[best].faults)
    for name, files in candidates.items():
        if name == best:
            continue
        title = get(name).TITLE
        if name not in tried and accounting.are_of_annotated(source, files, splits):
            what = f"{counted(len(files), 'file')} in {title} format"
            faults.append(Fault("file-repeated", splits[0].split, files[0], what))
            continue
        result = tried[name] if name in tried else _attempt(source, name)
        if isinstance(result, DatasetError):
            if not isinstance(result, DatasetNotFoundError):
                faults.append(Fault("file", UNSPLIT, files[0], str(result)))
            continue
        faults += [fault for fault in result.faults if fault.code in ("file", "record") and not fault.lost]
        if fault := _of_unread(result, f"in {title} format", splits):
            faults.append(fault)
    return _finished(source, best, replace(readings[best], faults=faults))


def _attempt(source: Source, name: str) -> Reading | DatasetError:
    """The reading in a format, or why there is none."""
    try:
        return get(name).read(source)
    except DatasetError as error:
        return error


def _of_unread(reading: Reading, where: str, splits: Sequence[Dataset]) -> Fault | None:
    """The fault that annotations were read, but are not in ``splits``, which were preferred."""
    annotated = {data.path(image) for data in reading.splits.values() for image in data.images if data.of(image)}
    number, homeless = _annotations(reading), False
    for fault in reading.faults:
        if fault.lost:
            number += fault.lost
            data = reading.splits.get(fault.split)
            image = None if data is None or fault.image_id is None else data.by_id.get(fault.image_id)
            if data is None or image is None:
                homeless = True
            else:
                annotated.add(data.path(image))
    if not number:
        return None
    code = "file-unread" if homeless else accounting.code_of_unread(annotated, splits)
    what = f"{counted(number, 'instance')} in {counted(len(annotated), 'image')}, {where}"
    lost = number if code == "file-unread" else 0
    return Fault(code, next(iter(reading.splits)), reading.files[0], what, lost=lost)


def _annotations(reading: Reading) -> int:
    return sum(len(dataset.annotations) for dataset in reading.splits.values())


def _finished(source: Source, name: str, reading: Reading) -> Reading:
    reading = with_names_that_can_be_written(reading)
    faults = list(reading.faults)
    told = {fault.file for fault in faults}
    faults += accounting.damaged(source, {*reading.files, *told})
    faults += accounting.foreign_files(source, list(reading.splits.values()))
    if not any(fault.code == "file" for fault in faults):  # such a file may list them
        faults += accounting.unlisted(source, reading.splits, faults)
    return replace(reading, faults=faults, format=name)


def _unknown(source: Source) -> str:
    if found := foreign.named(source):
        return f"{source.given} {found}"
    known = ", ".join(get(name).TITLE for name in FORMATS)
    return f"no annotations found in {source.given}: expected a data set in one of the formats {known}"


def load(path: Path, format_: str | None = None, images: Path | None = None) -> dict[str, Dataset]:
    """Read a data set that is meant to be right; arguments as for `read`.

    Raises:
        DatasetError: as `read`; or there are errors: the message has the first of them and their number; or images are
            only inside annotation files.
    """
    reading = read(path, format_, images)
    refuse_errors(reading)
    embedded = [image.embedded for dataset in reading.splits.values() for image in dataset.images if image.embedded]
    if embedded:
        what = f"{counted(len(embedded), 'image')} without a file, such as that in {embedded[0]}"
        raise DatasetError(f"{what}: write them with `maskline convert {path} NEW --to coco`, and use the new data set")
    log_warnings(reading)
    return reading.splits


def refuse_errors(reading: Reading, remedy: str = "`maskline check` lists them, --fix leaves them out") -> None:
    """Raise DatasetError if a part could not be read as it stands, with the first errors and what to do."""
    refuse_files(reading)
    if errors := reading.errors:
        first = "".join(f"\n  {fault.file}: {fault.kind.title}: {fault.what}" for fault in errors[:MAX_ERRORS])
        more = f"\n  and {len(errors) - MAX_ERRORS} more" if len(errors) > MAX_ERRORS else ""
        raise DatasetError(f"{counted(len(errors), 'error')} in the data set; {remedy}:{first}{more}")


def refuse_files(reading: Reading) -> None:
    """Raise DatasetError if a whole file is not what it seems, so that nothing would be gained by leaving out parts."""
    for fault in reading.errors:
        if fault.code in WHOLE_FILE:
            raise DatasetError(f"{fault.file}: {fault.what}; {fault.kind.advice}")


def with_names_that_can_be_written(reading: Reading) -> Reading:
    """Without images whose names are not Unicode, and with such names of classes escaped; each is a fault."""
    splits, faults = {}, list(reading.faults)
    for split, dataset in reading.splits.items():
        kept = []
        for image in dataset.images:
            if can_be_written(image.file_name):
                kept.append(image)
            else:
                what = f"image {image.id!r} is named {image.file_name!r}"
                faults.append(Fault("name", split, image.file_name, what, image.id, lost=len(dataset.of(image))))
        for category in dataset.categories:
            if not can_be_written(category.name):
                faults.append(Fault("name", split, dataset.source.name, f"a class is named {category.name!r}"))
        categories = tuple(replace(category, name=escaped(category.name)) for category in dataset.categories)
        part = dataset if len(kept) == len(dataset.images) else dataset.select(kept)
        splits[split] = replace(part, categories=categories)
    return replace(reading, splits=splits, faults=faults)
