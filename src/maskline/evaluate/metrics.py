"""Compute an evaluation from ground truth and detections."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from maskline.evaluate import STANDARD_DETECTIONS
from maskline.evaluate.average_precision import Metrics, coco_metrics
from maskline.evaluate.classes import Classes, join_names, nearest
from maskline.evaluate.curves import best_threshold, class_curve, mean_curve
from maskline.evaluate.evaluation import ClassResult, Counts, Evaluation, Speed
from maskline.evaluate.matching import Ranking, rank_detections
from maskline.evaluate.outcomes import confusion_matrix, image_outcome, match_detections, worst_images
from maskline.evaluate.predict import Predicted

WORST = 20  # images
DEFAULT_THRESHOLD = 0.5  # without true positives, when no threshold is best


def compute_metrics(
    predicted: Predicted,
    classes: Classes,
    max_detections: int = STANDARD_DETECTIONS,
    threshold: float | None = None,
) -> Evaluation:
    """Evaluate predictions.

    Args:
        max_detections: per class and image, see `Evaluation`.
        threshold: score above which objects and errors are counted; None selects the one with the best F1.
    """
    start = time.perf_counter()
    number = len(classes.names)
    masks = rank_detections(predicted.truths, predicted.found, number, "mask", max_detections)
    boxes = rank_detections(predicted.truths, predicted.found, number, "box", max_detections)
    best = best_threshold(masks)
    if threshold is None:
        threshold = DEFAULT_THRESHOLD if best is None else best.threshold
    kept = [found.above(threshold) for found in predicted.found]
    pairs = [match_detections(truth, found) for truth, found in zip(predicted.truths, kept, strict=True)]
    cases = list(zip(predicted.truths, kept, pairs, strict=True))
    outcomes = [
        image_outcome(image.id, image.file_name, *case) for image, case in zip(predicted.images, cases, strict=True)
    ]
    counts = _counts(predicted, masks, max_detections)
    figures = coco_metrics(masks, max_detections)
    return Evaluation(
        metrics=figures | {f"bbox_{name}": value for name, value in coco_metrics(boxes, max_detections).items()},
        max_detections=max_detections,
        classes=tuple(map(_class_result, classes.names, masks, boxes)),
        counts=counts,
        best=best,
        threshold=threshold,
        curve=mean_curve(masks),
        confusion=confusion_matrix(cases, number),
        worst=tuple(worst_images(outcomes, WORST)),
        skipped=predicted.skipped,
        notes=(*class_notes(classes, counts.foreign_predictions), *_notes(predicted, counts, max_detections)),
        speed=Speed(predicted.seconds, time.perf_counter() - start),
    )


def class_notes(classes: Classes, foreign: int | None = None) -> Iterator[str]:
    """Notes on classes that only the model or only the data set has.

    Args:
        foreign: number of detections of classes that the data set lacks, if known.
    """
    if classes.absent:
        pairs = ((name, nearest(name, classes.foreign)) for name in classes.absent)
        hints = "".join(f"; is {near!r} meant for {name!r}?" for name, near in pairs if near is not None)
        yield f"the model does not know {join_names(classes.absent)}, so all their objects are missed{hints}"
    if classes.foreign:
        count = "" if foreign is None else f" ({foreign} of them)"
        yield f"the data set has no {join_names(classes.foreign)}: detections of these are left out{count}"


def _notes(predicted: Predicted, counts: Counts, max_detections: int) -> Iterator[str]:
    if predicted.skipped:
        first = predicted.skipped[0]
        yield f"images left out: {len(predicted.skipped)}, the first: {first.file}: {first.reason}"
    if counts.crowded_images:
        share = counts.beyond_reach / counts.instances
        yield (
            f"images with more than {max_detections} objects of a class: {counts.crowded_images}; as at most "
            f"{max_detections} detections per class and image count, {share:.1%} of all objects can't be found; "
            "more detections (max_detections) show what the model can do"
        )
    if not counts.instances:
        yield "there are no objects, so only false positives can be measured"


def _counts(predicted: Predicted, rankings: Sequence[Ranking], max_detections: int) -> Counts:
    objects = np.asarray([ranking.objects[0] for ranking in rankings], np.int64).reshape(-1, len(predicted.images))
    beyond = np.maximum(objects - max_detections, 0)
    return Counts(
        images=len(predicted.images),
        background_images=sum(not len(truth.labels) for truth in predicted.truths),
        instances=int(objects.sum()),
        crowd_regions=sum(int(truth.crowd.sum()) for truth in predicted.truths),
        predictions=sum(len(found) for found in predicted.found),
        foreign_predictions=predicted.foreign,
        crowded_images=int(beyond.any(axis=0).sum()),
        beyond_reach=int(beyond.sum()),
    )


def _class_result(name: str, masks: Ranking, boxes: Ranking) -> ClassResult:
    own = coco_metrics([masks], STANDARD_DETECTIONS)
    values: Metrics = {key: own[key] for key in ("AP", "AP50", "AP75")}
    values["bbox_AP"] = coco_metrics([boxes], STANDARD_DETECTIONS)["AP"]
    objects = masks.objects[0]
    best = best_threshold([masks])
    return ClassResult(
        name, values, int(objects.sum()), int((objects > 0).sum()), len(masks.scores), best, class_curve(masks)
    )
