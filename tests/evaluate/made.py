"""Made-up truth and detections, and pycocotools' own figures for them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskline.data.dataset import Annotation, Category, Dataset, ImageRecord
from maskline.evaluate.detections import ImageDetections
from maskline.instances import Instances
from maskline.masks import Window, place_rle, rle_window

SIZE = (60, 80)  # height, width
NAMES = ("cat", "dog", "rare")  # no object is rare


def disc(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (((y + 0.5) / height - 0.5) ** 2 + ((x + 0.5) / width - 0.5) ** 2 <= 0.25).astype(np.uint8)


def placed(mask: np.ndarray, top: int, left: int, size: tuple[int, int] = SIZE) -> str:
    return place_rle(mask, Window(top, top + mask.shape[0], left, left + mask.shape[1]), size)


def dataset(folder: Path, seed: int = 0, images: int = 6, *, crowds: bool = True, most: int = 9) -> Dataset:
    """Discs of two classes on grey images, some of them crowd regions; every third image is background."""
    rng = np.random.default_rng(seed)
    records, annotations = [], []
    for number in range(images):
        name = f"image{number}.png"
        if not (folder / name).exists():
            Image.new("RGB", SIZE[::-1], (90, 90, 90)).save(folder / name)
        records.append(ImageRecord(number + 1, name, SIZE[1], SIZE[0]))
        for _ in range(0 if number % 3 == 2 else rng.integers(1, most)):
            high, wide = rng.integers(4, 40, 2).tolist()
            top, left = int(rng.integers(SIZE[0] - high)), int(rng.integers(SIZE[1] - wide))
            crowd = crowds and rng.random() < 0.15
            shape = placed(disc(high, wide), top, left)
            annotations.append(Annotation(len(annotations) + 1, number + 1, int(rng.integers(2)), shape, crowd=crowd))
    return Dataset("val", folder, records, annotations, [Category(n, name) for n, name in enumerate(NAMES)])


def noisy(
    masks: Sequence[str],
    labels: Sequence[int],
    size: tuple[int, int],
    rng: np.random.Generator,
    junk: int = 4,
    classes: int = 3,
) -> ImageDetections:
    """Objects found once, twice or not at all, shifted, some of another class; and squares of nothing. Scores tie."""
    rows: list[tuple[float, int, tuple[float, ...], str]] = []

    def add(mask: np.ndarray, top: int, left: int, label: int) -> None:
        box = (left + rng.normal(), top, mask.shape[1] + abs(rng.normal()), mask.shape[0])
        rows.append((round(float(rng.random()), 1), label, box, placed(mask, top, left, size)))

    for counts, label in zip(masks, labels, strict=True):
        found = rle_window(counts, size)
        for _ in range(rng.integers(0, 3) if found else 0):
            mask, (top, _, left, _) = found
            reach = max(2, int(np.sqrt(mask.sum()) // 10))
            top, left = np.clip(
                np.add((top, left), rng.integers(-reach, reach + 1, 2)), 0, np.subtract(size, mask.shape)
            )
            add(mask, int(top), int(left), label if rng.random() < 0.8 else int(rng.integers(classes)))
    for _ in range(rng.integers(0, junk + 1)):
        top, left = rng.integers(0, np.subtract(size, 8)).tolist()
        add(np.ones((8, 8), np.uint8), top, left, int(rng.integers(classes)))
    rows.sort(key=lambda row: -row[0])
    scores, found_labels, boxes, shapes = zip(*rows, strict=True) if rows else ((), (), (), ())
    return ImageDetections(
        np.asarray(found_labels, np.int64),
        np.asarray(boxes, np.float64).reshape(-1, 4).round(3),
        np.asarray(scores, np.float64),
        tuple(shapes),
        size,
    )


def instances(
    masks: Sequence[tuple[np.ndarray, int, int]], labels: Sequence[int], scores: Sequence[float]
) -> Instances:
    """From ``(mask, top, left)`` in images of `SIZE`."""
    boxes = [(left, top, left + mask.shape[1], top + mask.shape[0]) for mask, top, left in masks]
    return Instances(
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(scores, np.float32),
        np.asarray(labels, np.int64),
        tuple(mask for mask, _, _ in masks),
        np.zeros(len(masks), np.float32),
        SIZE,
    )


def coco_file(data: Dataset) -> dict[str, Any]:
    """A made set as COCO has it; box and area are those of the mask."""
    annotations = []
    for annotation in data.annotations:
        mask, (top, bottom, left, right) = rle_window(annotation.segmentation, SIZE)
        annotations.append(
            {
                "id": annotation.id,
                "image_id": annotation.image_id,
                "category_id": annotation.category_id,
                "segmentation": {"size": list(SIZE), "counts": annotation.segmentation},
                "bbox": [left, top, right - left, bottom - top],
                "area": int(mask.sum()),
                "iscrowd": int(annotation.crowd),
            }
        )
    images = [{"id": i.id, "file_name": i.file_name, "width": i.width, "height": i.height} for i in data.images]
    categories = [{"id": c.id, "name": c.name} for c in data.categories]
    return {"images": images, "annotations": annotations, "categories": categories}


def reference(
    truth: dict[str, Any] | Path, data: Dataset, found: Mapping[Any, ImageDetections], kind: str, cap: int = 100
) -> dict[str, float | None]:
    """The figures as pycocotools computes them, under our names."""
    records = []
    for image, detections in found.items():
        rows = zip(detections.labels, detections.scores, detections.boxes, detections.masks, strict=True)
        for label, score, box, counts in rows:
            record = {"image_id": image, "category_id": data.categories[label].id, "score": float(score)}
            shape = {"size": list(detections.size), "counts": counts}
            records.append(record | ({"bbox": box.tolist()} if kind == "box" else {"segmentation": shape}))
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO(str(truth)) if isinstance(truth, Path) else COCO()
        if isinstance(truth, dict):
            gt.dataset = truth
            gt.createIndex()
        run = COCOeval(gt, gt.loadRes(records), "bbox" if kind == "box" else "segm")
        run.params.maxDets = [*(few for few in (1, 10) if few < cap), cap]
        run.evaluate()
        run.accumulate()
    precision, recall = run.eval["precision"], run.eval["recall"]  # (T, R, K, A, M), (T, K, A, M)
    figures = {"AP": precision[..., 0, -1], "AP50": precision[0, ..., 0, -1], "AP75": precision[5, ..., 0, -1]}
    figures |= {f"AP_{size}": precision[..., number + 1, -1] for number, size in enumerate("sml")}
    figures |= {f"AR{most}": recall[..., 0, number] for number, most in enumerate(run.params.maxDets)}
    figures |= {f"AR_{size}": recall[..., number + 1, -1] for number, size in enumerate("sml")}
    return {name: float(v[v > -1].mean()) if (v > -1).any() else None for name, v in figures.items()}
