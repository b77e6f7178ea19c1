"""Truth and detections in the terms of COCO's measure, and the file that keeps detections.

Masks are compressed run lengths over the whole image (`maskline.masks`): no array of an image's size is built or kept.
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
from pycocotools import mask as coco

from maskline._files import read_json, replace_file
from maskline.data.dataset import Annotation, Dataset, Id, ImageRecord
from maskline.data.shapes import to_rle
from maskline.errors import InputError, InputNotFoundError, ParameterError
from maskline.evaluate.classes import Classes
from maskline.instances import Instances, IntArray
from maskline.masks import rle_runs

Floats: TypeAlias = npt.NDArray[np.float64]

FILE_NAME = "detections.json"
AT_ONCE = 255  # masks: pycocotools 2.0.11 can't tell the areas of more at once with NumPy 2
BOX_DECIMALS = 3  # a thousandth of a pixel


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The objects of one image.

    Attributes:
        labels: (G,) int64, class.
        boxes: (G, 4) float64, ``x y width height`` in pixels: as the file states them, else those of the masks.
        areas: (G,) float64, in pixels: as the file states them, else those of the masks.
        crowd: (G,) bool: a region of many objects, which counts neither for nor against.
        masks: G run lengths over the image.
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
    """What was found in one image, best first.

    Attributes:
        labels: (D,) int64, class.
        boxes: (D, 4) float64, ``x y width height`` in pixels, to a thousandth.
        scores: (D,) float64, falling.
        masks: D run lengths over the image.
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
        """Those with a score above a threshold."""
        return self.select(np.flatnonzero(self.scores > threshold))

    def select(self, kept: IntArray) -> ImageDetections:
        """Some of them, by their places."""
        masks = tuple(self.masks[place] for place in kept.tolist())
        return ImageDetections(self.labels[kept], self.boxes[kept], self.scores[kept], masks, self.size)


def rle_objects(masks: Sequence[str], size: tuple[int, int]) -> list[dict[str, Any]]:
    """Run lengths as pycocotools wants them."""
    return [{"size": list(size), "counts": counts} for counts in masks]


def mask_areas(masks: Sequence[str], size: tuple[int, int]) -> Floats:
    """(N,) float64, pixels of each mask."""
    parts = (masks[start : start + AT_ONCE] for start in range(0, len(masks), AT_ONCE))
    return np.concatenate([np.zeros(0), *(coco.area(rle_objects(part, size)) for part in parts)])


def truth_of(dataset: Dataset, image: ImageRecord, classes: Classes) -> Truth:
    """The objects of an image, in the order of the file. Masks without pixels stay: they are missed."""
    annotations = dataset.of(image)
    masks = tuple(to_rle(annotation.segmentation, image.size) for annotation in annotations)
    boxes, areas = _stated(annotations, masks, image.size)
    labels = [int(classes.categories[dataset.labels[annotation.category_id]]) for annotation in annotations]
    crowd = np.asarray([annotation.crowd for annotation in annotations], np.bool_)
    return Truth(np.asarray(labels, np.int64), boxes, areas, crowd, masks, image.size)


def _stated(annotations: Sequence[Annotation], masks: Sequence[str], size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Boxes and areas as COCO's own code takes them: the file's word, else that of the mask."""
    boxes = coco.toBbox(rle_objects(masks, size)).reshape(-1, 4).tolist() if masks else []
    areas = mask_areas(masks, size).tolist()
    for place, annotation in enumerate(annotations):
        boxes[place] = boxes[place] if annotation.box is None else annotation.box
        areas[place] = areas[place] if annotation.area is None else annotation.area
    return np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(areas, np.float64)


def detections_of(instances: Instances, classes: Classes) -> tuple[ImageDetections, int]:
    """A prediction in the classes of the data set, and how many instances are of other classes and left out.

    Raises:
        ParameterError: a label is not one of the model's, or a score is not a number.
    """
    labels = np.asarray(instances.labels, np.int64)
    wrong = labels[(labels < 0) | (labels >= len(classes.labels))]
    if len(wrong):
        raise ParameterError(f"a prediction has the label {wrong[0]}: expected 0 to {len(classes.labels) - 1}, a class")
    if not np.isfinite(instances.scores).all():
        raise ParameterError("a prediction has a score that is not a number: the network's output is NaN or infinite")
    own = classes.labels[labels]
    best_first = np.argsort(-instances.scores, kind="stable")
    kept = best_first[own[best_first] >= 0]
    x1, y1, x2, y2 = instances.boxes[kept].astype(np.float64).T
    found = ImageDetections(
        own[kept],
        np.stack([x1, y1, x2 - x1, y2 - y1], axis=1).round(BOX_DECIMALS),
        instances.scores[kept].astype("U").astype(np.float64),  # 0.9, where widening would give 0.8999999761581421
        tuple(map(instances.rle, kept.tolist())),
        instances.size,
    )
    return found, len(labels) - len(kept)


def nothing(size: tuple[int, int]) -> ImageDetections:
    """No detections in an image of ``(height, width)``."""
    return ImageDetections(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0), (), size)


# ---- the file


def write(path: Path, detections: Mapping[Id, ImageDetections], category_ids: Sequence[Id]) -> Path:
    """Write detections in COCO's results format, which other tools read too.

    Mind that COCO's own code takes an object's area from ``bbox`` where a result has one, also for masks, and so gives
    other figures for small, medium and large masks than ours, which go by the mask as those of others do.

    Args:
        detections: by image.
        category_ids: of each class.

    Raises:
        OutputError: it can't be written.
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
    """Read detections made on a data set, from the file or from the folder of an evaluation.

    Returns:
        By image, of all images of the data set.

    Raises:
        InputNotFoundError: there is no such file.
        InputError: it is not COCO's results format with masks, or speaks of images or categories that the set lacks.
    """
    path = find(path)
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"{path} is not readable JSON ({reason})") from None
    if not isinstance(content, list):
        raise InputError(f"{path} holds no list: expected COCO's results format, as `maskline evaluate` writes it")
    rows: dict[Id, list[_Row]] = {image.id: [] for image in dataset.images}
    for number, record in enumerate(content):
        try:
            image, row = _row(record, dataset, classes)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{path}: record {number} can't be used: {_reason(error)}") from None
        rows[image].append(row)
    return {image.id: _of_rows(rows[image.id], image.size) for image in dataset.images}


def find(path: Path) -> Path:
    """The file of detections that a path stands for: itself, or within the folder of an evaluation.

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
        raise ValueError(f"the data set has no image with the id {image!r}; was it another split?")
    if category not in dataset.labels:
        raise ValueError(f"the data set has no category with the id {category!r}")
    size, counts, score = dataset.by_id[image].size, shape["counts"], float(record["score"])
    if tuple(shape["size"]) != size or not isinstance(counts, str):
        raise ValueError(f"its mask is of {shape['size']}: expected compressed run lengths of {list(size)}")
    rle_runs(counts, size)  # raises ParameterError for what pycocotools would read as it pleases
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
