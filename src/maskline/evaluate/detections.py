"""Ground truth and detections for COCO's metrics, and the file of detections.

Masks are compressed RLE over the whole image (`maskline.masks`): no full-size arrays are created or kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from maskline._files import read_json, replace_file
from maskline.data.dataset import Annotation, Dataset, Id, ImageRecord
from maskline.data.extra import coco
from maskline.data.shapes import to_rle
from maskline.errors import InputError, InputNotFoundError, ParameterError
from maskline.evaluate.classes import Classes
from maskline.instances import Instances, IntArray
from maskline.masks import rle_runs

Floats: TypeAlias = npt.NDArray[np.float64]

FILE_NAME = "detections.json"
AT_ONCE = 255  # masks; with NumPy 2, pycocotools 2.0.11 fails to compute more areas at once
BOX_DECIMALS = 3  # a thousandth of a pixel


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """Ground truth of one image, with G objects.

    Attributes:
        labels: (G,) int64, class.
        boxes: (G, 4) float64, ``x y width height`` in pixels: as stated in the file, else those of the masks.
        areas: (G,) float64, in pixels: as stated in the file, else those of the masks.
        crowd: (G,) bool: crowd regions, which are ignored.
        masks: G compressed RLE over the image.
        size: ``(height, width)`` of the image.
    """

    labels: IntArray
    boxes: Floats
    areas: Floats
    crowd: npt.NDArray[np.bool_]
    masks: tuple[str, ...]
    size: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class ImageDetections:
    """Detections of one image, by descending score.

    Attributes:
        labels: (D,) int64, class.
        boxes: (D, 4) float64, ``x y width height`` in pixels, rounded to 1/1000.
        scores: (D,) float64, descending.
        masks: D compressed RLE over the image.
        size: ``(height, width)`` of the image.
    """

    labels: IntArray
    boxes: Floats
    scores: Floats
    masks: tuple[str, ...]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, threshold: float) -> ImageDetections:
        """The detections with a score above a threshold."""
        return self.select(np.flatnonzero(self.scores > threshold))

    def select(self, kept: IntArray) -> ImageDetections:
        """The detections with these indices."""
        masks = tuple(self.masks[place] for place in kept.tolist())
        return ImageDetections(self.labels[kept], self.boxes[kept], self.scores[kept], masks, self.size)


def rle_objects(masks: Sequence[str], size: tuple[int, int]) -> list[dict[str, Any]]:
    """RLE objects for pycocotools."""
    return [{"size": list(size), "counts": counts} for counts in masks]


def mask_areas(masks: Sequence[str], size: tuple[int, int]) -> Floats:
    """Pixels of each mask: (N,) float64."""
    parts = (masks[start : start + AT_ONCE] for start in range(0, len(masks), AT_ONCE))
    return np.concatenate([np.zeros(0), *(coco.area(rle_objects(part, size)) for part in parts)])


def truth_of(dataset: Dataset, image: ImageRecord, classes: Classes) -> Truth:
    """Ground truth of an image, in the order of the file, including empty masks, which are always missed."""
    annotations = dataset.of(image)
    masks = tuple(to_rle(annotation.segmentation, image.size) for annotation in annotations)
    boxes, areas = _stated(annotations, masks, image.size)
    labels = [int(classes.categories[dataset.labels[annotation.category_id]]) for annotation in annotations]
    crowd = np.asarray([annotation.crowd for annotation in annotations], np.bool_)
    return Truth(np.asarray(labels, np.int64), boxes, areas, crowd, masks, image.size)


def _stated(annotations: Sequence[Annotation], masks: Sequence[str], size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Boxes and areas as in COCO's own code: as stated in the file, else from the mask."""
    boxes = coco.toBbox(rle_objects(masks, size)).reshape(-1, 4).tolist() if masks else []
    areas = mask_areas(masks, size).tolist()
    for place, annotation in enumerate(annotations):
        boxes[place] = boxes[place] if annotation.box is None else annotation.box
        areas[place] = areas[place] if annotation.area is None else annotation.area
    return np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(areas, np.float64)


def detections_of(instances: Instances, classes: Classes) -> tuple[ImageDetections, int]:
    """Convert a prediction to the classes of the data set.

    Returns:
        The detections, and the number of instances of other classes, which are left out.

    Raises:
        ParameterError: a label is out of range, a score is not finite, or a mask does not fit its box.
    """
    labels = np.asarray(instances.labels, np.int64)
    wrong = labels[(labels < 0) | (labels >= len(classes.labels))]
    if len(wrong):
        raise ParameterError(
            f"a prediction has the label {wrong[0]}: expected a class from 0 to {len(classes.labels) - 1}"
        )
    if not np.isfinite(instances.scores).all():
        raise ParameterError("a prediction has a score that is not a number: the network's output is NaN or infinite")
    own = classes.labels[labels]
    best_first = np.argsort(-instances.scores, kind="stable")
    kept = best_first[own[best_first] >= 0]
    x1, y1, x2, y2 = instances.boxes[kept].astype(np.float64).T
    found = ImageDetections(
        own[kept],
        np.stack([x1, y1, x2 - x1, y2 - y1], axis=1).round(BOX_DECIMALS),
        instances.scores[kept].astype("U").astype(np.float64),  # 0.9, not 0.8999999761581421
        tuple(map(instances.rle, kept.tolist())),
        instances.size,
    )
    return found, len(labels) - len(kept)


