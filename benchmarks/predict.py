"""Time and memory of each stage of prediction, compared with the naive method of computing masks.

    python benchmarks/predict.py --model-dir output/model [--image 640x480 ...] [--rounds 5] [--json FILE]

The first table covers a photo from file to JSON and image, and the peak memory of this process so far. Detections
depend on the weights; the threshold is 0.05, so that there is something to write.

Decode, preprocess and network are measured on an enlarged real photo with the given model. For masks, detections of
typical size are generated (ellipses, sides log-uniform from 4 % to 60 % of the image), because a model's own depend on
its weights; ``--own-masks`` uses the model's. The naive method resizes the masks of all 100 rows to the image with
OpenCV, one byte per pixel (PaddleX uses four), and then applies the score threshold. For masks over their boxes (Mask
R-CNN), `paste.py` defines the naive method, which is PaddleX's, and measures its memory outside NumPy.

Both methods alternate in turns of three in one process; the tables show medians. Memory is the peak that Python and
NumPy allocate during a stage, measured in a separate run.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from timing import KEPT, ROWS, SIZES, name, paired, table

import maskline
from maskline.inputs import read_image
from maskline.instances import ByteArray, Instances, pixel_window
from maskline.outputs.result import Result
from maskline.preprocess import Frame
from maskline.runtime.device import Device
from maskline.runtime.graph import Graph, Raw
from maskline.runtime.mask_layout import MaskLayout
from maskline.runtime.postprocess import to_instances

PHOTO = Path(maskline.__file__).with_name("assets") / "fruit.jpg"
LOW = 0.05  # a threshold with detections above it
MOST_GIB = 4.0  # limit of the naive method for masks over boxes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", default="output/model")
    parser.add_argument("--image", type=size_of, nargs="+", default=SIZES, metavar="WxH", help="sizes of the photo")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--own-masks", action="store_true", help="use the model's masks instead of generated ones")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    graph = Graph(Path(options.model_dir) / "inference.onnx", Device("cpu"))
    print(f"{graph.record.model}, ONNX Runtime on CPU, median of {options.rounds} rounds, milliseconds and MiB\n")
    whole = [whole_row(graph, size, options.rounds) for size in options.image]
    print(table(whole), "\n")
    stages = [stage_row(graph, size, options.rounds) for size in options.image]
    print(table(stages), "\n")
    masks = [mask_row(graph, size, n, options) for size in options.image for n in KEPT]
    print(table(masks), "\n")
    print(f"peak memory of this whole process, including the naive method: {process_mib():.0f} MiB")
    if options.json:
        options.json.write_text(json.dumps({"whole": whole, "stages": stages, "masks": masks}, indent=1))


def whole_row(graph: Graph, size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """From a file to JSON and image."""
    preprocess = graph.record.preprocess
    thresholds = np.full(len(graph.record.labels), LOW, np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = photo(size, folder)

        def whole() -> int:
            image = read_image(path)
            pixels, frame = preprocess.apply(image)
            raw, layout = graph.run(pixels[None]).image(0), graph.record.mask_layout
            instances = to_instances(raw, frame, pixels.shape[:2], thresholds, mask_layout=layout)
            result = Result(instances, graph.record.labels, image)
            result.save_to_json(folder)
            result.save_to_img(f"{folder}/image.jpg")
            return len(instances)

        (ms,) = paired([whole], rounds)
        row: dict[str, Any] = {"image": name(size), "instances": whole(), "file to file ms": round(ms, 1)}
    return row | {"process MiB": round(process_mib())}


def stage_row(graph: Graph, size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Decode, preprocess, network, for one photo."""
    with tempfile.TemporaryDirectory() as folder:
        path = photo(size, folder)
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
    """maskline's and naive masks, and saving, for one number of kept instances."""
    preprocess = graph.record.preprocess
    layout = graph.record.mask_layout
    image = enlarged(size)
    pixels, frame = preprocess.apply(image)
    input_size = pixels.shape[:2]
    raw = graph.run(pixels[None]).image(0) if options.own_masks else drawn(input_size, layout)
    threshold = float(raw.scores[kept - 1 : kept + 1].mean()) if kept < ROWS else 0.0
    thresholds = np.full(len(graph.record.labels), threshold, np.float32)

    def ours() -> Any:
        return to_instances(raw, frame, input_size, thresholds, mask_layout=layout)

    instances = ours()
    naive = naive_way(instances, raw, frame, threshold, layout)
    our_ms, naive_ms = paired([ours, naive], options.rounds)
    result = Result(instances, graph.record.labels, image)
    with tempfile.TemporaryDirectory() as folder:
        list_ms, rle_ms, image_ms = paired(
            [
                lambda: result.save_to_json(folder),
                lambda: result.save_to_json(folder, mask_format="rle"),
                lambda: result.save_to_img(f"{folder}/image.jpg"),
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
        "naive MiB": "-" if layout.over == "box" else round(peak_mib(naive), 1),
        "JSON ms": round(list_ms, 1),
        "JSON RLE ms": round(rle_ms, 1),
        "image ms": round(image_ms, 1),
    }


def naive_way(instances: Instances, raw: Raw, frame: Frame, threshold: float, layout: MaskLayout) -> Callable[[], Any]:
    """The same masks by the naive method. Raises AssertionError if they differ."""
    if layout.over != "box":
        naive = partial(naive_masks, raw, frame, threshold, via_input=layout.via_input)
        same = equal(instances, *naive(), from_masks=layout.boxes_from_masks)
        assert same, "both methods must give the same masks (for padded inputs they don't: choose another --image)"
        return naive
    import paste  # which needs torch

    scale_y, scale_x = frame.scale
    boxes = raw.boxes * np.array([scale_x, scale_y, scale_x, scale_y], np.float32)
    scores = (raw.scores > threshold) & (raw.boxes[:, 2:] > raw.boxes[:, :2]).all(axis=1)
    kept = raw._replace(boxes=boxes, scores=scores.astype(np.float32))
    paste.different(instances, kept, frame.size)
    return lambda: paste.naive(kept, frame.size, paste.at_once(frame.size, MOST_GIB))


def drawn(input_size: tuple[int, int], layout: MaskLayout, cells: int = 160) -> Raw:
    """100 detections of typical size: ellipses with a wavy border, in boxes that contain them."""
    if layout.over == "box":
        import paste  # which needs torch

        return paste.drawn(input_size, ROWS)
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
    return Raw(boxes.astype(np.float32), scores.astype(np.float32), np.zeros(ROWS, np.int64), masks)


def naive_masks(raw: Raw, frame: Frame, threshold: float, *, via_input: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """All masks at full size, then the threshold: (kept, H, W) and the boxes."""
    height, width = frame.size
    full = np.empty((len(raw.masks), height, width), np.bool_)
    for mask, box, out in zip(raw.masks, raw.boxes, full, strict=True):
        whole = cut_in_input(mask, box, frame.resized) if via_input else mask
        np.greater(cv2.resize(whole, (width, height)), 0, out=out)
    kept = raw.scores > threshold
    scale_y, scale_x = frame.scale
    return full[kept], raw.boxes[kept] * np.array([scale_x, scale_y, scale_x, scale_y], np.float32)


def cut_in_input(mask: np.ndarray, box: np.ndarray, input_size: tuple[int, int]) -> np.ndarray:
    """A mask upsampled to the input's pixels, background outside its box: the first of two steps."""
    y, x = np.ogrid[: input_size[0], : input_size[1]]
    inside = (y >= box[1]) & (y < box[3]) & (x >= box[0]) & (x < box[2])
    return np.where(inside, cv2.resize(mask, input_size[::-1]), np.float32(-0.5))


def equal(instances: Any, full: np.ndarray, boxes: np.ndarray, *, from_masks: bool = False) -> bool:
    """Whether maskline's masks equal the naive ones, cropped to the boxes, or to their own pixels if ``from_masks``."""
    boxes = np.clip(boxes, 0, np.array(instances.size[::-1] * 2, np.float32))
    real = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    windows = [pixel_window(box, instances.size) for box in boxes[real]]
    masks = [whole[window.slices] for whole, window in zip(full[real], windows, strict=True)]
    if from_masks:
        masks = [cut_to_pixels(mask) for mask in masks if mask.any()]
    return all(np.array_equal(ours, theirs) for ours, theirs in zip(instances.masks, masks, strict=True))


def cut_to_pixels(mask: np.ndarray) -> np.ndarray:
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return mask[y : y + height, x : x + width]


def peak_mib(way: Callable[[], Any]) -> float:
    """Peak allocation during one run."""
    tracemalloc.start()
    way()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def process_mib() -> float:
    """The peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def enlarged(size: tuple[int, int]) -> ByteArray:
    """The photo in another size."""
    return np.asarray(cv2.resize(read_image(PHOTO), size[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)


def photo(size: tuple[int, int], folder: str) -> Path:
    """The same as a file."""
    path = Path(folder, "photo.jpg")
    cv2.imwrite(str(path), enlarged(size))
    return path


def size_of(text: str) -> tuple[int, int]:
    """``WIDTHxHEIGHT`` as (height, width)."""
    width, height = map(int, text.split("x"))
    return height, width


if __name__ == "__main__":
    main()
