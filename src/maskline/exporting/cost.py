"""Cost of int8: AP if images are annotated, agreement with float32, size and time."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maskline._wording import counted
from maskline.errors import ModelError
from maskline.evaluate import evaluate_model
from maskline.evaluate.detections import rle_objects
from maskline.exporting.options import COST_FILE
from maskline.exporting.samples import Samples, batches, read_images
from maskline.instances import Instances
from maskline.runtime.device import Device
from maskline.runtime.graph import Graph
from maskline.runtime.predictor import Predictor

RUNS, TIMED_IMAGES = 5, 3
TOLERATED_LOSS = 0.02  # largest drop of mask AP without a warning
SHARE_EXPECTED = 0.9  # smallest share of instances found by both models without a warning
SAME = 0.5  # smallest mask IoU of equal instances


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of one model.

    Attributes:
        megabytes: size of its files, in 10⁶ bytes.
        milliseconds: per image, graph only, on the CPU of the exporting machine.
        ap, ap50: COCO mask AP and AP50; None without annotations.
    """

    megabytes: float
    milliseconds: float
    ap: float | None = None
    ap50: float | None = None


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of the instances of two models, at the model's own threshold; needs no annotations.

    Attributes:
        images: number of images.
        float32, int8: number of instances of each model.
        shared: number of instances in both: same class, mask IoU of at least 0.5, matched one to one.
        mean_iou: mean mask IoU of shared instances; None if there are none.
    """

    images: int
    float32: int
    int8: int
    shared: int
    mean_iou: float | None


@dataclass(frozen=True, slots=True)
class Cost:
    """Comparison of both models.

    Attributes:
        calibrated_on, measured_on: numbers of images.
    """

    float32: Figures
    int8: Figures
    agreement: Agreement
    calibrated_on: int
    measured_on: int

    def to_json(self) -> str:
        """For the file next to the model."""
        return json.dumps(asdict(self), indent=2, allow_nan=False)

    @property
    def warning(self) -> str:
        """Warning if the int8 model is much worse; else empty."""
        if self.float32.ap is None and not self.agreement.float32 and not self.agreement.int8:
            return (
                f"float32 and int8 find nothing in {counted(self.agreement.images, 'held-out image')}: "
                "the cost of int8 is unknown; give images with objects"
            )
        lost = (self.float32.ap or 0) - (self.int8.ap or 0)
        found = max(self.agreement.float32, self.agreement.int8)
        share = self.agreement.shared / found if found else 1.0
        if lost > TOLERATED_LOSS:
            what = f"{lost:.3f} of mask AP"
        elif share < SHARE_EXPECTED:
            what = f"{1 - share:.0%} of the instances"
        else:
            return ""
        return f"int8 changes {what}: calibrate with images like those the model will be used on, or keep float32"

    def summary(self) -> str:
        """A table for the terminal."""
        rows = [("", "float32", "int8", "change")]
        rows.append(_row("size, MB", self.float32.megabytes, self.int8.megabytes, 2))
        rows.append(_row("ms per image", self.float32.milliseconds, self.int8.milliseconds, 0))
        for name in ("ap", "ap50"):
            before, after = getattr(self.float32, name), getattr(self.int8, name)
            if before is not None and after is not None:
                rows.append(_row(f"mask {name.upper()}", before, after, 4))
        lines = [f"{name:14}{a:>10}{b:>10}{change:>10}" for name, a, b, change in rows]
        same = self.agreement
        quality = "" if same.mean_iou is None else f", mean IoU of their masks {same.mean_iou:.3f}"
        lines.append(
            f"on {counted(same.images, 'image')}: {counted(same.float32, 'instance')} in float32, {same.int8} in "
            f"int8, {same.shared} the same in both{quality}"
        )
        truth = f"; AP on {self.measured_on}" if self.float32.ap is not None else ""
        lines.append(f"calibrated on {counted(self.calibrated_on, 'image')}, none of those measured on{truth}")
        return "\n".join(lines)


def _row(name: str, before: float, after: float, digits: int) -> tuple[str, str, str, str]:
    return name, f"{before:.{digits}f}", f"{after:.{digits}f}", f"{after - before:+.{digits}f}"


def read(folder: Path) -> Cost:
    """Read the cost from the model directory of an int8 export. Raises ModelError if it can't be read."""
    try:
        values = json.loads((folder / COST_FILE).read_text(encoding="utf-8"))
        plain, small = (Figures(**values[name]) for name in ("float32", "int8"))
        same = values["agreement"]
        if "pictures" in same:  # the key in early versions
            same["images"] = same.pop("pictures")
        return Cost(plain, small, Agreement(**same), values["calibrated_on"], values["measured_on"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder / COST_FILE} can't be read ({error!r}): export the model again") from None


def measure(float32: Path, int8: Path, samples: Samples) -> Cost:
    """Measure two graphs of one model, image by image."""
    times = _milliseconds((float32, int8), samples.held_out[:TIMED_IMAGES])
    plain, small = (_figures(path, ms, samples) for path, ms in zip((float32, int8), times, strict=True))
    counted = len(samples.held_out) if samples.annotated is None else len(samples.annotated.images)
    return Cost(plain, small, agreement(float32, int8, samples.held_out), len(samples.calibration), counted)


def _figures(path: Path, milliseconds: float, samples: Samples) -> Figures:
    files = [path, *path.parent.glob(f"{path.stem}.bin")]
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    if samples.annotated is None:
        return Figures(megabytes, milliseconds)
    found = evaluate_model(Predictor(path, device="cpu", batch_size=1), samples.annotated).metrics
    return Figures(megabytes, milliseconds, found["AP"], found["AP50"])


def _milliseconds(files: Sequence[Path], paths: Sequence[Path]) -> list[float]:
    """Median over images of the best run, for each graph; interleaved, so that load affects all alike."""
    graphs = [Graph(file, Device("cpu")) for file in files]
    best = []
    for images in batches(paths, graphs[0].record.preprocess):
        for graph in graphs:
            graph.run(images)  # warm-up for the shape
        rounds = [[_seconds(graph, images) for graph in graphs] for _ in range(RUNS)]
        best.append(np.min(rounds, axis=0))
    return [1e3 * float(value) for value in np.median(best, axis=0)]


def _seconds(graph: Graph, images: npt.NDArray[Any]) -> float:
    start = time.perf_counter()
    graph.run(images)
    return time.perf_counter() - start


def agreement(a: Path, b: Path, paths: Sequence[Path]) -> Agreement:
    """Compare the instances of two models."""
    models = [Predictor(path, device="cpu", batch_size=1) for path in (a, b)]
    counts, ious, seen = np.zeros(2, int), [], 0
    for image in read_images(paths):
        ours, theirs = (next(iter(model.predict(image))).instances for model in models)
        counts += len(ours), len(theirs)
        ious += shared_ious(ours, theirs)
        seen += 1
    mean = float(np.mean(ious)) if ious else None
    return Agreement(seen, int(counts[0]), int(counts[1]), len(ious), mean)


def shared_ious(a: Instances, b: Instances) -> list[float]:
    """Mask IoUs of the instances that two results share, matched greedily, best first."""
    from pycocotools import mask as coco

    if not len(a) or not len(b):
        return []
    iou = coco.iou(_runs(a), _runs(b), [0] * len(b))
    iou[a.labels[:, None] != b.labels[None]] = 0
    found = []
    while iou.max() >= SAME:
        i, j = np.unravel_index(iou.argmax(), iou.shape)
        found.append(float(iou[i, j]))
        iou[i], iou[:, j] = 0, 0
    return found


def _runs(instances: Instances) -> list[dict[str, Any]]:
    return rle_objects([instances.rle(i) for i in range(len(instances))], instances.size)
