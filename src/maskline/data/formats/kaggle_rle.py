"""Kaggle's RLE: a CSV file with one object per row, as ``start length start length ...``.

Pixels are numbered from 1, down the columns; in some competitions (Sartorius, UW-Madison) along the rows. Objects are
connected in one of the two orders only, so the order is inferred from the runs; for square images, from the column
name. A row without run lengths lists an image without objects.
"""

from __future__ import annotations

import csv
import io
import posixpath
import re
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from maskline._wording import short
from maskline.data.faults import Fault, Reading, UnusableError
from maskline.data.file_access import read_text_file
from maskline.data.file_kinds import rle_columns
from maskline.data.file_tree import UNSPLIT
from maskline.data.formats.assembly import OBJECT, Assembly, Sheet
from maskline.data.source import Source
from maskline.errors import DatasetError
from maskline.masks import Window, place_rle, rle_window, runs_rle

TITLE = "Kaggle RLE"

_Runs: TypeAlias = npt.NDArray[np.int64]  # (N, 2): first pixel from 0, and the pixel after the last

_ALONG_ROWS = ("annotation", "segmentation")  # columns of run lengths that go along the rows
_WITH_CLASS = ("imageid_classid", "image_label")  # columns such as 0011165.jpg_Fish
_CLASSES = ("classid", "class_id", "class", "class_name", "label", "category", "cell_type")
_NONE = ("", "-1", "nan", "none")
_MAX_CELL = 1 << 30  # characters


def detect(source: Source) -> list[str]:
    """The CSV files with image and RLE columns, without submissions."""
    return [file for file in source.of_kind("kaggle") if not _is_submission(file)]


def read(source: Source) -> Reading:
    """Read all files; the split of each is the one that its name or folder mentions.

    Raises:
        DatasetError: there are no files, or none can be read.
    """
    assembly = Assembly(source)
    for sheet in map(assembly.sheet, detect(source)):
        with sheet.reading():
            _read_file(sheet)
    for file in filter(_is_submission, source.of_kind("kaggle")):
        assembly.faults.append(Fault("set-aside", UNSPLIT, file, "it is called a submission"))
    return assembly.reading("a CSV file with the columns ImageId and EncodedPixels")


def _is_submission(file: str) -> bool:
    return "submission" in posixpath.basename(file).lower()


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the file.

    Attributes:
        label: the class; None without such a column.
        size: ``(height, width)``; None without such columns.
    """

    number: int
    image: str
    runs: str
    label: str | None
    size: tuple[int, int] | None


def _rows(source: Source, file: str) -> tuple[str, list[_Row]]:
    """The name of the RLE column, and the rows. Raises UnusableError."""
    limit = csv.field_size_limit(_MAX_CELL)
    try:
        table = csv.reader(io.StringIO(read_text_file(source.root / file), newline=""))
        header = [name.strip().lower() for name in next(table, [])]
        columns = rle_columns(header)
        if columns is None:
            raise UnusableError("file", f"has the columns {short(header)}: expected ImageId and EncodedPixels")
        records = [(number, dict(zip(header, row, strict=False))) for number, row in enumerate(table, 2) if row]
    except (csv.Error, DatasetError) as error:
        raise UnusableError("file", f"is not a readable CSV file ({error})") from None
    finally:
        csv.field_size_limit(limit)
    return columns[1], [_row(number, record, *columns) for number, record in records]


def _row(number: int, record: dict[str, str], images: str, runs: str) -> _Row:
    name, label = record.get(images, "").strip(), next((record[key] for key in _CLASSES if key in record), None)
    if images in _WITH_CLASS:
        name, _, label = name.rpartition("_")
    if label is not None:
        label = f"class_{label.strip()}" if label.strip().isdigit() else label.strip()
    height, width = (record.get(key, "").strip() for key in ("height", "width"))
    size = (int(height), int(width)) if all(re.fullmatch(r"\d{1,9}", side) for side in (height, width)) else None
    return _Row(number, name, record.get(runs, "").strip(), label, size)


def _read_file(sheet: Sheet) -> None:
    """Add the images and runs of a file. Raises UnusableError if the file as a whole can't be read."""
    column, rows = _rows(sheet.assembly.source, sheet.file)
    by_image: dict[str, list[_Row]] = {}
    for row in rows:
        by_image.setdefault(row.image, []).append(row)
    found = sheet.assembly.find(by_image, sheet.split)
    usable = []
    for name, own in by_image.items():
        number = sum(row.runs.lower() not in _NONE for row in own)
        image = sheet.image(name, found.get(name), annotations=number, size=None if name in found else own[0].size)
        if image is None:
            continue
        for row in own:
            if row.runs.lower() in _NONE:
                continue
            with sheet.losing(f"row {row.number}", image):
                if row.label == "":
                    raise UnusableError("record", "it has no class name")
                usable.append((image, row.label or OBJECT, _parse(row.runs, image.width * image.height)))
    votes = sum(_vote(runs, image.size) for image, _, runs in usable)
    along_rows = votes < 0 or (votes == 0 and column in _ALONG_ROWS)
    for image, label, runs in usable:
        sheet.add(image, label, _along_rows(runs, image.size) if along_rows else _rle(runs, image.size))


