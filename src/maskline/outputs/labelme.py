"""LabelMe: a JSON file for each image, with shapes to correct by hand. https://github.com/wkentaro/labelme"""

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

from maskline._files import replace_file
from maskline._wording import counted
from maskline.errors import ParameterError
from maskline.outputs.labelme_json import VERSION, Json, document, exact_shapes
from maskline.outputs.paths import AnyPath, check_folder
from maskline.outputs.writer import Writer, relative, score_of

if TYPE_CHECKING:
    from typing_extensions import Self

    from maskline.outputs.result import Result

MARK = "maskline"  # a key of the file: the digest of what was predicted, by which we know what nobody has touched since

logger = logging.getLogger("maskline")


class LabelMeWriter(Writer):
    """A folder with ``<stem>.json`` for each image, there as soon as its result is added.

    ``imagePath`` leads from the JSON to the image; what has no image file of its own (a page, a frame, an array) is
    saved beside it as ``<stem>.png``. The shapes of an instance cover exactly its pixels: polygons, one for each part,
    which share a ``group_id``; or one shape of type ``mask`` if it has holes. Each shape also has its ``score``.

    A file that was made or corrected by hand is never overwritten: it is left, with a warning. To predict it anew,
    delete it.
    """

    FILE_NAME = "labelme"

    def __init__(self, path: AnyPath, *, tolerance: float = 0, copy_images: bool = False) -> None:
        """Prepare; nothing is written yet.

        Args:
            path: the folder, made when needed.
            tolerance: simplify polygons, so that there are fewer points to move, by up to this many pixels.
            copy_images: put a copy of each image beside its JSON, so that the folder is a data set of its own;
                without, `maskline convert` needs a folder that holds both.

        Raises:
            ParameterError, OutputError: the folder can't be one, or can't be written to; tolerance is negative.
        """
        super().__init__(path)
        if not 0 <= tolerance < np.inf:
            raise ParameterError(f"tolerance is {tolerance}: expected a number of pixels from 0 on")
        check_folder(f"{self.path}/")
        self.tolerance, self.copy_images = tolerance, copy_images
        self._kept = 0

    @classmethod
    def open(cls, folder: AnyPath, *, tolerance: float = 0) -> Self:
        """A writer to this format's own place in a folder, with copies of the images."""
        return cls(Path(folder) / cls.FILE_NAME, tolerance=tolerance, copy_images=True)

    def _add(self, result: Result) -> None:
        path = result.file_in(self.path, ".json")
        own = self._own_image(result, path)
        if not _is_free(path, own):
            level = logging.INFO if self._kept else logging.WARNING
            what = result["input_path"] or "an array"
            logger.log(level, "%s was edited, or is not from maskline: it is left, and %s not written", path, what)
            self._kept += 1
            return
        self._write(path, Path(result["input_path"]) if own is None else own, result)
        if own is not None:
            replace_file(own, lambda file: _save_image(result, file))

    def _own_image(self, result: Result, path: Path) -> Path | None:
        """The image to make beside a JSON file; None where LabelMe is to show the input itself."""
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
    """A polygon with fewer points, by Douglas and Peucker (1973); unchanged if fewer than 3 would be left.

    Args:
        points: ``[x, y]`` in pixels, the first not repeated.
        tolerance: pixels that the outline may move; 0 changes nothing.
    """
    if not tolerance:
        return points
    fewer = cv2.approxPolyDP(np.asarray(points, np.float32)[:, None], tolerance, closed=True)[:, 0]
    return [[float(x), float(y)] for x, y in fewer.tolist()] if len(fewer) >= 3 else points


def _is_image(result: Result) -> bool:
    """Whether the input is a file that LabelMe can show: no page, frame or array."""
    return result["input_path"] is not None and result["page_index"] is None


def _save_image(result: Result, file: Path) -> None:
    if _is_image(result):
        shutil.copyfile(result["input_path"], file)
    else:
        _, data = cv2.imencode(".png", result["input_img"])
        file.write_bytes(data.tobytes())


def _is_free(path: Path, image: Path | None) -> bool:
    """Whether a JSON file, and an image beside it, may be written: not there, or just as a prediction left them."""
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
