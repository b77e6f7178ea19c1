"""COCO JSON: predictions as a data set to correct and train on, and COCO's results format for evaluation.

https://cocodataset.org/#format-data, https://cocodataset.org/#format-results
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np

from maskline._files import AnyPath, read_json
from maskline._wording import counted
from maskline.errors import InputError, UnknownNameError
from maskline.instances import Instances
from maskline.outputs.writer import DECIMALS, Spool, Writer, coordinates, relative, score_of, write_whole

if TYPE_CHECKING:
    from maskline.outputs.result import Result

Id: TypeAlias = "int | str"

MASK_FORMATS = ("rle", "polygon")

logger = logging.getLogger("maskline")


class CocoWriter(Writer):
    """Writes a data set with ``images``, ``annotations`` and ``categories``, for an annotation tool or for training.

    >>> import maskline
    >>> with maskline.CocoWriter("output/coco.json") as writer:  # doctest: +SKIP
    ...     for result in maskline.create_model().predict("photos"):
    ...         writer.add(result)

    Ids start at 1; category ids are class indices + 1. Box and area are those of the mask, and each annotation also has
    a ``score``. Instances with empty masks and repeated inputs are skipped.

    ``file_name`` is relative to the common folder of all inputs; ``info`` has the relative path to that folder. Inputs
    that are not image files (pages, arrays) are named like results, without ``_res`` and with ``.png``; these files are
    not created.
    """

    FILE_NAME = "coco.json"

    def __init__(self, path: AnyPath, *, mask_format: str = "rle") -> None:
        """Prepare, without writing anything.

        Args:
            path: output file.
            mask_format: ``rle`` for compressed run lengths; ``polygon`` for outlines, which lose holes: a warning
                counts the instances affected.

        Raises:
            UnknownNameError: unknown ``mask_format``.
            ParameterError, OutputError: the folder is invalid or not writable.
        """
        super().__init__(path)
        if mask_format not in MASK_FORMATS:
            raise UnknownNameError.of("mask_format", str(mask_format), MASK_FORMATS)
        self.mask_format = mask_format
        self._images, self._annotations = Spool(self.path), Spool(self.path)
        self._inputs = _Inputs()
        self._image_count = self._annotation_count = self._filled = 0
        self._folder: str | None = None  # common folder of all inputs so far; "" if there is none

    def _add(self, result: Result) -> None:
        if not self._inputs.take(result):
            return
        self._image_count += 1
        height, width = result.instances.size
        self._widen(result["input_path"])
        record = {"id": self._image_count, "file_name": _whole_name(result), "width": width, "height": height}
        self._images.write(f"{_dump(record)}\n")
        for index in range(len(result.instances)):
            if result.instances.masks[index].any():
                self._annotations.write(self._annotation(result.instances, index))

    def _annotation(self, found: Instances, index: int) -> str:
        self._annotation_count += 1
        record = {
            "id": self._annotation_count,
            "image_id": self._image_count,
            "category_id": int(found.labels[index]) + 1,
            "bbox": _mask_box(found, index),
            "iscrowd": 0,
            "score": score_of(found.scores[index]),
        }
        if self.mask_format == "rle":
            record["area"] = int(np.count_nonzero(found.masks[index]))
            record["segmentation"] = _rle(found, index)
        else:
            rings, holes = found.outlines(index)
            self._filled += bool(holes)
            record["area"] = sum(map(_ring_area, rings))
            record["segmentation"] = rings
        return ("" if self._annotation_count == 1 else ",\n") + _dump(record)

    def _widen(self, path: str | None) -> None:
        if path is not None:
            folder = str(Path(path).absolute().parent)
            self._folder = folder if self._folder is None else _common(self._folder, folder)

    def _finish(self) -> None:
        write_whole(self.path, self._write)
        if self._filled:
            logger.warning(
                "%s: holes are filled in %s: mask_format='rle' keeps them", self.path, counted(self._filled, "instance")
            )

    def _write(self, file: IO[bytes]) -> None:
        categories = [{"id": number, "name": name} for number, name in enumerate(self._names or (), 1)]
        folder = relative(self._folder, self.path.parent) if self._folder else None
        info = {"description": "predicted by maskline", "folder": folder}
        file.write(f'{{\n"info": {_dump(info)},\n"images": [\n'.encode("utf-8", "backslashreplace"))
        for text in self._image_texts():
            file.write(text.encode("utf-8", "backslashreplace"))
        file.write(b'\n],\n"annotations": [\n')
        self._annotations.copy_to(file)
        file.write(f'\n],\n"categories": {_dump(categories)}\n}}\n'.encode("utf-8", "backslashreplace"))

    def _image_texts(self) -> Iterator[str]:
        """Image records, with names relative to the final common folder."""
        for number, line in enumerate(self._images.lines()):
            record = json.loads(line)
            if self._folder and PurePath(record["file_name"]).is_absolute():
                record["file_name"] = relative(record["file_name"], Path(self._folder))
            yield (",\n" if number else "") + _dump(record)

    def _release(self) -> None:
        self._images.close()
        self._annotations.close()


class CocoResultsWriter(Writer):
    """Writes COCO's results format: a list of detections, evaluated by pycocotools and others against a data set.

    >>> import maskline
    >>> writer = maskline.CocoResultsWriter("results.json", annotations="val.json")  # doctest: +SKIP

    With the data set's annotation file, ids are taken from it: image ids by path, category ids by name; instances of
    other classes are skipped with a warning. Without it, ids are those of a `CocoWriter` for the same results. Repeated
    inputs are skipped.
    """

    FILE_NAME = "coco_results.json"

    def __init__(self, path: AnyPath, *, annotations: AnyPath | None = None) -> None:
        """Prepare, without writing anything.

        Args:
            path: output file.
            annotations: annotation file of the data set.

        Raises:
            InputError: ``annotations`` is not valid COCO JSON.
            ParameterError, OutputError: the folder is invalid or not writable.
        """
        super().__init__(path)
        self._records = Spool(self.path)
        self._ids = None if annotations is None else _Ids(Path(annotations))
        self._inputs = _Inputs()
        self._image_count = self._left_out = 0
        self._empty = True

    def _add(self, result: Result) -> None:
        if not self._inputs.take(result):
            return
        self._image_count += 1
        image = self._image_count if self._ids is None else self._ids.image(result["input_path"])
        found = result.instances
        for index, label in enumerate(found.labels.tolist()):
            category = label + 1 if self._ids is None else self._ids.categories.get(result.names[label])
            if category is None:
                self._left_out += 1
                continue
            x1, y1, x2, y2 = coordinates(found.boxes[index])
            record = {
                "image_id": image,
                "category_id": category,
                "segmentation": _rle(found, index),
                "bbox": [x1, y1, round(x2 - x1, DECIMALS), round(y2 - y1, DECIMALS)],
                "score": score_of(found.scores[index]),
            }
            self._records.write(("" if self._empty else ",\n") + _dump(record))
            self._empty = False

    def _finish(self) -> None:
        if self._left_out:
            logger.warning("%s skipped: the data set lacks their classes", counted(self._left_out, "instance"))
        write_whole(self.path, self._write)

    def _write(self, file: IO[bytes]) -> None:
        file.write(b"[\n")
        self._records.copy_to(file)
        file.write(b"\n]\n")

    def _release(self) -> None:
        self._records.close()


class _Inputs:
    """Hashes of the inputs so far, about 100 bytes each."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def take(self, result: Result) -> bool:
        """Whether an input is new; arrays always are."""
        if result["input_path"] is None:
            return True
        before = len(self._seen)
        self._seen.add(hash((result["input_path"], result["page_index"])))
        return len(self._seen) > before


