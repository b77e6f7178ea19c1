"""What 8 bits cost, measured: AP where there is truth, else agreement with float32; size and time."""

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
from maskline.exporting.samples import Samples, batches, read_images
from maskline.exporting.target import COST_FILE
from maskline.instances import Instances
from maskline.runtime.device import Device
from maskline.runtime.graph import Graph
from maskline.runtime.predictor import Predictor

RUNS, TIMED_IMAGES = 5, 3
TOLERATED_LOSS = 0.02  # of mask AP, without a warning
SHARE_EXPECTED = 0.9  # of instances that both models find, without a warning
SAME = 0.5  # IoU of masks from which on two instances are one


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one model.

    Attributes:
        megabytes: size of its files, in 10⁶ bytes.
        milliseconds: for one image, the graph alone, on the processor of the machine that made the export.
        ap, ap50: of masks, as COCO has them; None without truth.
    """

    megabytes: float
    milliseconds: float
    ap: float | None = None
    ap50: float | None = None


@dataclass(frozen=True, slots=True)
class Agreement:
    """How alike the instances of two models are, at the model's own threshold, on images without need of truth.

    Attributes:
        images: how many were looked at.
        float32, int8: instances that each has found.
        shared: those that both have: same class, masks with an IoU of 0.5 or more, each used once.
        mean_iou: of the masks of these; None where there are none.
    """

    images: int
    float32: int
    int8: int
    shared: int
    mean_iou: float | None


@dataclass(frozen=True, slots=True)
class Cost:
    """Both models side by side.

    Attributes:
        calibrated_on, measured_on: images.
    """

    float32: Figures
    int8: Figures
    agreement: Agreement
    calibrated_on: int
    measured_on: int

    def to_json(self) -> str:
        """For the file beside the model."""
        return json.dumps(asdict(self), indent=2, allow_nan=False)

    @property
    def warning(self) -> str:
        """What is to be told of a model that has become much worse; empty if it has not."""
        if self.float32.ap is None and not self.agreement.float32 and not self.agreement.int8:
            return (
                f"nothing is found on {counted(self.agreement.images, 'image')} held out, in float32 either: "
                "what 8 bits cost is not known; give images with objects"
            )
        lost = (self.float32.ap or 0) - (self.int8.ap or 0)
        found = max(self.agreement.float32, self.agreement.int8)
        share = self.agreement.shared / found if found else 1.0
        if lost > TOLERATED_LOSS:
            what = f"{lost:.3f} of mask AP"
        elif share < SHARE_EXPECTED:
            what = f"{1 - share:.0%} of what is found"
        else:
            return ""
        return f"8 bits change {what}: calibrate with images like those it will be used on, or keep float32"

    def summary(self) -> str:
        """A table for a terminal."""
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
    """What an export in 8 bits has left in a model directory. Raises ModelError if it is not there."""
    try:
        values = json.loads((folder / COST_FILE).read_text(encoding="utf-8"))
        plain, small = (Figures(**values[name]) for name in ("float32", "int8"))
        same = values["agreement"]
        if "pictures" in same:  # the key until images were called so everywhere
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
    """For each graph, the median over images of the best run; in turns, so that all meet the same load."""
    graphs = [Graph(file, Device("cpu")) for file in files]
    best = []
    for images in batches(paths, graphs[0].record.preprocess):
        for graph in graphs:
            graph.run(images)  # the first of a shape is slow
        rounds = [[_seconds(graph, images) for graph in graphs] for _ in range(RUNS)]
        best.append(np.min(rounds, axis=0))
    return [1e3 * float(value) for value in np.median(best, axis=0)]


def _seconds(graph: Graph, images: npt.NDArray[Any]) -> float:
    start = time.perf_counter()
    graph.run(images)
    return time.perf_counter() - start


def agreement(a: Path, b: Path, paths: Sequence[Path]) -> Agreement:
    """Compare what two models find."""
    models = [Predictor(path, device="cpu", batch_size=1) for path in (a, b)]
    counts, ious, seen = np.zeros(2, int), [], 0
    for image in read_images(paths):
        ours, theirs = (next(iter(model.predict(image))).instances for model in models)
        counts += len(ours), len(theirs)
        ious += shared(ours, theirs)
        seen += 1
    mean = float(np.mean(ious)) if ious else None
    return Agreement(seen, int(counts[0]), int(counts[1]), len(ious), mean)


def shared(a: Instances, b: Instances) -> list[float]:
    """IoUs of the masks of instances that two results have in common, the best pairs first, each used once."""
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
