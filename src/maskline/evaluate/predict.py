"""Predict the images of a data set one by one; collects ground truth and detections, without keeping images."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TypeAlias

from maskline._progress import track
from maskline._wording import counted
from maskline.data.dataset import Dataset, ImageRecord
from maskline.errors import DatasetError, InputError, ParameterError
from maskline.evaluate.classes import Classes
from maskline.evaluate.detections import ImageDetections, Truth, detections_of, truth_of
from maskline.evaluate.evaluation import Skipped
from maskline.inputs import read_image
from maskline.instances import ByteArray, Instances

Predict: TypeAlias = Callable[[ByteArray], Instances]
PredictStream: TypeAlias = Callable[[Iterator[ByteArray]], Iterable[Instances]]


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """Ground truth and detections of the readable images, in the order of the data set.

    Attributes:
        images, truths, found: of the same length.
        skipped: images that could not be used.
        foreign: number of detections of classes that the data set lacks.
        seconds: time of prediction, without reading images.
    """

    images: tuple[ImageRecord, ...]
    truths: tuple[Truth, ...]
    found: tuple[ImageDetections, ...]
    skipped: tuple[Skipped, ...]
    foreign: int
    seconds: float


def predict_dataset(predict: PredictStream, dataset: Dataset, classes: Classes) -> Predicted:
    """Predict every image.

    Raises:
        DatasetError: there are no usable images.
        ParameterError: a prediction does not have its image's size, or the number of predictions is wrong.
    """
    source = _Images(dataset)
    images, found, foreign = [], [], 0
    start = time.perf_counter()
    with closing(track(predict(iter(source)), "evaluate", len(dataset.images))) as tracked:
        for instances in tracked:
            image = source.next_given(instances)
            detections, left_out = detections_of(instances, classes)
            images.append(image)
            found.append(detections)
            foreign += left_out
    seconds = time.perf_counter() - start - source.seconds
    if source.given:
        raise ParameterError(
            f"predict returned {counted(len(images), 'result')} for {counted(len(images) + len(source.given), 'image')}"
        )
    if not images:
        reason = "".join(f": {skipped.file}: {skipped.reason}" for skipped in source.skipped[:1])
        raise DatasetError(f"none of {counted(len(dataset.images), 'image')} of {dataset.split!r} can be used{reason}")
    truths = tuple(truth_of(dataset, image, classes) for image in images)
    return Predicted(tuple(images), truths, tuple(found), tuple(source.skipped), foreign, seconds)


@dataclass(slots=True, eq=False)
class _Images:
    """Iterates over the images of a data set, reading them on demand.

    Attributes:
        given: images whose predictions are pending.
        skipped: images that could not be used.
        seconds: time of reading.
    """

    dataset: Dataset
    given: deque[ImageRecord] = field(default_factory=deque)
    skipped: list[Skipped] = field(default_factory=list)
    seconds: float = 0

    def __iter__(self) -> Iterator[ByteArray]:
        for image in self.dataset.images:
            start = time.perf_counter()
            pixels = self._read(image)
            self.seconds += time.perf_counter() - start
            if pixels is not None:
                self.given.append(image)
                yield pixels

    def next_given(self, instances: Instances) -> ImageRecord:
        """The image of the next prediction. Raises ParameterError if it does not fit."""
        if not self.given:
            raise ParameterError("predict returned more results than it got images")
        image = self.given.popleft()
        if tuple(instances.size) != image.size:
            raise ParameterError(
                f"the prediction for {image.file_name} is for {instances.size} (height, width): expected {image.size}, "
                "the size of its image"
            )
        return image

    def _read(self, image: ImageRecord) -> ByteArray | None:
        try:
            pixels = read_image(self.dataset.path(image))
        except InputError as error:
            self.skipped.append(Skipped(image.file_name, str(error)))
            return None
        if pixels.shape[:2] == image.size:
            return pixels
        height, width = pixels.shape[:2]
        what = f"it is {width} x {height}, but listed as {image.width} x {image.height}"
        self.skipped.append(Skipped(image.file_name, what))
        return None
