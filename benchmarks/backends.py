"""Time and agreement of ONNX Runtime and OpenVINO.

    python benchmarks/backends.py [--model-dir DIR ...] [--threads 1] [--rounds 9] [--precision fp32 bf16] [--json FILE]

The embedded model is always included. Both backends run the same photo alternately in one process, so that other load
on the machine affects both; the first run after a switch is discarded. The table shows medians of the network alone, in
wall time and CPU time (which other processes disturb least), and the time to open a model.

For agreement, "unequal" is the number of rows of both graphs' outputs without an equal row on the other side, within
the tolerances of an export (`maskline.exporting.verify`). Detections above a threshold are compared as well: their
number, the number without a counterpart of the same class with a box IoU of at least 0.5, and among pairs the largest
differences of scores and boxes (pixels of the image) and the lowest mask IoU.

`FASTER_BY_OPENVINO` in `maskline.runtime.opening` lists models for which OpenVINO is faster by more than `MARGIN` in
fp32. The time of a graph does not depend on weights, except for the steps after detection: random weights are enough.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from timing import table

from maskline import hub
from maskline.exporting.verify import without_partner
from maskline.inputs import read_image
from maskline.instances import Instances
from maskline.runtime.backend import Acceleration
from maskline.runtime.device import CPU
from maskline.runtime.graph import Graph
from maskline.runtime.model_dir import open_model_dir
from maskline.runtime.postprocess import to_instances

ASSETS = hub.EMBEDDED.parent
LOW = 0.3  # lowest score of a detection
PAIR = 0.5  # IoU of the boxes of one object
MARGIN = 0.05  # minimum relative gain for a choice


@dataclass(frozen=True, slots=True)
class Opened:
    """A graph and the time to open it."""

    graph: Graph
    seconds: float


class Difference(NamedTuple):
    """Differences between detections of two backends on one photo."""

    found: int
    alone: int
    score: float
    box: float  # pixels of the image
    iou: float  # lowest mask IoU


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--precision", nargs="+", default=["fp32"], help="precisions of OpenVINO; ONNX Runtime uses fp32"
    )
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    rows = []
    for folder in (hub.EMBEDDED, *options.model_dir):
        rows += model_rows(open_model_dir(folder).graph_path, options)
        print(table(rows[-len(options.precision) :]), "\n", flush=True)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def model_rows(path: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per precision of OpenVINO."""
    plain = opened(path, Acceleration("onnxruntime", threads=options.threads))
    photo = read_image(ASSETS / ("nuclei.png" if path.parent == hub.EMBEDDED else "ski.jpg"))
    rows = []
    for precision in options.precision:
        other = opened(path, Acceleration("openvino", threads=options.threads, precision=precision))
        pixels = plain.graph.record.preprocess.apply(photo)[0]
        (ours, our_cpu), (theirs, their_cpu) = paired([plain.graph, other.graph], pixels, options.rounds)
        raws = [graph.run(pixels[None]).image(0) for graph in (plain.graph, other.graph)]
        found = difference(detected(plain.graph, photo), detected(other.graph, photo))
        rows.append(
            {
                "model": plain.graph.record.model,
                "OpenVINO in": other.graph.precision,
                "ONNX Runtime ms": round(ours),
                "OpenVINO ms": round(theirs),
                "ratio": f"{theirs / ours:.2f}",
                "CPU ms": f"{our_cpu:.0f}, {their_cpu:.0f}",
                "CPU ratio": f"{their_cpu / our_cpu:.2f}",
                "open s": f"{plain.seconds:.1f}, {other.seconds:.1f}",
                "rows, unequal": f"{len(raws[0].scores)}, {without_partner(*raws)}",
                "detections": found.found,
                "alone": found.alone,
                "score": f"{found.score:.0e}",
                "box": f"{found.box:.0e}",
                "mask IoU": f"{found.iou:.4f}",
            }
        )
    return rows


def opened(path: Path, options: Acceleration) -> Opened:
    start = time.perf_counter()
    graph = Graph(path, CPU, options)
    return Opened(graph, time.perf_counter() - start)


def paired(graphs: list[Graph], pixels: np.ndarray, rounds: int) -> list[tuple[float, float]]:
    """Median milliseconds of each, in wall time and CPU time.

    The graphs alternate in turns of two runs, of which the first is discarded.
    """
    times: list[list[tuple[float, float]]] = [[] for _ in graphs]
    for _ in range(rounds):
        for graph, own in zip(graphs, times, strict=True):
            for counts in (False, True):
                start, start_cpu = time.perf_counter(), time.process_time()
                graph.run(pixels[None])
                if counts:
                    own.append((time.perf_counter() - start, time.process_time() - start_cpu))
    return [(1000 * statistics.median(t for t, _ in own), 1000 * statistics.median(c for _, c in own)) for own in times]


def detected(graph: Graph, photo: np.ndarray) -> Instances:
    """Detections above `LOW`."""
    record = graph.record
    pixels, frame = record.preprocess.apply(photo)
    thresholds = np.full(len(record.labels), LOW, np.float32)
    size = (pixels.shape[0], pixels.shape[1])
    return to_instances(graph.run(pixels[None]).image(0), frame, size, thresholds, mask_layout=record.mask_layout)


def difference(ours: Instances, theirs: Instances) -> Difference:
    """Detections are paired best first, each with the unpaired one of the same class whose box overlaps most."""
    free = set(range(len(theirs)))
    pairs = []
    for i in range(len(ours)):
        alike = [(box_iou(ours.boxes[i], theirs.boxes[j]), j) for j in free if ours.labels[i] == theirs.labels[j]]
        overlap, j = max(alike, default=(0.0, -1))
        if overlap >= PAIR:
            free.remove(j)
            pairs.append((i, j))
    return Difference(
        found=len(ours),
        alone=len(ours) + len(theirs) - 2 * len(pairs),
        score=max((abs(float(ours.scores[i] - theirs.scores[j])) for i, j in pairs), default=0.0),
        box=max((float(np.abs(ours.boxes[i] - theirs.boxes[j]).max()) for i, j in pairs), default=0.0),
        iou=min((mask_iou(ours, i, theirs, j) for i, j in pairs), default=1.0),
    )


def box_iou(a: np.ndarray, b: np.ndarray) -> float:
    shared = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    return float(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared))


def mask_iou(ours: Instances, i: int, theirs: Instances, j: int) -> float:
    a, b = ours.full_mask(i).astype(bool), theirs.full_mask(j).astype(bool)
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


if __name__ == "__main__":
    main()
