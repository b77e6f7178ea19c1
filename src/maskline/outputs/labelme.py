"""LabelMe output: one JSON file per image, for manual correction. https://github.com/wkentaro/labelme"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from maskline._checks import check_number
from maskline._files import AnyPath, replace_file
from maskline._wording import counted
from maskline.outputs.formats import MOST_TOLERANCE
from maskline.outputs.labelme_json import VERSION, Json, document, exact_shapes
from maskline.outputs.paths import check_folder
from maskline.outputs.writer import Writer, relative, score_of

if TYPE_CHECKING:
    from typing_extensions import Self

    from maskline.outputs.result import Result

MARK = "maskline"  # key of the digest of the prediction, which shows whether the file has been edited since

logger = logging.getLogger("maskline")


class LabelMeWriter(Writer):
    """Writes a folder with ``<stem>.json`` per image, each as soon as its result is added.

    >>> import maskline
    >>> with maskline.LabelMeWriter("output/labelme", copy_images=True) as writer:  # doctest: +SKIP
    ...     for result in maskline.create_model().predict("photos"):
    ...         writer.add(result)

    ``imagePath`` is relative to the JSON; inputs that are not image files (pages, frames, arrays) are saved next to it
    as ``<stem>.png``. The shapes of an instance cover exactly its pixels: one polygon per part, with a common
    ``group_id``; or one shape of type ``mask`` if it has holes. Each shape also has a ``score``.

    Files created or edited by hand are never overwritten: they are kept, with a warning. To predict such an image
    again, delete its file.
    """

    FILE_NAME = "labelme"

    def __init__(self, path: AnyPath, *, tolerance: float = 0, copy_images: bool = False) -> None:
        """Prepare, without writing anything.

        Args:
            path: output folder, created when needed.
            tolerance: simplify polygons by up to this many pixels, so that there are fewer points to edit.
            copy_images: copy each image next to its JSON, so that the folder is a complete data set; otherwise
                `maskline convert` needs a folder that contains both.

        Raises:
            ParameterError, OutputError: the folder is invalid or not writable, or the tolerance is out of range.
        """
        super().__init__(path)
        check_folder(f"{self.path}/")
        self.tolerance = check_number(tolerance, "tolerance", least=0, most=MOST_TOLERANCE)
        self.copy_images = copy_images
        self._kept = 0

    @classmethod
    def open(cls, folder: AnyPath, *, tolerance: float = 0) -> Self:
        """Open a writer at this format's default path in a folder, with copies of the images."""
        return cls(Path(folder) / cls.FILE_NAME, tolerance=tolerance, copy_images=True)

    def _add(self, result: Result) -> None:
        path = result.file_in(self.path, ".json")
        own = self._own_image(result, path)
        if not _is_free(path, own):
            level = logging.INFO if self._kept else logging.WARNING
            what = result["input_path"] or "an array"
            logger.log(level, "%s was edited or is not from maskline: kept, and %s not written", path, what)
            self._kept += 1
            return
        self._write(path, Path(result["input_path"]) if own is None else own, result)
        if own is not None:
            replace_file(own, lambda file: _save_image(result, file))

    def _own_image(self, result: Result, path: Path) -> Path | None:
        """The image to save next to a JSON file; None if LabelMe shows the input itself."""
        if not _is_image(result):
            return path.with_suffix(".png")
        source = Path(result["input_path"])
        copy = path.with_suffix(source.suffix)
        elsewhere = source.is_file() and copy.resolve() != source.resolve()
        return copy if self.copy_images and elsewhere else None

    def _write(self, path: Path, image: Path, result: Result) -> None:
        shapes = list(self._shapes(result))
        height, width = result.instances.size
        content: Json = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": relative(str(image.absolute()), self.path.absolute()),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
            MARK: _digest(shapes),
        }
        data = document(content, _dump).encode("utf-8", "backslashreplace")
        replace_file(path, lambda file: file.write_bytes(data))

    def _shapes(self, result: Result) -> Iterator[Json]:
        groups = 0
        found = result.instances
        for index, label in enumerate(found.labels.tolist()):
            parts = exact_shapes(found.masks[index], found.window(index))
            groups += len(parts) > 1
            for part in parts:
                polygon = part["shape_type"] == "polygon"
                yield {
                    "label": result.names[label],
                    "points": simplified(part["points"], self.tolerance) if polygon else part["points"],
                    "group_id": groups if len(parts) > 1 else None,
                    "description": "",
                    "shape_type": part["shape_type"],
                    "flags": {},
                    "mask": part["mask"],
                    "score": score_of(found.scores[index]),
                }

    def _finish(self) -> None:
        if self._kept:
            logger.warning("%s: %s left unchanged", self.path, counted(self._kept, "file"))

    def _release(self) -> None:
        """Nothing is held: each file is written at once."""


def simplified(points: list[list[float]], tolerance: float) -> list[list[float]]:
    """Simplify a polygon (Douglas and Peucker, 1973); unchanged if fewer than 3 points would remain.

    Args:
        points: ``[x, y]`` in pixels, first point not repeated.
        tolerance: maximum distance in pixels; 0 changes nothing.
    """
    if not tolerance:
        return points
    fewer = cv2.approxPolyDP(np.asarray(points, np.float32)[:, None], tolerance, closed=True)[:, 0]
    return [[float(x), float(y)] for x, y in fewer.tolist()] if len(fewer) >= 3 else points


def _is_image(result: Result) -> bool:
    """Whether the input is a file that LabelMe can show, rather than a page, frame or array."""
    return result["input_path"] is not None and result["page_index"] is None


def _save_image(result: Result, file: Path) -> None:
    if _is_image(result):
        shutil.copyfile(result["input_path"], file)
    else:
        _, data = cv2.imencode(".png", result["input_img"])
        file.write_bytes(data.tobytes())


def _is_free(path: Path, image: Path | None) -> bool:
    """Whether a JSON file, and an image next to it, may be written: they are missing, or unedited predictions."""
    try:
        content = json.loads(path.read_bytes())
        return bool(content[MARK] == _digest(content["shapes"]) and not content["flags"])
    except FileNotFoundError:
        return image is None or not image.exists()
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def _digest(shapes: list[Json]) -> str:
    return hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()[:16]


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
