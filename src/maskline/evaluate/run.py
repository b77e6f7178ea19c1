"""Run an evaluation: predict, match with the ground truth, compute metrics, write files."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from maskline._checks import check_count, check_path, check_score
from maskline._files import AnyPath
from maskline.data import reading
from maskline.data.dataset import Dataset
from maskline.data.file_tree import UNSPLIT
from maskline.errors import UnknownNameError
from maskline.evaluate import MOST_DETECTIONS, STANDARD_DETECTIONS, detections
from maskline.evaluate.classes import Classes, match_classes
from maskline.evaluate.evaluation import Evaluation
from maskline.evaluate.metrics import class_notes, compute_metrics
from maskline.evaluate.predict import Predict, Predicted, PredictStream, predict_dataset
from maskline.instances import ByteArray, Instances

if TYPE_CHECKING:
    from maskline.runtime.predictor import Predictor

FOLDER, REPORT = "evaluate", "report.html"

logger = logging.getLogger("maskline")


def evaluate(
    predict: Predict,
    dataset: Dataset,
    output: AnyPath | None = None,
    *,
    labels: Sequence[str] | None = None,
    max_detections: int = STANDARD_DETECTIONS,
    threshold: float | None = None,
    title: str = "model",
) -> Evaluation:
    """Evaluate any function that predicts the instances of an image.

    All images count, including those without objects. Images that can't be read, or whose size differs from the record,
    are skipped with their ground truth, and reported.

    Args:
        predict: from an image, (H, W, 3) uint8 BGR, to its instances. It should return detections with low scores too,
            which AP needs.
        dataset: with its images; see `load_split`.
        output: folder for ``evaluate/report.html`` and ``evaluate/detections.json``; None writes nothing.
        labels: class names of the predictions' labels; None if they are indices of the data set's categories.
        max_detections: per class and image, see `Evaluation`.
        threshold: score above which objects and errors are counted; None selects the one with the best F1.
        title: name of the model in the report.

    Raises:
        DatasetError: there are no readable images.
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
    output: AnyPath | None = None,
    *,
    max_detections: int = STANDARD_DETECTIONS,
    threshold: float | None = None,
    score_from: float = 0.0,
    batch_size: int | None = None,
) -> Evaluation:
    """Evaluate an exported model as users run it, with its preprocessing and mask options.

    Args:
        predictor: from `maskline.create_model`.
        dataset, output, max_detections, threshold: as in `evaluate`.
        score_from: ignore detections up to this score; values above 0 are faster and lower AP.
        batch_size: images per run of the network; None for the predictor's own.

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
    output: AnyPath | None = None,
    *,
    labels: Sequence[str] | None = None,
    max_detections: int = STANDARD_DETECTIONS,
    threshold: float | None = None,
    title: str = "model",
) -> Evaluation:
    """Evaluate a function that takes an iterator of images and yields their instances in the same order.

    It may take several images ahead to predict them in a batch, and must yield one result per image.

    Args:
        predict: from an iterator of images to an iterable of instances.
        dataset, output, labels, max_detections, threshold, title: as in `evaluate`.

    Raises:
        As `evaluate`.
    """
    check_count(max_detections, "max_detections", MOST_DETECTIONS)
    folder = None if output is None else check_path(output, "output")
    if threshold is not None:
        check_score(threshold)
    classes = match_classes(dataset, labels)
    for note in class_notes(classes):
        logger.warning("%s", note)
    predicted = predict_dataset(predict, dataset, classes)
    evaluation = compute_metrics(predicted, classes, max_detections, threshold)
    return evaluation if folder is None else _save(evaluation, predicted, dataset, classes, folder, title)


def load_split(
    folder: AnyPath, split: str = "val", format_: str | None = None, images: AnyPath | None = None
) -> Dataset:
    """Load a split of a data set in any supported format; of an unsplit data set, all of it.

    Args:
        folder, format_, images: as for `maskline.data.reading.read_dataset`.
        split: its name.

    Raises:
        DatasetError: the data set does not exist or has errors.
        UnknownNameError: unknown split.
    """
    splits = reading.load_splits(folder, format_, images)
    if split not in splits and list(splits) == [UNSPLIT]:
        return splits[UNSPLIT]
    if split not in splits:
        raise UnknownNameError.of("split", split, splits, f"in {folder}")
    return splits[split]


def _save(
    evaluation: Evaluation, predicted: Predicted, dataset: Dataset, classes: Classes, output: Path, title: str
) -> Evaluation:
    """Write the files of an evaluation; returns it with their paths, relative to ``output``."""
    from maskline.evaluate.report import write_report  # imports drawing and templates, needed for files only

    found = {image.id: found for image, found in zip(predicted.images, predicted.found, strict=True)}
    categories = [dataset.categories[place].id for place in classes.first_category]
    detections.write(output / FOLDER / detections.FILE_NAME, found, categories)
    write_report(evaluation, predicted, dataset, output / FOLDER / REPORT, title=title)
    files = {"report": f"{FOLDER}/{REPORT}", "detections": f"{FOLDER}/{detections.FILE_NAME}"}
    return replace(evaluation, files=files)
