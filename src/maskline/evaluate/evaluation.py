"""Result of an evaluation, as an object, as a summary, and as ``evaluate_result.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from maskline.evaluate.average_precision import RECALLS, Metrics
from maskline.evaluate.curves import Curve, OperatingPoint, curves_dict
from maskline.evaluate.outcomes import MATCHED, ImageOutcome, confusions
from maskline.instances import IntArray

CLASSES_SHOWN = 20  # in the summary


@dataclass(frozen=True, slots=True)
class Skipped:
    """An image that was left out with its ground truth, and the reason."""

    file: str
    reason: str

    def to_dict(self) -> dict[str, str]:
        """Return JSON-serializable values."""
        return {"file": self.file, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts without skipped images.

    Attributes:
        images: evaluated images, including those without objects.
        background_images: images without annotations.
        instances: objects, without crowd regions.
        crowd_regions: crowd regions.
        predictions: detections of classes in the data set.
        foreign_predictions: detections of other classes, left out.
        crowded_images: images with more objects of a class than ``max_detections``.
        beyond_reach: objects that can't be found because of that.
    """

    images: int
    background_images: int
    instances: int
    crowd_regions: int
    predictions: int
    foreign_predictions: int
    crowded_images: int
    beyond_reach: int


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds spent on prediction (with pre- and postprocessing, without reading images) and on evaluation."""

    predict: float
    evaluate: float


@dataclass(frozen=True, slots=True)
class ClassResult:
    """Results of one class.

    Attributes:
        metrics: AP, AP50 and AP75 of masks, and bbox_AP; None without objects.
        instances, images: number of objects, and of images with them.
        predictions: number of detections.
        best: the threshold with the best F1 for this class; None without true positives.
        curve: precision by recall, of masks; None without objects.
    """

    name: str
    metrics: Metrics
    instances: int
    images: int
    predictions: int
    best: OperatingPoint | None
    curve: Curve | None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-serializable values."""
        best = dict.fromkeys(OperatingPoint.__slots__) if self.best is None else self.best.to_dict()
        counts = {"instances": self.instances, "images": self.images, "predictions": self.predictions}
        return {"name": self.name, **self.metrics, **counts, **best}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Results of a model on a data set.

    Attributes:
        metrics: COCO's metrics over all classes with objects, in [0, 1]; None if not measurable. For masks: ``AP``
            (mean over IoU thresholds from 0.5 to 0.95), ``AP50``, ``AP75``, ``AP_s``, ``AP_m``, ``AP_l`` (by object
            area in pixels: below 32², up to 96², above), ``AR1``, ``AR10``, ``AR100`` (with at most this number of
            detections), ``AR_s``, ``AR_m``, ``AR_l``. For boxes: the same with the prefix ``bbox_``.
        max_detections: per class and image; lower scores are ignored. With 100, results are comparable with published
            ones. If images have more objects, recall and so AP can't reach 1; with more detections, results show what a
            model can do, but are comparable only at the same limit.
        classes: one for each class of the data set, in order.
        best: the threshold with the best F1 over all classes together; None without true positives.
        threshold: for counting objects and errors; that of ``best`` unless given.
        curve: mean precision by recall over classes, of masks.
        confusion: (classes + 1, classes + 1) int64 at the threshold, with mask IoU of at least 0.5: rows are true
            classes, columns predicted ones; the last row is false positives, the last column missed objects.
        worst: the images with the lowest quality at the threshold, worst first.
        skipped: images that were left out.
        notes: caveats of the results, in sentences.
        files: files written, by kind: paths relative to the output.
    """

    metrics: Metrics
    max_detections: int
    classes: tuple[ClassResult, ...]
    counts: Counts
    best: OperatingPoint | None
    threshold: float
    curve: Curve | None
    confusion: IntArray
    worst: tuple[ImageOutcome, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    speed: Speed
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def ap(self) -> float:
        """Mask AP; 0 if not measurable."""
        return self.metrics["AP"] or 0.0

    @property
    def names(self) -> list[str]:
        """Class names."""
        return [result.name for result in self.classes]

    def to_dict(self) -> dict[str, Any]:
        """For ``evaluate_result.json``; unmeasurable values are None.

        The confusion matrix lists nonzero cells only, with None for background.
        """
        return {
            "metrics": self.metrics,
            "max_detections": self.max_detections,
            "counts": {name: getattr(self.counts, name) for name in Counts.__slots__},
            "best_threshold": None if self.best is None else self.best.to_dict(),
            "speed": self._speed(),
            "notes": list(self.notes),
            "files": dict(self.files),
            "skipped_images": [skipped.to_dict() for skipped in self.skipped],
            "classes": [result.to_dict() for result in self.classes],
            "confusion": {
                "threshold": self.threshold,
                "iou": MATCHED,
                "cells": list(confusions(self.confusion, self.names)),
            },
            "worst_images": [outcome.to_dict() for outcome in self.worst],
            "curves": {
                "recall": RECALLS.round(2).tolist(),
                "mean": curves_dict(self.curve),
                "classes": {result.name: curves_dict(result.curve) for result in self.classes},
            },
        }

    def summary(self) -> str:
        """A summary for a terminal, of several lines."""
        lines = [self._table(), "", *self._class_table(), self._counted(), *(f"note: {note}" for note in self.notes)]
        return "\n".join(lines)

    def _speed(self) -> dict[str, float | None]:
        rate = self.counts.images / self.speed.predict if self.speed.predict > 0 else None
        return {
            "predict_seconds": self.speed.predict,
            "images_per_second": rate,
            "evaluate_seconds": self.speed.evaluate,
        }

    def _table(self) -> str:
        names = [name for name in self.metrics if not name.startswith("bbox_")]
        width = [max(6, len(name)) for name in names]
        lines = [["", *(name.rjust(w) for name, w in zip(names, width, strict=True))]]
        for title, prefix in (("masks", ""), ("boxes", "bbox_")):
            values = (
                _format_figure(self.metrics[prefix + name]).rjust(w) for name, w in zip(names, width, strict=True)
            )
            lines.append([title, *values])
        return "\n".join(" ".join([line[0].ljust(5), *line[1:]]) for line in lines)

    def _class_table(self) -> list[str]:
        """The weakest classes, if there are several."""
        if len(self.classes) < 2:
            return []
        known = [result for result in self.classes if result.metrics["AP"] is not None]
        weakest = sorted(known, key=lambda result: (result.metrics["AP"] or 0, result.name))[:CLASSES_SHOWN]
        wide = max([5, *(len(_printable(result.name)) for result in weakest)])
        lines = [f"{'class':{wide}}     AP   AP50  objects  predictions"]
        for result in weakest:
            values = f"{_format_figure(result.metrics['AP']):>6} {_format_figure(result.metrics['AP50']):>6}"
            lines.append(f"{_printable(result.name):{wide}} {values} {result.instances:8} {result.predictions:12}")
        more = len(self.classes) - len(weakest)
        return [*lines, *([f"and {more} more with a higher AP or without objects"] if more else []), ""]

    def _counted(self) -> str:
        counts, best = self.counts, self.best
        text = f"images: {counts.images} ({counts.background_images} background"
        text += f", {len(self.skipped)} skipped" if self.skipped else ""
        text += f"), objects: {counts.instances}, predictions: {counts.predictions}"
        if best is None:
            return text
        return (
            f"{text}; best threshold: {best.threshold:.3f} (precision {best.precision:.3f}, recall {best.recall:.3f})"
        )


def _format_figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name)
