"""Data sets written by maskline and read by other tools: number of instances, and of pixel-identical ones.

    python benchmarks/interoperability.py write DATASET FOLDER [--split val]
    python benchmarks/interoperability.py read FOLDER

``write`` needs maskline. It converts DATASET to every format and records what maskline reads back. ``read`` needs numpy
and one of the other tools, and prints a table with a row per format that the installed tools read. The tools can't all
be installed in one environment, so run it in several: pycocotools, supervision, datumaro (Intel's, or CVAT's fork),
labelme, fiftyone (its importers, without a database), ultralytics.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

Mask: TypeAlias = Any  # (H, W) bool
Found: TypeAlias = "Iterator[tuple[str, list[tuple[str, Mask]]]]"  # stem of each image; class and mask of its instances

FORMATS = ("coco", "yolo", "voc", "labelme", "cvat")
READERS: dict[tuple[str, str, str], Callable[[Path, str, dict[str, tuple[int, int]]], Found]] = {}


def reader(module: str, name: str, *formats: str) -> Callable[[Any], Any]:
    """Register a reader of some formats that an optional module provides."""

    def register(function: Any) -> Any:
        READERS.update({(module, name, form): function for form in formats})
        return function

    return register


# ---- maskline


def write(source: Path, folder: Path, only: str | None) -> None:
    """Convert a data set to every format; ``FORMAT.json`` has the masks that maskline reads from it."""
    from maskline._files import new_folder
    from maskline.data.categories import unify_categories
    from maskline.data.convert import writer_of
    from maskline.data.reading import read_dataset
    from maskline.data.shapes import to_rle
    from maskline.masks import rle_runs

    splits = read_dataset(source).splits
    splits = unify_categories({split: dataset for split, dataset in splits.items() if only in (None, split)})
    for form in FORMATS:
        with new_folder(folder / form) as target:
            for note in writer_of(form).write(splits, target):
                print(f"{form}: {note}")
        truth = {}
        for split, dataset in read_dataset(folder / form, form).splits.items():
            for image in dataset.images:
                masks = [
                    (
                        dataset.names[dataset.labels[a.category_id]],
                        rle_runs(to_rle(a.segmentation, image.size), image.size).tolist(),
                    )
                    for a in dataset.of(image)
                ]
                truth[f"{split}/{Path(image.file_name).stem}"] = {"size": image.size, "instances": masks}
        (folder / f"{form}.json").write_text(json.dumps(truth))


# ---- others


def coco_file(folder: Path, split: str) -> Path:
    """The annotation file of a split, with COCO's or PaddleX's name."""
    (path,) = (folder / "annotations").glob(f"instance*_{split}.json")
    return path


@reader("pycocotools", "pycocotools", "coco")
def with_pycocotools(folder: Path, split: str, _: Any) -> Found:
    from pycocotools.coco import COCO

    coco = COCO(coco_file(folder, split))
    for key, image in coco.imgs.items():
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[key]))
        found = [(coco.cats[a["category_id"]]["name"], coco.annToMask(a) != 0) for a in annotations]
        yield Path(image["file_name"]).stem, found


@reader("supervision", "supervision", "coco", "yolo", "labelme")
def with_supervision(folder: Path, split: str, sizes: dict[str, tuple[int, int]]) -> Found:
    from supervision import DetectionDataset as Dataset

    if (folder / "data.yaml").exists():
        images, labels = folder / "images" / split, folder / "labels" / split
        dataset = Dataset.from_yolo(str(images), str(labels), str(folder / "data.yaml"), force_masks=True)
    elif (folder / "label.txt").exists():
        dataset = Dataset.from_labelme(str(folder / "images"), str(folder / "annotations"), force_masks=True)
    else:
        dataset = Dataset.from_coco(str(folder / "images"), str(coco_file(folder, split)), force_masks=True)
    for path, _image, found in dataset:
        if Path(path).stem not in sizes:  # LabelMe's folder is read as a whole
            continue
        masks = [] if found.mask is None else found.mask
        yield Path(path).stem, [(dataset.classes[k], np.asarray(m)) for k, m in zip(found.class_id, masks, strict=True)]


@reader("datumaro", "datumaro", "coco", "yolo", "voc", "cvat")
def with_datumaro(folder: Path, split: str, sizes: dict[str, tuple[int, int]]) -> Found:
    from datumaro.components.annotation import AnnotationType, Mask
    from datumaro.components.dataset import Dataset

    name = {"yolo": "yolov8_segmentation", "voc": "voc_segmentation"}.get(folder.name, folder.name)
    dataset = Dataset.import_from(str(folder), name)
    dataset.transform("polygons_to_masks")
    labels = dataset.categories()[AnnotationType.label]
    for item in dataset:
        # CVAT's fork uses the file name as the subset
        if item.subset not in (split, "annotations") or Path(item.id).name not in sizes:
            continue
        groups: dict[Any, list[Any]] = {}
        for number, annotation in enumerate(item.annotations):
            if isinstance(annotation, Mask):
                groups.setdefault((annotation.label, annotation.group or f"{number}"), []).append(annotation.image != 0)
        found = [(labels[label].name, np.logical_or.reduce(parts)) for (label, _group), parts in groups.items()]
        yield Path(item.id).name, [(name, mask) for name, mask in found if name not in ("background", "ignored")]


@reader("labelme", "labelme", "labelme")
def with_labelme(folder: Path, split: str, sizes: dict[str, tuple[int, int]]) -> Found:
    from labelme._label_file import LabelFile
    from labelme.utils import shape_to_mask

    for line in (folder / f"{split}_anno_list.txt").read_text().splitlines():
        groups: dict[Any, list[Mask]] = {}
        for number, shape in enumerate(LabelFile(str(folder / line)).shapes):
            size = sizes[Path(line).stem]
            if shape["shape_type"] == "mask":
                (left, top), mask = np.asarray(shape["points"][0], int), np.zeros(size, bool)
                height, width = shape["mask"].shape
                mask[top : top + height, left : left + width] = shape["mask"]
            else:
                points = shape["points"] if isinstance(shape["points"], list) else shape["points"].tolist()
                mask = shape_to_mask(size, points, shape["shape_type"])
            group = shape["group_id"]
            groups.setdefault((shape["label"], f"#{number}" if group is None else group), []).append(mask)
        yield Path(line).stem, [(label, np.logical_or.reduce(parts)) for (label, _), parts in groups.items()]


@reader("fiftyone", "FiftyOne", "coco", "yolo", "cvat")
def with_fiftyone(folder: Path, split: str, sizes: dict[str, tuple[int, int]]) -> Found:
    from fiftyone.core.labels import Detections, Polylines
    from fiftyone.utils.coco import COCODetectionDatasetImporter
    from fiftyone.utils.cvat import CVATImageDatasetImporter
    from fiftyone.utils.yolo import YOLOv5DatasetImporter

    images = str(folder / "images")
    if folder.name == "coco":
        path = str(coco_file(folder, split))
        importer = COCODetectionDatasetImporter(data_path=images, labels_path=path, label_types="segmentations")
    elif folder.name == "yolo":
        importer = YOLOv5DatasetImporter(str(folder), str(folder / "data.yaml"), split=split, label_type="polylines")
    else:
        importer = CVATImageDatasetImporter(data_path=images, labels_path=str(folder / "annotations.xml"))
    importer.setup()
    for path, _metadata, labels in importer:
        stem = Path(path).stem
        if folder.name == "cvat" and Path(path).parent.name != split:
            continue
        height, width = sizes[stem]
        found = []
        for label in labels.values() if isinstance(labels, dict) else [labels]:
            if isinstance(label, Polylines):
                drawn = ((part.label, part.to_segmentation(frame_size=(width, height))) for part in label.polylines)
                found += [(name, segmentation.mask != 0) for name, segmentation in drawn]
            for part in label.detections if isinstance(label, Detections) else ():
                mask = np.zeros((height, width), bool)
                left, top = round(part.bounding_box[0] * width), round(part.bounding_box[1] * height)
                mask[top : top + part.mask.shape[0], left : left + part.mask.shape[1]] = part.mask
                found.append((part.label, mask))
        yield stem, found


@reader("ultralytics", "Ultralytics", "yolo")
def with_ultralytics(folder: Path, split: str, _: Any) -> Found:
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset, polygon2mask

    data = check_det_dataset(str(folder / "data.yaml"))
    dataset = YOLODataset(img_path=data[split], data=data, task="segment", augment=False)
    for label in dataset.labels:
        size, found = label["shape"], []
        for kind, ring in zip(label["cls"][:, 0], label["segments"], strict=True):
            points = (ring * np.asarray(size[::-1])).reshape(1, -1)
            found.append((data["names"][int(kind)], polygon2mask(size, points) != 0))
        yield Path(label["im_file"]).stem, found


# ---- comparison


def decode(runs: list[int], size: tuple[int, int]) -> Mask:
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size[1], size[0]).T


def overlaps(masks: list[tuple[str, Mask]], others: list[tuple[str, Mask]]) -> Iterator[tuple[float, int, int]]:
    """IoU and indices of all overlapping pairs of masks of one class."""
    boxes = [[box(mask) for _, mask in found] for found in (masks, others)]
    for i, (name, mask) in enumerate(masks):
        for j, (other_name, other) in enumerate(others):
            (top, bottom, left, right), (t, b, l, r) = boxes[0][i], boxes[1][j]  # noqa: E741
            if name == other_name and max(top, t) < min(bottom, b) and max(left, l) < min(right, r):
                window = slice(min(top, t), max(bottom, b)), slice(min(left, l), max(right, r))
                a, b = mask[window], other[window]
                yield np.count_nonzero(a & b) / np.count_nonzero(a | b), i, j


def box(mask: Mask) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) if len(rows) else (0, 0, 0, 0)


def compare(found: Iterable[tuple[str, list[tuple[str, Mask]]]], truth: dict[str, Any]) -> tuple[int, list[float]]:
    """The number of instances read, and the IoU of each true one with its match, 0 without."""
    count, scores = 0, []
    left = dict(truth)
    for stem, instances in found:
        record = left.pop(stem)
        masks = [(name, decode(runs, record["size"])) for name, runs in record["instances"]]
        count += len(instances)
        matched: dict[int, float] = {}
        taken: set[int] = set()
        for iou, i, j in sorted(overlaps(masks, instances), reverse=True):
            if i not in matched and j not in taken:
                matched[i] = iou
                taken.add(j)
        scores += [matched.get(i, 0.0) for i in range(len(masks))]
    return count, scores + [0.0] * sum(len(record["instances"]) for record in left.values())


def sizes_of(records: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {stem: tuple(record["size"]) for stem, record in records.items()}


def read(folder: Path) -> None:
    """Print a row per format and installed reader."""
    os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "true")
    logging.disable(logging.WARNING)
    print("| format | reader | read | of | identical | mean IoU |\n| --- | --- | --- | --- | --- | --- |")
    for form in FORMATS:
        for (module, name, its), function in READERS.items():
            if its != form or find_spec(module) is None:
                continue
            truth: dict[str, dict[str, Any]] = {}
            for key, record in json.loads((folder / f"{form}.json").read_text()).items():
                split, stem = key.split("/")
                truth.setdefault(split, {})[stem] = record
            try:
                found = [
                    compare(function(folder.absolute() / form, split, sizes_of(records)), records)
                    for split, records in truth.items()
                ]
            except Exception as error:  # noqa: BLE001 (each tool has its own)
                print(f"| {form} | {name} | {type(error).__name__}: {' '.join(str(error).split())[:200]} | | | |")
                continue
            count, scores = sum(number for number, _ in found), [score for _, part in found for score in part]
            identical = sum(score == 1 for score in scores)
            mean = sum(scores) / max(len(scores), 1)
            print(f"| {form} | {name} | {count} | {len(scores)} | {identical} | {mean:.4f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    writing = commands.add_parser("write", help="convert DATASET to every format")
    writing.add_argument("dataset", type=Path)
    writing.add_argument("folder", type=Path)
    writing.add_argument("--split", help="only this split")
    reading = commands.add_parser("read", help="read the written data sets with the installed tools")
    reading.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "write":
        write(arguments.dataset, arguments.folder, arguments.split)
    else:
        read(arguments.folder)
