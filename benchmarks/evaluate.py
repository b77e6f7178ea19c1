"""Time of COCO metrics from detections in maskline and pycocotools, alternately in one process, and their difference.

    python benchmarks/evaluate.py DATASET DETECTIONS [--split val] [--copies 1 10] [--rounds 3]

DETECTIONS is an output folder of `maskline evaluate`; ``--copies`` repeats the split. Times cover matching and
accumulation for masks, but not reading and the conversion of polygons to RLE.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskline.evaluate import load_split
from maskline.evaluate.average_precision import coco_metrics
from maskline.evaluate.classes import match_classes
from maskline.evaluate.detections import ImageDetections, Truth, read, rle_objects, truth_of
from maskline.evaluate.matching import rank_detections

MOST = 100


def ours(truths: list[Truth], found: list[ImageDetections], classes: int) -> Callable[[], float]:
    """Mask AP by `maskline.evaluate`."""

    def measure() -> float:
        value = coco_metrics(rank_detections(truths, found, classes, "mask", MOST), MOST)["AP"]
        assert value is not None
        return value

    return measure


def theirs(truths: list[Truth], found: list[ImageDetections], classes: int) -> Callable[[], float]:
    """Mask AP by pycocotools."""
    truth: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    truth["categories"] = [{"id": label, "name": str(label)} for label in range(classes)]
    results: list[dict[str, Any]] = []
    for image, (t, f) in enumerate(zip(truths, found, strict=True)):
        truth["images"].append({"id": image, "height": t.size[0], "width": t.size[1]})
        for row, shape in enumerate(rle_objects(t.masks, t.size)):
            about = {"area": t.areas[row], "bbox": t.boxes[row].tolist(), "iscrowd": int(t.crowd[row])}
            about |= {"id": len(truth["annotations"]) + 1, "image_id": image, "category_id": int(t.labels[row])}
            truth["annotations"].append(about | {"segmentation": shape})
        for row, shape in enumerate(rle_objects(f.masks, f.size)):
            about = {"image_id": image, "category_id": int(f.labels[row]), "score": float(f.scores[row])}
            results.append(about | {"segmentation": shape})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        loaded = coco.loadRes(results)

    def measure() -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            run = COCOeval(coco, loaded, "segm")
            run.evaluate()
            run.accumulate()
            run.summarize()
        return float(run.stats[0])

    return measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("detections", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    dataset = load_split(arguments.data, arguments.split)
    classes = match_classes(dataset)
    truths = [truth_of(dataset, image, classes) for image in dataset.images]
    found = list(read(arguments.detections, dataset, classes).values())
    print("| images | objects | detections | maskline s | pycocotools s | times faster | AP difference |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for copies in arguments.copies:
        pair = [how(truths * copies, found * copies, len(classes.names)) for how in (ours, theirs)]
        seconds: list[list[float]] = [[], []]
        for _ in range(arguments.rounds):
            values = []
            for measure, spent in zip(pair, seconds, strict=True):
                start = time.perf_counter()
                values.append(measure())
                spent.append(time.perf_counter() - start)
        fast, slow = (statistics.median(spent) for spent in seconds)
        counts = (
            f"{len(truths) * copies} | {sum(len(t.labels) for t in truths) * copies} | {sum(map(len, found)) * copies}"
        )
        print(f"| {counts} | {fast:.2f} | {slow:.2f} | {slow / fast:.0f} | {abs(values[0] - values[1]):.1e} |")


if __name__ == "__main__":
    main()
