"""What an evaluation found out, for programs, for the terminal, and for ``evaluate_result.json``."""

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
    """An image that was left out, with its truth, and why."""

    file: str
    reason: str

    def to_dict(self) -> dict[str, str]:
        """For JSON."""
        return {"file": self.file, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Counts:
    """What was looked at. Images that were skipped, and what is in them, count nowhere else.

    Attributes:
        images: looked at, with those without objects.
        background_images: of these, those without any annotation.
        instances: objects to be found, without crowd regions.
        crowd_regions: these.
        predictions: detections of classes the data set has.
        foreign_predictions: of others, left out.
        crowded_images: images with more objects of a class than ``max_detections``.
        beyond_reach: objects of these that can't be found because of it.
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
    """Seconds spent on prediction (without reading images, with the model's own pre- and postprocessing), and on
    matching and counting."""

    predict: float
    evaluate: float


@dataclass(frozen=True, slots=True)
class ClassResult:
    """One class.

    Attributes:
        metrics: AP, AP50, AP75 of masks, and bbox_AP; None where there is no object.
        instances, images: objects to be found, and in how many images.
        predictions: detections.
        best: the threshold with the best F1 for this class; None where nothing is hit.
        curve: precision by recall of masks; None where there is no object.
    """

    name: str
    metrics: Metrics
    instances: int
    images: int
    predictions: int
    best: OperatingPoint | None
    curve: Curve | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        best = dict.fromkeys(OperatingPoint.__slots__) if self.best is None else self.best.to_dict()
        counts = {"instances": self.instances, "images": self.images, "predictions": self.predictions}
        return {"name": self.name, **self.metrics, **counts, **best}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How well a model does on a data set.

    Attributes:
        metrics: COCO's figures over all classes that have objects, in [0, 1]; None where there is nothing to measure.
            Of masks: ``AP`` (mean over IoUs of 0.5 to 0.95), ``AP50``, ``AP75``, ``AP_s``, ``AP_m``, ``AP_l`` (by the
            area of the object: below 32², to 96², above, in pixels), ``AR1``, ``AR10``, ``AR100`` (recall with so many
            detections), ``AR_s``, ``AR_m``, ``AR_l``. Of boxes: the same with ``bbox_`` before.
        max_detections: of a class in an image, beyond which the weakest are not looked at. With 100, figures compare
            with all that is published on COCO's measure. Where images hold more objects than that, recall and so AP
            can't reach 1; with more detections the figures tell what a model can do, but compare only with others made
            so.
        classes: one for each name of the data set, in its order.
        best: the threshold with the best F1 over all classes together; None where nothing is hit.
        threshold: at which objects and errors were counted: ``best``'s unless asked otherwise.
        curve: mean precision by recall over classes, of masks.
        confusion: (classes + 1, classes + 1) int64 at the threshold, IoU of masks 0.5: rows are what objects are,
            columns what they were taken for; the last row is false positives, the last column missed objects.
        worst: the images with the lowest quality at the threshold, the worst first.
        skipped: images that were left out.
        notes: what a reader of the figures must know, in sentences.
        files: what was written, by what it is: paths relative to the output.
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
        """Mask AP; 0 where there is nothing to measure."""
        return self.metrics["AP"] or 0.0

    @property
    def names(self) -> list[str]:
        """Class names."""
        return [result.name for result in self.classes]

    def to_dict(self) -> dict[str, Any]:
        """For ``evaluate_result.json``; numbers that can't be told are None, cells of the confusion matrix that are 0
        are left out, and None stands for background in it."""
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
        """The figures as a text of some lines for a terminal."""
        told = [self._table(), "", *self._class_table(), self._counted(), *(f"note: {note}" for note in self.notes)]
        return "\n".join(told)

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
        told = f"images: {counts.images} ({counts.background_images} background"
        told += f", {len(self.skipped)} skipped" if self.skipped else ""
        told += f"), objects: {counts.instances}, predictions: {counts.predictions}"
        if best is None:
            return told
        return (
            f"{told}; best threshold: {best.threshold:.3f} (precision {best.precision:.3f}, recall {best.recall:.3f})"
        )


def _format_figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name)
