"""What each stage of prediction costs, in time and memory, beside the naive way to make masks.

    python benchmarks/predict.py --model-dir output/model [--rounds 5] [--json FILE]

Decode, preprocess and network are those of a real photo, enlarged, and of the model given. For the masks, detections of
typical size are drawn (ellipses, sides log-uniform from 4 % to 60 % of the image), because a model's own depend on its
weights; with ``--own-masks`` the model's are taken. The naive way resizes the masks of all 100 rows to the image with
OpenCV, one byte a pixel (the reference takes four), and then drops what is under the score threshold.

Both ways run in turns of three, in one process; medians are shown. Memory is the peak of what Python and numpy allocate
during a stage, measured in a run of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import maskline
from maskline.inputs import read_image
from maskline.instances import pixel_window
from maskline.preprocess import Frame
from maskline.results import Result
from maskline.runtime.device import Device
from maskline.runtime.graph import Graph, Raw
from maskline.runtime.postprocess import to_instances

PHOTO = Path(maskline.__file__).with_name("assets") / "fruit.jpg"
SIZES = ((480, 640), (1080, 1920), (3000, 4000))
KEPT = (1, 10, 100)
ROWS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", default="output/model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--own-masks", action="store_true", help="take the model's masks instead of drawn ones")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    graph = Graph(Path(options.model_dir) / "inference.onnx", Device("cpu"))
    print(f"{graph.record.model}, ONNX Runtime on CPU, median of {options.rounds} rounds, milliseconds and MiB\n")
    stages = [stage_row(graph, size, options.rounds) for size in SIZES]
    print(table(stages), "\n")
    masks = [mask_row(graph, size, n, options) for size in SIZES for n in KEPT]
    print(table(masks), "\n")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of this whole process, the naive way included: {peak:.0f} MiB")
    if options.json:
        options.json.write_text(json.dumps({"stages": stages, "masks": masks}, indent=1))


def stage_row(graph: Graph, size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Decode, preprocess, network, for one photo."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        cv2.imwrite(str(path), cv2.resize(read_image(PHOTO), size[::-1], interpolation=cv2.INTER_CUBIC))
        image = read_image(path)
        pixels, _ = graph.record.preprocess.apply(image)
        batch = pixels[None]
        stages = {
            "decode": lambda: read_image(path),
            "preprocess": lambda: graph.record.preprocess.apply(image),
            "network": lambda: graph.run(batch),
        }
        times = paired(list(stages.values()), rounds)
        decode_mib = peak_mib(stages["decode"])
    row: dict[str, Any] = {"image": name(size)}
    row |= {f"{stage} ms": round(ms, 1) for stage, ms in zip(stages, times, strict=True)}
    row["decode MiB"] = round(decode_mib, 1)
    return row


def mask_row(graph: Graph, size: tuple[int, int], kept: int, options: argparse.Namespace) -> dict[str, Any]:
    """Masks ours and naive, and saving, for one number of kept instances."""
    preprocess = graph.record.preprocess
    input_size = preprocess.height, preprocess.width
    image = cv2.resize(read_image(PHOTO), size[::-1], interpolation=cv2.INTER_CUBIC)
    pixels, frame = preprocess.apply(image)
    raw = graph.run(pixels[None]).image(0) if options.own_masks else drawn(input_size)
    threshold = float(raw.scores[kept - 1 : kept + 1].mean()) if kept < ROWS else 0.0
    thresholds = np.full(len(graph.record.labels), threshold, np.float32)

    def ours() -> Any:
        return to_instances(raw, frame, input_size, thresholds)

    def naive() -> Any:
        return naive_masks(raw, frame, threshold)

    instances = ours()
    assert equal(instances, *naive()), "the two ways must give the same masks"
    our_ms, naive_ms = paired([ours, naive], options.rounds)
    result = Result(instances, graph.record.labels, image)
    with tempfile.TemporaryDirectory() as folder:
        list_ms, rle_ms, picture_ms = paired(
            [
                lambda: result.save_to_json(folder),
                lambda: result.save_to_json(folder, mask_format="rle"),
                lambda: result.save_to_img(f"{folder}/picture.jpg"),
            ],
            min(options.rounds, 3),
        )
    boxes = sum(m.size for m in instances.masks)
    return {
        "image": name(size),
        "kept": len(instances),
        "boxes, share of image": f"{boxes / (size[0] * size[1]):.2f}",
        "masks ms": round(our_ms, 2),
        "naive ms": round(naive_ms, 1),
        "times faster": round(naive_ms / our_ms, 1),
        "masks MiB": round(peak_mib(ours), 1),
        "of that kept": round(boxes / 2**20, 1),
        "naive MiB": round(peak_mib(naive), 1),
        "JSON ms": round(list_ms, 1),
        "JSON RLE ms": round(rle_ms, 1),
        "picture ms": round(picture_ms, 1),
    }


def drawn(input_size: tuple[int, int], cells: int = 160) -> Raw:
    """100 detections of typical size: ellipses with a wavy border, in boxes that hold them."""
    rng = np.random.default_rng(0)
    height, width = input_size
    sides = np.exp(rng.uniform(np.log(0.04), np.log(0.6), (ROWS, 2)))
    corner = rng.uniform(0, 1 - sides)
    boxes = np.concatenate([corner, corner + sides], axis=1) * [width, height, width, height]
    y, x = (np.mgrid[:cells, :cells] + 0.5) / cells
    masks = np.empty((ROWS, cells, cells), np.float32)
    for i in range(ROWS):
        centre, radius = corner[i] + sides[i] / 2, sides[i] / 2
        distance = np.hypot((x - centre[0]) / radius[0], (y - centre[1]) / radius[1])
        masks[i] = 8 * (1 - distance) + cv2.GaussianBlur(rng.standard_normal((cells, cells)), (0, 0), 2) * 3
    scores = np.sort(rng.uniform(0.05, 1, ROWS))[::-1]
    return Raw(boxes.astype(np.float32), scores.astype(np.float32), rng.integers(0, 3, ROWS), masks)


def naive_masks(raw: Raw, frame: Frame, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """All masks at full size, then the threshold: (kept, H, W) and the boxes."""
    height, width = frame.size
    full = np.empty((len(raw.masks), height, width), np.bool_)
    for mask, out in zip(raw.masks, full, strict=True):
        np.greater(cv2.resize(mask, (width, height)), 0, out=out)
    kept = raw.scores > threshold
    scale_y, scale_x = frame.scale
    return full[kept], raw.boxes[kept] * np.array([scale_x, scale_y, scale_x, scale_y], np.float32)


def equal(instances: Any, full: np.ndarray, boxes: np.ndarray) -> bool:
    """Whether our masks are the naive ones, cut at the boxes."""
    boxes = np.clip(boxes, 0, np.array(instances.size[::-1] * 2, np.float32))
    real = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    for mask, whole, box in zip(instances.masks, full[real], boxes[real], strict=True):
        top, bottom, left, right = pixel_window(box, instances.size)
        if not np.array_equal(mask, whole[top:bottom, left:right]):
            return False
    return True


def paired(ways: list[Callable[[], Any]], rounds: int) -> list[float]:
    """Median milliseconds of each.

    The ways take turns; in a turn one runs four times, of which the first doesn't count, because it pays for the state
    that the other way left memory in.
    """
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(max(rounds // 3, 1)):
        for way, own in zip(ways, times, strict=True):
            for i in range(4):
                start = time.perf_counter()
                way()
                if i:
                    own.append(1000 * (time.perf_counter() - start))
    return [statistics.median(own) for own in times]


def peak_mib(way: Callable[[], Any]) -> float:
    """Peak allocation during one run."""
    tracemalloc.start()
    way()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def name(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    head = list(rows[0])
    lines = [head, ["---:"] * len(head), *[[str(row[key]) for key in head] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
