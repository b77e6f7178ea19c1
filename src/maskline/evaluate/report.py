"""Write the report on an evaluation: a self-contained HTML file with metrics, curves and the worst images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from maskline import __version__
from maskline._files import replace_file
from maskline._templates import template
from maskline.data.dataset import Dataset
from maskline.evaluate.average_precision import detections_counted
from maskline.evaluate.curves import SHOWN, Curve
from maskline.evaluate.detections import ImageDetections, Truth
from maskline.evaluate.drawings import COLOURS, DrawnImage, draw_both
from maskline.evaluate.evaluation import ClassResult, Evaluation
from maskline.evaluate.outcomes import ImageOutcome, Matches, Verdict, match_detections, verdicts
from maskline.evaluate.predict import Predicted

IMAGES_SHOWN = 12
MAX_NAMES = 6  # in a line of an image
TABLE_CLASSES = 12  # most classes of a confusion matrix with numbers
MATRIX_CLASSES = 150  # most classes of a confusion matrix
CONFUSIONS_SHOWN = 20
CLASSES_SHOWN = 100  # rows; the rest is collapsed
SKIPPED_SHOWN = 20

#: Texts of the legend.
LEGEND: dict[Verdict, str] = {
    "found": "found",
    "poor": "found, but with a poor mask (IoU below 0.75)",
    "confused": "predicted as another class",
    "missed": "missed",
    "false": "false positive",
    "crowd": "crowd region, not counted",
}
#: Headings of the classes concerned.
HEADS: dict[Verdict, str] = {
    "missed": "missed",
    "false": "false positives",
    "confused": "predicted as another class",
    "poor": "poor masks",
}


@dataclass(frozen=True, slots=True)
class WorstImage:
    """One of the worst images."""

    outcome: ImageOutcome
    truth: DrawnImage
    found: DrawnImage
    words: tuple[tuple[Verdict, str], ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the confusion matrix: ``share`` is relative to its row, ``place`` is its column."""

    row: str
    column: str
    place: int
    count: int
    share: float
    right: bool


def write_report(evaluation: Evaluation, predicted: Predicted, dataset: Dataset, path: Path, *, title: str) -> None:
    """Write the report.

    Args:
        predicted: the evaluated predictions; the worst images are read again.
        path: the HTML file; its folder is created if missing.
        title: name of the model.

    Raises:
        OutputError: the file can't be written.
    """
    known = sorted((result for result in evaluation.classes if result.curve is not None), key=_weakest_first)
    text = template("maskline.evaluate", "report.html", {"figure": _figure, "score": _score}).render(
        title=title,
        split=dataset.split,
        source=dataset.source.name,
        date=datetime.now().astimezone(),
        version=__version__,
        evaluation=evaluation,
        counts=evaluation.counts,
        classes=evaluation.classes,
        known=known,
        unknown=[result for result in evaluation.classes if result.curve is None],
        meanings=_meanings(evaluation.max_detections),
        classes_shown=CLASSES_SHOWN,
        lines=_lines(evaluation.curve),
        sparks={result.name: _polyline(result.curve, "0.50", 100, 32) for result in known},
        cells=_cells(evaluation),
        table_classes=TABLE_CLASSES,
        matrix_classes=MATRIX_CLASSES,
        confusions=_confusions(evaluation),
        bad=list(_worst(evaluation, predicted, dataset)),
        legend=LEGEND,
        heads=HEADS,
        colours=COLOURS,
        skipped_shown=SKIPPED_SHOWN,
    )
    replace_file(
        path, lambda file: file.write_bytes(text.encode("utf-8", "replace"))
    )  # JSON can contain lone surrogates


def _figure(value: float | None) -> str:
    """Format a metric in percent."""
    return "–" if value is None else f"{100 * value:.1f}"


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _weakest_first(result: ClassResult) -> tuple[float, str]:
    return result.metrics["AP"] or 0, result.name


