"""Detect the format of a data set, read it, and report what was not read. All commands read through this module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from maskline._files import AnyPath
from maskline._wording import counted
from maskline.data import accounting, unsupported
from maskline.data.dataset import Dataset
from maskline.data.faults import WHOLE_FILE, Fault, Reading
from maskline.data.file_tree import SPLITS, UNSPLIT
from maskline.data.formats import FORMATS
from maskline.data.formats.coco.layout import paddlex_name
from maskline.data.interpret import interpret, log_warnings
from maskline.data.options import Crowd
from maskline.data.safe_json import escape_surrogates, is_valid_unicode
from maskline.data.source import Source
from maskline.errors import DatasetError, DatasetNotFoundError, UnknownNameError

MAX_ERRORS = 5  # in one message


class Format(Protocol):
    """Interface of a format's module."""

    TITLE: str  # for messages

    def detect(self, source: Source) -> list[str]:
        """Annotation files of this format, relative to the data set folder; empty if there are none. Never raises."""

    def read(self, source: Source) -> Reading:
        """Read all splits; partial errors become faults. Raises DatasetError if there is nothing to read."""


class WritableFormat(Format, Protocol):
    """Interface of the module of a writable format."""

    def write(self, splits: Mapping[str, Dataset], folder: Path) -> list[str]:
        """Write images and annotations to an empty folder; returns what the format can't hold, one line each."""


def format_module(name: str) -> Format:
    """The module of a format, by its key in any case. Raises UnknownNameError."""
    key = name.lower()
    if key not in FORMATS:
        raise UnknownNameError.of("format", name, FORMATS)
    return cast("Format", import_module(f"maskline.data.formats.{FORMATS[key].module}"))


def read_dataset(
    path: AnyPath, format_: str | None = None, images: AnyPath | None = None, crowd: Crowd | None = None
) -> Reading:
    """Read a data set.

    If a folder has annotations in several formats, the one with the most instances is read, and the others are faults.
    PaddleX's ``annotations/instance_train.json`` always wins, because it is generated from the others.

    Args:
        path: the folder of the data set, or its annotation file.
        format_: a key of `FORMATS`; None detects it.
        images: the folder with the images, if they are not below ``path``.
        crowd: how to read crowd regions; None keeps them unchanged.

    Raises:
        UnknownNameError: unknown format.
        DatasetError: no supported format is found, or the data set can't be read at all.
    """
    source = Source.of(path, images)
    return interpret(_read(source, format_), crowd)


def _read(source: Source, format_: str | None) -> Reading:
    if format_ is not None:
        return _finished(source, format_.lower(), format_module(format_).read(source))
    candidates = _candidates(source)
    if not candidates:
        raise DatasetError(_unknown(source))
    if len(candidates) == 1:
        (name,) = candidates
        return _finished(source, name, format_module(name).read(source))
    best = "coco" if any(paddlex_name(split) in candidates.get("coco", ()) for split in SPLITS) else None
    return _most(source, candidates, best)


def is_dataset(path: Path) -> bool:
    """Whether a folder or file has annotations in a supported format."""
    return path.exists() and bool(_candidates(Source.of(path)))


def _candidates(source: Source) -> dict[str, list[str]]:
    """Annotation files by format, without formats that have none."""
    return {name: files for name in FORMATS if (files := format_module(name).detect(source))}


