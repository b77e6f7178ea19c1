"""Evaluation during training: COCO metrics, and an image of some predictions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from maskline import catalog
from maskline._checks import check_path
from maskline._files import AnyPath, replace_file
from maskline._wording import counted
from maskline.data.dataset import Dataset
from maskline.errors import OutputError, ParameterError
from maskline.evaluate import STANDARD_DETECTIONS, Evaluation, Skipped, evaluate_stream
from maskline.evaluate.classes import match_classes
from maskline.evaluate.metrics import compute_metrics
from maskline.evaluate.predict import Predicted, predict_dataset
from maskline.instances import ByteArray, Instances
from maskline.models.deployed import Deployed
from maskline.models.families import overrides_of
from maskline.models.network import Network
from maskline.render import draw
from maskline.runtime.postprocess import to_instances
from maskline.training import devices
from maskline.weights.arrays import weights_path
from maskline.weights.load import labels_in_file, load_network

SHOWN = 6  # predictions in the image
COLUMNS = 3  # of the grid
SIDE = 480  # pixels of a grid cell
GAP = 8  # pixels
SHOWN_ABOVE = 0.3  # score threshold
LABELLED = 12  # largest number of instances drawn with labels

logger = logging.getLogger("maskline")


def validate(
    network: Network, spec: catalog.Model, dataset: Dataset, accelerator: Accelerator, image: Path
) -> tuple[dict[str, Any], tuple[Skipped, ...]]:
    """Evaluate a network in eval mode on a split, distributed over the processes.

    Args:
        image: file for the predictions on some images; a warning if it can't be written.

    Returns:
        COCO metrics, and, in the first process, the images that could not be used.
    """
    classes = match_classes(dataset)
    share = dataset.select(dataset.images[accelerator.process_index :: accelerator.num_processes])
    keep = SampleKeeper(accelerator.is_main_process, len(share.images))
    with accelerator.autocast():
        predict = partial(predict_stream, network, spec, accelerator.device)
        part = predict_dataset(lambda images: keep(images, predict), share, classes) if share.images else None
    parts = [part for part in gather_object([part]) if part is not None]
    metrics: list[Any] = [None]
    skipped: tuple[Skipped, ...] = ()
    if accelerator.is_main_process:
        evaluation = compute_metrics(join_shares(parts, dataset), classes)
        metrics, skipped = [evaluation.metrics], evaluation.skipped
        try:
            replace_file(image, partial(_draw, keep.kept, dataset.names))
        except OutputError as error:
            logger.warning("%s", error)
    broadcast_object_list(metrics)
    known = {name: value for name, value in metrics[0].items() if value is not None}
    return known | {"AP": metrics[0]["AP"] or 0.0}, skipped


def evaluate_weights(
    model: str,
    weights: AnyPath,
    dataset: Dataset,
    output: AnyPath | None = None,
    *,
    device: str | None = None,
    max_detections: int = STANDARD_DETECTIONS,
    threshold: float | None = None,
    unaligned: bool = False,
) -> Evaluation:
    """Evaluate weights as training does, without export.

    Args:
        model: name in the catalog.
        weights: ``.safetensors`` or ``.pdparams``; class names are the file's, or else the data set's, in equal number.
        unaligned: see `maskline.models.families.overrides_of`.
        dataset, output, max_detections, threshold: as for `maskline.evaluate.evaluate`.

    Raises:
        WeightsError, InputNotFoundError: the weights can't be used.
        ParameterError: their number of classes is not the data set's.
    """
    spec, kind = catalog.get(model), devices.choose(device, 1)
    weights = check_path(weights, "weights")
    network = load_network(spec.name, weights, overrides_of(spec.name, unaligned=unaligned))
    labels = labels_in_file(weights_path(weights)) or _assumed_labels(network, dataset, weights)
    where = torch.device(kind.kind, kind.numbers[0]) if kind.numbers else torch.device(kind.kind)
    predict = partial(predict_stream, network.to(where), spec, where)
    return evaluate_stream(
        predict,
        dataset,
        output,
        labels=labels,
        max_detections=max_detections,
        threshold=threshold,
        title=spec.name,
    )


def _assumed_labels(network: Network, dataset: Dataset, weights: Path) -> tuple[str, ...]:
    """Class names for weights without names."""
    number = network.num_classes
    if number == len(catalog.COCO_CLASSES) != len(dataset.names):
        return catalog.COCO_CLASSES
    if number != len(dataset.names):
        classes = counted(number, "class", "classes")
        raise ParameterError(
            f"{weights} has {classes} without names, the data set has {len(dataset.names)}: expected the same number"
        )
    logger.warning("%s has no class names: assumed to be the data set's, in its order", weights)
    return tuple(dataset.names)


def predict_stream(
    network: Network, spec: catalog.Model, device: torch.device, images: Iterator[ByteArray]
) -> Iterator[Instances]:
    """Yield the instances of each image (H, W, 3) uint8 BGR, with any score."""
    deployed = Deployed(network, spec.preprocess).to(device)
    every = np.zeros(network.num_classes, np.float32)
    for image in images:
        pixels, frame = spec.preprocess.apply(image)
        raw = deployed.run(pixels[None]).image(0)
        yield to_instances(raw, frame, pixels.shape[:2], every, mask_layout=network.mask_layout)


def join_shares(parts: Sequence[Predicted], dataset: Dataset) -> Predicted:
    """Join the shares of several processes, in the order of the data set."""
    place = {image.id: number for number, image in enumerate(dataset.images)}
    rows = [row for part in parts for row in zip(part.images, part.truths, part.found, strict=True)]
    images, truths, found = zip(*sorted(rows, key=lambda row: place[row[0].id]), strict=True)
    skipped = tuple(skipped for part in parts for skipped in part.skipped)
    foreign, seconds = sum(part.foreign for part in parts), max(part.seconds for part in parts)
    return Predicted(images, truths, found, skipped, foreign, seconds)


class SampleKeeper:
    """Keeps some images of a split, evenly spread, with their instances."""

    def __init__(self, enabled: bool, images: int) -> None:
        self.chosen = set(np.linspace(0, images - 1, min(SHOWN, images)).astype(int).tolist()) if enabled else set()
        self.kept: list[tuple[ByteArray, Instances]] = []

    def __call__(
        self, images: Iterator[ByteArray], predict: Callable[[Iterator[ByteArray]], Iterator[Instances]]
    ) -> Iterator[Instances]:
        """Yield the instances of ``predict``, which takes images one by one."""
        last: ByteArray

        def passing() -> Iterator[ByteArray]:
            nonlocal last
            for image in images:
                last = image
                yield image

        for number, instances in enumerate(predict(passing())):
            if number in self.chosen:
                self.kept.append((last, instances))
            yield instances


def _draw(shown: list[tuple[ByteArray, Instances]], names: list[str], path: Path) -> None:
    """Draw a grid of images with their instances."""
    cells = [_cell(image, instances, names) for image, instances in shown]
    empty = np.full((SIDE, SIDE, 3), 255, np.uint8)
    cells += [empty] * (-len(cells) % COLUMNS)
    cells = [np.pad(cell, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for cell in cells]
    rows = [np.concatenate(cells[i : i + COLUMNS], axis=1) for i in range(0, len(cells), COLUMNS)]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR))
    assert done
    path.write_bytes(data.tobytes())


def _cell(image: ByteArray, instances: Instances, names: list[str]) -> ByteArray:
    kept = instances[instances.scores > SHOWN_ABOVE]
    drawn = draw(image, kept, names, labels=len(kept) <= LABELLED)
    scale = SIDE / max(drawn.shape[:2])
    height, width = (max(round(side * scale), 1) for side in drawn.shape[:2])
    cell = np.full((SIDE, SIDE, 3), 255, np.uint8)
    cell[:height, :width] = cv2.resize(drawn, (width, height), interpolation=cv2.INTER_AREA)
    return cell