def _meanings(max_detections: int) -> list[str]:
    """Descriptions of the metrics, in the order of `maskline.evaluate.average_precision.coco_metrics`."""
    sizes = ("small objects", "medium objects", "large objects")
    found = (f"recall, {most} per image" for most in detections_counted(max_detections))
    return ["", "at an IoU of 0.5", "at an IoU of 0.75", *sizes, *found, *(f"recall, {size}" for size in sizes)]


# ---- curves


def _lines(curve: Curve | None) -> dict[str, str]:
    """The mean curves as points in an SVG of 400 x 260, by IoU."""
    return {} if curve is None else {iou: _polyline(curve, iou, 400, 260) or "" for iou in SHOWN}


def _polyline(curve: Curve | None, iou: str, width: int, height: int) -> str | None:
    """Points in an SVG: recall to the right, precision upwards."""
    if curve is None:
        return None
    values = np.asarray(curve[iou])
    across = np.linspace(0, width, len(values))
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, height * (1 - values), strict=True))


# ---- confusion


def _cells(evaluation: Evaluation) -> list[list[Cell]]:
    """The confusion matrix by rows, with background last, without the undefined last cell."""
    names, matrix = [*evaluation.names, "background"], evaluation.confusion
    totals = np.maximum(matrix.sum(axis=1), 1)
    return [
        [
            Cell(row, column, x, int(matrix[y, x]), float(matrix[y, x] / totals[y]), x == y)
            for x, column in enumerate(names)
            if (y, x) != (len(names) - 1, len(names) - 1)
        ]
        for y, row in enumerate(names)
    ]


def _confusions(evaluation: Evaluation) -> list[Cell]:
    """Pairs of confused classes, most frequent first."""
    inner = [cell for row in _cells(evaluation)[:-1] for cell in row[:-1] if cell.count and not cell.right]
    return sorted(inner, key=lambda cell: -cell.count)[:CONFUSIONS_SHOWN]


# ---- images


def _worst(evaluation: Evaluation, predicted: Predicted, dataset: Dataset) -> Iterator[WorstImage]:
    places = {image.id: place for place, image in enumerate(predicted.images)}
    for outcome in evaluation.worst[:IMAGES_SHOWN]:
        place = places[outcome.image_id]
        image, truth = predicted.images[place], predicted.truths[place]
        found = predicted.found[place].above(evaluation.threshold)
        pairs = match_detections(truth, found)
        theirs, ours = verdicts(truth, found, pairs)
        images = draw_both(
            str(dataset.path(image)),
            image.size,
            list(zip(truth.masks, theirs, strict=True)),
            list(zip(found.masks, ours, strict=True)),
        )
        if images is not None:
            yield WorstImage(outcome, *images, tuple(_words(truth, found, pairs, evaluation.names)))


def _words(truth: Truth, found: ImageDetections, pairs: Matches, names: Sequence[str]) -> Iterator[tuple[Verdict, str]]:
    """Errors of an image by kind, with the classes concerned."""
    theirs, ours = verdicts(truth, found, pairs)
    labels: dict[Verdict, list[str]] = {verdict: [] for verdict in HEADS}
    for verdict, label in zip(theirs, truth.labels.tolist(), strict=True):
        if verdict in ("missed", "poor"):
            labels[verdict].append(names[label])
    for verdict, label, partner in zip(ours, found.labels.tolist(), pairs.objects.tolist(), strict=True):
        if verdict == "false":
            labels[verdict].append(names[label])
        elif verdict == "confused":
            labels[verdict].append(f"{names[truth.labels[partner]]} as {names[label]}")
    for verdict, some in labels.items():
        if some:
            yield verdict, _counted(some)


def _counted(names: Sequence[str]) -> str:
    """Count names: ``3 × dog, 1 × cat``, most frequent first."""
    counts = Counter(names).most_common()
    text = ", ".join(f"{count} × {name}" for name, count in counts[:MAX_NAMES])
    more = sum(count for _, count in counts[MAX_NAMES:])
    return f"{text} and {more} more" if more else text