def _most(source: Source, candidates: Mapping[str, list[str]], best: str | None) -> Reading:
    """The reading with the most instances, with faults for the other formats. Raises DatasetError.

    Args:
        candidates: annotation files by format.
        best: the format to read, if already decided.
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
        title = format_module(name).TITLE
        if name not in tried and accounting.have_annotated_images(source, files, splits):
            what = f"{counted(len(files), 'file')} in {title} format"
            faults.append(Fault("file-repeated", splits[0].split, files[0], what))
            continue
        result = tried[name] if name in tried else _attempt(source, name)
        if isinstance(result, DatasetError):
            if not isinstance(result, DatasetNotFoundError):
                faults.append(Fault("file", UNSPLIT, files[0], str(result)))
            continue
        faults += [fault for fault in result.faults if fault.code in ("file", "record") and not fault.lost]
        if fault := _unread_fault(result, f"in {title} format", splits):
            faults.append(fault)
    return _finished(source, best, replace(readings[best], faults=faults))


def _attempt(source: Source, name: str) -> Reading | DatasetError:
    """Read in a format; returns the error if that fails."""
    try:
        return format_module(name).read(source)
    except DatasetError as error:
        return error


def _unread_fault(reading: Reading, where: str, splits: Sequence[Dataset]) -> Fault | None:
    """The fault for a reading that was not chosen; ``splits`` are those of the chosen one."""
    annotated = {data.path(image) for data in reading.splits.values() for image in data.images if data.of(image)}
    number, unlocated = _annotations(reading), False
    for fault in reading.faults:
        if fault.lost:
            number += fault.lost
            data = reading.splits.get(fault.split)
            image = None if data is None or fault.image_id is None else data.by_id.get(fault.image_id)
            if data is None or image is None:
                unlocated = True
            else:
                annotated.add(data.path(image))
    if not number:
        return None
    code = "file-unread" if unlocated else accounting.unread_code(annotated, splits)
    what = f"{counted(number, 'instance')} in {counted(len(annotated), 'image')}, {where}"
    lost = number if code == "file-unread" else 0
    return Fault(code, next(iter(reading.splits)), reading.files[0], what, lost=lost)


def _annotations(reading: Reading) -> int:
    return sum(len(dataset.annotations) for dataset in reading.splits.values())


def _finished(source: Source, name: str, reading: Reading) -> Reading:
    reading = with_valid_names(reading)
    faults = list(reading.faults)
    reported = {fault.file for fault in faults}
    faults += accounting.damaged_files(source, {*reading.files, *reported})
    faults += accounting.unsupported_files(source, list(reading.splits.values()))
    if not any(fault.code == "file" for fault in faults):  # such a file may list them
        faults += accounting.unlisted_images(source, reading.splits, faults)
    return replace(reading, faults=faults, format=name)


def _unknown(source: Source) -> str:
    if found := unsupported.describe(source):
        return f"{source.given} {found}"
    known = ", ".join(format_module(name).TITLE for name in FORMATS)
    return f"no annotations found in {source.given}: expected a data set in one of the formats {known}"


def load_splits(path: AnyPath, format_: str | None = None, images: AnyPath | None = None) -> dict[str, Dataset]:
    """Read a data set that must be free of errors; arguments as for `read_dataset`.

    Raises:
        DatasetError: as `read_dataset`; or there are errors, the first of which are in the message; or images are
            embedded in annotation files.
    """
    reading = read_dataset(path, format_, images)
    refuse_errors(reading)
    embedded = [image.embedded for dataset in reading.splits.values() for image in dataset.images if image.embedded]
    if embedded:
        what = f"{counted(len(embedded), 'image')} without a file, such as the one embedded in {embedded[0]}"
        raise DatasetError(f"{what}: write them with `maskline convert {path} NEW --to coco`, and use the new data set")
    log_warnings(reading)
    return reading.splits


def refuse_errors(reading: Reading, remedy: str = "`maskline check` lists them, --fix leaves them out") -> None:
    """Raise DatasetError if a reading has errors, with the first of them and a remedy."""
    refuse_files(reading)
    if errors := reading.errors:
        first = "".join(f"\n  {fault.file}: {fault.kind.title}: {fault.what}" for fault in errors[:MAX_ERRORS])
        more = f"\n  and {len(errors) - MAX_ERRORS} more" if len(errors) > MAX_ERRORS else ""
        raise DatasetError(f"{counted(len(errors), 'error')} in the data set; {remedy}:{first}{more}")


def refuse_files(reading: Reading) -> None:
    """Raise DatasetError for errors of whole files (`WHOLE_FILE`), which leaving out records does not fix."""
    for fault in reading.errors:
        if fault.code in WHOLE_FILE:
            raise DatasetError(f"{fault.file}: {fault.what}; {fault.kind.advice}")


def with_valid_names(reading: Reading) -> Reading:
    """Drop images whose names are not valid Unicode, and escape such class names; each is a fault."""
    splits, faults = {}, list(reading.faults)
    for split, dataset in reading.splits.items():
        kept = []
        for image in dataset.images:
            if is_valid_unicode(image.file_name):
                kept.append(image)
            else:
                what = f"image {image.id!r} is named {image.file_name!r}"
                faults.append(Fault("name", split, image.file_name, what, image.id, lost=len(dataset.of(image))))
        for category in dataset.categories:
            if not is_valid_unicode(category.name):
                faults.append(Fault("name", split, dataset.source.name, f"a class is named {category.name!r}"))
        categories = tuple(replace(category, name=escape_surrogates(category.name)) for category in dataset.categories)
        part = dataset if len(kept) == len(dataset.images) else dataset.select(kept)
        splits[split] = replace(part, categories=categories)
    return replace(reading, splits=splits, faults=faults)