def no_detections(size: tuple[int, int]) -> ImageDetections:
    """No detections in an image of ``(height, width)``."""
    return ImageDetections(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0), (), size)


# ---- the file


def write(path: Path, detections: Mapping[Id, ImageDetections], category_ids: Sequence[Id]) -> Path:
    """Write detections in COCO's results format.

    Note that COCO's own code takes a detection's area from ``bbox``, if present, even for masks, so its metrics for
    small, medium and large masks differ from ours, which use the mask.

    Args:
        detections: by image id.
        category_ids: of each class.

    Raises:
        OutputError: the file can't be written.
    """
    records = (record for image, found in detections.items() for record in _records(image, found, category_ids))
    text = "[\n" + ",\n".join(json.dumps(record, separators=(",", ":")) for record in records) + "\n]\n"
    return replace_file(path, lambda file: file.write_text(text, encoding="ascii"))


def _records(image: Id, found: ImageDetections, category_ids: Sequence[Id]) -> list[dict[str, Any]]:
    return [
        {
            "image_id": image,
            "category_id": category_ids[label],
            "score": score,
            "bbox": box,
            "segmentation": {"size": list(found.size), "counts": counts},
        }
        for label, score, box, counts in zip(
            found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), found.masks, strict=True
        )
    ]


def read(path: Path, dataset: Dataset, classes: Classes) -> dict[Id, ImageDetections]:
    """Read detections for a data set, from a file or from the folder of an evaluation.

    Returns:
        Detections of all images of the data set, by image id.

    Raises:
        InputNotFoundError: the file does not exist.
        InputError: it is not COCO's results format with masks, or has unknown images or categories.
    """
    path = find_detections(path)
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"{path} is not readable JSON ({reason})") from None
    if not isinstance(content, list):
        raise InputError(f"{path} is not a list: expected COCO's results format, as `maskline evaluate` writes it")
    rows: dict[Id, list[_Row]] = {image.id: [] for image in dataset.images}
    for number, record in enumerate(content):
        try:
            image, row = _row(record, dataset, classes)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{path}: record {number} can't be used: {_reason(error)}") from None
        rows[image].append(row)
    return {image.id: _of_rows(rows[image.id], image.size) for image in dataset.images}


def find_detections(path: Path) -> Path:
    """Find the file of detections: the path itself, or inside the folder of an evaluation.

    Raises InputNotFoundError.
    """
    for candidate in (path, path / FILE_NAME, path / "evaluate" / FILE_NAME):
        if candidate.is_file():
            return candidate
    raise InputNotFoundError(f"{path} has no {FILE_NAME}: expected that file, or the folder of `maskline evaluate`")


_Row: TypeAlias = tuple[int, tuple[float, ...], float, str]  # class, box, score, mask


def _row(record: Any, dataset: Dataset, classes: Classes) -> tuple[Id, _Row]:
    image, category, shape = record["image_id"], record["category_id"], record["segmentation"]
    if image not in dataset.by_id:
        raise ValueError(f"the data set has no image with the id {image!r}; is it from another split?")
    if category not in dataset.labels:
        raise ValueError(f"the data set has no category with the id {category!r}")
    size, counts, score = dataset.by_id[image].size, shape["counts"], float(record["score"])
    if tuple(shape["size"]) != size or not isinstance(counts, str):
        raise ValueError(f"its mask has the size {shape['size']}: expected compressed RLE of {list(size)}")
    rle_runs(counts, size)  # raises ParameterError for input that pycocotools would misread
    if not math.isfinite(score):
        raise ValueError(f"its score is {score}")
    box = record.get("bbox") or coco.toBbox(rle_objects([counts], size))[0].tolist()
    if len(box) != 4 or not all(math.isfinite(float(value)) for value in box):
        raise ValueError(f"its box is {box!r}: expected x, y, width and height")
    return image, (int(classes.categories[dataset.labels[category]]), tuple(map(float, box)), score, counts)


def _reason(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)


def _of_rows(rows: Sequence[_Row], size: tuple[int, int]) -> ImageDetections:
    rows = sorted(rows, key=lambda row: -row[2])
    labels, boxes, scores, masks = zip(*rows, strict=True) if rows else ((), (), (), ())
    return ImageDetections(
        np.asarray(labels, np.int64),
        np.asarray(boxes, np.float64).reshape(-1, 4),
        np.asarray(scores, np.float64),
        masks,
        size,
    )