def _parse(text: str, pixels: int) -> _Runs:
    """Parse the runs in an image of ``pixels``, sorted. Raises UnusableError."""
    try:
        numbers = np.array([int(number) for number in text.split()], np.int64)
    except (ValueError, OverflowError):
        raise UnusableError("rle-broken", f"run lengths are {short(text)}: expected integers") from None
    if len(numbers) % 2:
        raise UnusableError("rle-broken", f"{len(numbers)} numbers: expected pairs of start and length")
    starts, lengths = numbers[::2] - 1, numbers[1::2]
    if starts.min() < 0 or lengths.min() < 0 or numbers.max() > pixels or (starts + lengths).max() > pixels:
        raise UnusableError("rle-broken", f"run lengths {short(text)}: expected pixels from 1 to {pixels}")
    runs = np.stack([starts, starts + lengths], axis=1)[lengths > 0]
    if not len(runs):
        raise UnusableError("mask-empty", "all of its run lengths are 0")
    sorted_runs: _Runs = runs[np.argsort(runs[:, 0], kind="stable")]
    return sorted_runs


def _vote(runs: _Runs, size: tuple[int, int]) -> int:
    """Number of runs that touch the next one in column order, minus the number in row order."""
    return _touching(runs, size[0]) - _touching(runs, size[1])


def _touching(runs: _Runs, stride: int) -> int:
    starts, ends = runs.T
    lines = np.diff(starts // stride) == 1
    return int((lines & (starts[1:] - stride < ends[:-1]) & (ends[1:] - stride > starts[:-1])).sum())


def _rle(runs: _Runs, size: tuple[int, int]) -> str:
    """Compressed RLE over ``(height, width)`` from runs in column order, which may overlap."""
    starts, ends = runs[:, 0], np.maximum.accumulate(runs[:, 1])
    apart = starts[1:] > ends[:-1]
    edges = np.stack([starts[np.append(True, apart)], ends[np.append(apart, True)]], axis=1).ravel()
    lengths = np.diff(edges, prepend=0, append=size[0] * size[1])
    return runs_rle(lengths if lengths[-1] else lengths[:-1])


def _along_rows(runs: _Runs, size: tuple[int, int]) -> str:
    height, width = size
    found = rle_window(_rle(runs, (width, height)), (width, height))
    if found is None:
        return place_rle(np.zeros((0, 0), np.uint8), Window(0, 0, 0, 0), size)
    mask, (left, right, top, bottom) = found  # of the transposed image
    return place_rle(mask.T, Window(top, bottom, left, right), size)