class _Ids:
    """Ids of a data set's images and categories.

    Attributes:
        categories: ids by name.
    """

    def __init__(self, path: Path) -> None:
        """Read an annotation file. Raises InputError."""
        self.path = path
        self._images: dict[str, list[tuple[tuple[str, ...], Id]]] = {}  # by base name: path components, id
        try:
            content = read_json(path)
            self.categories: dict[str, Id] = {record["name"]: record["id"] for record in content["categories"]}
            for record in content["images"]:
                parts = _parts(record["file_name"])
                self._images.setdefault(parts[-1], []).append((parts, record["id"]))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise InputError(f"{path} is not a valid COCO data set ({reason})") from None

    def image(self, path: str | None) -> Id:
        """Id of the image whose file name is the end of ``path``. Raises InputError unless there is exactly one."""
        parts = _parts(path or "array")
        names = self._images.get(parts[-1], [])
        fitting = [(len(name), number) for name, number in names if name == parts[-len(name) :]]
        longest = [number for length, number in fitting if length == max(fitting)[0]]
        if len(longest) != 1:
            what = "no image" if not longest else f"{len(longest)} images"
            raise InputError(
                f"{self.path} lists {what} for the input {path}: expected one whose file_name ends its path"
            )
        return longest[0]


def _parts(name: str) -> tuple[str, ...]:
    """Components of a path of any operating system."""
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", ".")) or ("",)


def _whole_name(result: Result) -> str:
    """Absolute path of an image file; for a page, of the corresponding image; for an array, a base name."""
    path = result["input_path"]
    if path is None:
        return f"{result.stem}.png"
    whole = Path(path).absolute()
    return str(whole if result["page_index"] is None else result.file_in(whole.parent, ".png"))


def _common(one: str, other: str) -> str:
    try:
        return os.path.commonpath([one, other])
    except ValueError:  # on two drives
        return ""


def _rle(found: Instances, index: int) -> dict[str, Any]:
    return {"size": list(found.size), "counts": found.rle(index)}


def _mask_box(found: Instances, index: int) -> list[int]:
    """``x y width height`` of a mask's foreground, in pixels of the image."""
    mask, window = found.masks[index], found.window(index)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    return [window.left + left, window.top + top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]


def _ring_area(ring: list[float]) -> float:
    """Area of a ring whose vertices are pixel corners, by the shoelace formula."""
    x, y = np.asarray(ring).reshape(-1, 2).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
