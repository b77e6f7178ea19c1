"""Evaluate: images in, predictions out, matched with the truth; then figures, and files to look at."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from maskline._checks import check_count, check_score
from maskline.data import reading
from maskline.data.dataset import Dataset
from maskline.data.tree import UNSPLIT
from maskline.errors import UnknownNameError
from maskline.evaluate import detections
from maskline.evaluate.classes import Classes, match_classes
from maskline.evaluate.evaluation import Evaluation
from maskline.evaluate.metrics import STANDARD_DETECTIONS, class_notes, compute_metrics
from maskline.evaluate.predict import Predict, Predicted, PredictStream, predict_dataset
from maskline.instances import ByteArray, Instances

if TYPE_CHECKING:
    from maskline.runtime.predictor import Predictor

FOLDER, REPORT = "evaluate", "report.html"
MOST_DETECTIONS = 100_000

logger = logging.getLogger("maskline")


def evaluate(
    predict: Predict,
    dataset: Dataset,
    output: Path | None = None,
    *,
    labels: Sequence[str] | None = None,
    max_detections: int = STANDARD_DETECTIONS,
    threshold: float | None = None,
    title: str = "model",
) -> Evaluation:
    """Measure any function that finds instances in an image.

    All images count, also those without objects. Images that can't be read, or are not of the size they are listed
    with, are left out with their truth, told of, and counted.

    Args:
        predict: from an image, (H, W, 3) uint8 BGR, to what is in it. It should return also what it is little sure
            of: AP needs every score.
        dataset: with its images; see `load_split`.
        output: gets ``evaluate/report.html`` and ``evaluate/detections.json``; None writes nothing.
        labels: class names of the predictions' labels; None: they are indices of the data set's categories.
        max_detections: of a class in an image: see `Evaluation`.
        threshold: of the score, at which objects and errors are counted; None takes that with the best F1.
        title: what the model is called in the report.

    Raises:
        DatasetError: there is no image, or none that can be read.
        ParameterError: the model and the data set have no class in common; a prediction does not fit its image.
        OutputError: the files can't be written.
    """
    return evaluate_stream(
        partial(map, predict),
        dataset,
        output,
        labels=labels,
        max_detections=max_detections,
        threshold=threshold,
        title=title,
    )


def evaluate_model(
    predictor: Predictor,
    dataset: Dataset,
    output: Path | None = None,
    *,
    max_detections: int = STANDARD_DETECTIONS,
    threshold: float | None = None,
    score_from: float = 0.0,
    batch_size: int | None = None,
) -> Evaluation:
    """Measure an exported model as users run it: with its preprocessing, and masks cut at their boxes if it does so.

    Args:
        predictor: as `maskline.create_model` makes it.
        dataset, output, max_detections, threshold: as in `evaluate`.
        score_from: only detections with a score above it are looked at; more than 0 is faster and lowers AP.
        batch_size: images in one run of the network; None: the predictor's own.

    Raises:
        As `evaluate`.
    """

    def predict(images: Iterator[ByteArray]) -> Iterator[Instances]:
        for result in predictor.predict(images, batch_size=batch_size, threshold=score_from):
            yield result.instances

    return evaluate_stream(
        predict,
        dataset,
        output,
        labels=predictor.labels,
        max_detections=max_detections,
        threshold=threshold,
        title=predictor.model_name,
    )


def evaluate_stream(
    predict: PredictStream,
    dataset: Dataset,
    output: Path | None = None,
    *,
    labels: Sequence[str] | None = None,
    max_detections: int = STANDARD_DETECTIONS,
    threshold: float | None = None,
    title: str = "model",
) -> Evaluation:
    """Measure a function that takes images one after the other and gives their instances in the same order.

    So it may take several at a time to predict them in a batch; it must give as many as it takes.

    Args:
        predict: from an iterator of images to one of instances.
        dataset, output, labels, max_detections, threshold, title: as in `evaluate`.

    Raises:
        As `evaluate`.
    """
    check_count(max_detections, "max_detections", MOST_DETECTIONS)
    if threshold is not None:
        check_score(threshold)
    classes = match_classes(dataset, labels)
    for note in class_notes(classes):
        logger.warning("%s", note)
    predicted = predict_dataset(predict, dataset, classes)
    evaluation = compute_metrics(predicted, classes, max_detections, threshold)
    return evaluation if output is None else _save(evaluation, predicted, dataset, classes, output, title)


def load_split(folder: Path, split: str = "val", format_: str | None = None, images: Path | None = None) -> Dataset:
    """A split of a data set in any format that maskline reads; of one that is not divided, all of it.

    Args:
        folder, format_, images: as for `maskline.data.reading.read`.
        split: its name.

    Raises:
        DatasetError: there is no data set, or it has errors.
        UnknownNameError: it has no such split.
    """
    splits = reading.load(folder, format_, images)
    if split not in splits and list(splits) == [UNSPLIT]:
        return splits[UNSPLIT]
    if split not in splits:
        raise UnknownNameError.of(f"split of {folder}", split, splits)
    return splits[split]


def _save(
    evaluation: Evaluation, predicted: Predicted, dataset: Dataset, classes: Classes, output: Path, title: str
) -> Evaluation:
    """Write the files of an evaluation; returns it with their paths, which are relative to ``output``."""
    from maskline.evaluate.report import write as write_report  # draws and renders, which few evaluations need

    found = {image.id: found for image, found in zip(predicted.images, predicted.found, strict=True)}
    categories = [dataset.categories[place].id for place in classes.first_category]
    detections.write(output / FOLDER / detections.FILE_NAME, found, categories)
    write_report(evaluation, predicted, dataset, output / FOLDER / REPORT, title=title)
    files = {"report": f"{FOLDER}/{REPORT}", "detections": f"{FOLDER}/{detections.FILE_NAME}"}
    return replace(evaluation, files=files)
