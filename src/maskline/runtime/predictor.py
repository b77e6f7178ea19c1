"""`Predictor`: from inputs to results, in order, with optional batching."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from maskline._checks import check_count
from maskline._wording import counted
from maskline.errors import MasklineError, ParameterError
from maskline.inputs import InputImage, OnError, error_handler, iter_images
from maskline.instances import ByteArray, FloatArray, Instances
from maskline.outputs.result import Result
from maskline.runtime.backend import Acceleration
from maskline.runtime.device import device_text, parse_devices
from maskline.runtime.graph import Graph
from maskline.runtime.model_dir import open_model_dir
from maskline.runtime.opening import open_graphs
from maskline.runtime.parallel import map_ordered
from maskline.runtime.postprocess import to_instances
from maskline.runtime.thresholds import Threshold, thresholds_by_class


class Predictor:
    """A model ready for prediction. Created by `maskline.create_model` and `maskline.create_pipeline`.

    >>> import maskline
    >>> model = maskline.create_model()
    >>> model.labels
    ('nucleus',)
    >>> (result,) = model.predict("photo.jpg", threshold=0.3)  # doctest: +SKIP
    >>> result.instances.boxes.shape  # doctest: +SKIP
    (7, 4)

    Attributes:
        model_name: name of the model, from its file.
        labels: class names, by class index.
        device: such as ``cpu``, ``gpu:0`` or ``gpu:0,1``.
        backend: a name of `maskline.runtime.backend.BACKENDS`.
        precision: compute precision, such as fp32.
        threshold: default score threshold of `predict`.
    """

    def __init__(
        self,
        model_dir: str | Path,
        *,
        model_name: str | None = None,
        device: str | None = None,
        threshold: Threshold | None = None,
        batch_size: int = 1,
        grow_boxes: bool = False,
        acceleration: Acceleration | None = None,
    ) -> None:
        """Open an exported model.

        Args:
            model_dir: folder with ``inference.onnx`` (or ``.ort``, ``.xml``) and ``inference.yml``, or the file itself.
            model_name: expected name of the model; None: any.
            device: ``cpu``, ``gpu:0`` …; None: the first GPU, else the CPU. With several, such as ``gpu:0,1`` or
                ``cpu,cpu``, each gets a copy of the model, and batches go to the first idle one.
            threshold: default of `predict`; None: the model's own.
            batch_size: default of `predict`.
            grow_boxes: enlarge boxes to contain their whole mask, rather than cut masks at their boxes. No effect on
                models whose masks are defined within their boxes only (PP-YOLOE-seg).
            acceleration: see `maskline.runtime.acceleration.parse_acceleration`; None: ONNX Runtime.

        Raises:
            ModelError: not an exported model, damaged, or not ``model_name``.
            DeviceError: the device is missing or can't be used.
            ParameterError: an invalid argument.
        """
        self._model = open_model_dir(Path(model_dir), model_name)
        self._acceleration = Acceleration() if acceleration is None else acceleration
        self._graphs = self._open(device, self._acceleration)
        record = self._graphs[0].record
        self._others: dict[tuple[str, Acceleration], tuple[Graph, ...]] = {}  # opened by arguments of `predict`
        self.model_name = record.model
        self.labels = self._model.labels or record.labels
        self.batch_size = check_count(batch_size, "batch_size")
        self.grow_boxes = grow_boxes
        self._own_threshold = record.threshold if self._model.threshold is None else self._model.threshold
        self.threshold: Threshold = self._own_threshold if threshold is None else threshold
        self._thresholds(self.threshold)  # reject an invalid value now

    @property
    def device(self) -> str:
        """Device or devices that the network runs on."""
        return device_text([graph.device for graph in self._graphs])

    @property
    def backend(self) -> str:
        """Backend that runs the network."""
        return self._graphs[0].backend

    @property
    def precision(self) -> str:
        """Compute precision of the network."""
        return self._graphs[0].precision

    def predict(
        self,
        input: Any = None,
        *,
        batch_size: int | None = None,
        threshold: Threshold | None = None,
        device: str | None = None,
        grow_boxes: bool | None = None,
        on_error: OnError = "raise",
        use_hpip: bool | None = None,
        x: Any = None,
    ) -> Iterator[Result]:
        """Predict lazily and in order.

        Args:
            input: path of an image, PDF file, video or folder, URL, array (H, W, 3) uint8 **BGR**, PIL image, bytes of
                a file, camera number, or a (nested) list or iterator of these; see `maskline.inputs.iter_images`.
                ``x`` is its old name.
            batch_size: images per run of the network. Results do not depend on it.
            threshold: a score in [0, 1], or a mapping from class index or name to score (other classes use the model's
                own). Instances with a score above it are returned.
            device: run on another device, which stays open for later calls until `close`.
            grow_boxes: override the predictor's setting.
            use_hpip: run on the backend measured to be fastest for the model, as in `maskline.create_model`; it stays
                open like a device. None or False: the predictor's own.
            on_error: ``raise``; ``skip`` to skip inputs that can't be read, with a warning; or a function called with
                the error of each skipped input.

        Yields:
            One `Result` per image.

        Raises:
            ParameterError, DeviceError: at once, for an invalid argument.
            InputError: during iteration, at an input that can't be read.
        """
        source = x if input is None else input
        if source is None:
            raise ParameterError("predict() needs an input: a path, an array, or a list of them")
        size = self.batch_size if batch_size is None else check_count(batch_size, "batch_size")
        thresholds = self._thresholds(self.threshold if threshold is None else threshold)
        on_error = error_handler(on_error)
        grow = self.grow_boxes if grow_boxes is None else grow_boxes
        if not isinstance(use_hpip, bool | None):
            raise ParameterError(f"use_hpip is {use_hpip!r}: expected True or False")
        graphs = self._graphs if device is None and not use_hpip else self._graphs_on(device, bool(use_hpip))
        return self._results(graphs, iter_images(source, on_error=on_error), size, thresholds, grow)

    __call__ = predict

    def detect(
        self, images: Sequence[ByteArray], thresholds: Sequence[Threshold | None] | None = None
    ) -> list[Instances]:
        """Detect instances in a batch of images: one run of the network if their inputs have the same size.

        For programs with their own queue, such as a server. Thread-safe.

        Args:
            images: each (H, W, 3) uint8 BGR.
            thresholds: one per image, see `predict`; None: the predictor's own.

        Raises:
            ParameterError: an invalid threshold, or a number of thresholds other than that of images.
            ModelError: the network failed, for example for lack of memory.
        """
        given = [None] * len(images) if thresholds is None else thresholds
        if len(given) != len(images):
            raise ParameterError(
                f"{counted(len(given), 'threshold')} for {counted(len(images), 'image')}: expected one per image"
            )
        each = [self._thresholds(self.threshold if threshold is None else threshold) for threshold in given]
        return self._detect(self._graphs[0], images, each, self.grow_boxes)

    def close(self) -> None:
        """Release the devices and backends opened by `predict`. The predictor itself stays usable."""
        self._others.clear()

    def _open(self, device: str | None, options: Acceleration) -> tuple[Graph, ...]:
        graphs = open_graphs(self._model.graph_path, device, options)
        self._model.check(graphs[0].record)
        return graphs

    def _graphs_on(self, device: str | None, use_hpip: bool) -> tuple[Graph, ...]:
        """Graphs for the arguments of `predict`: a device (None: the predictor's own) and the fastest backend."""
        devices = parse_devices(self.device if device is None else device)
        best = replace(self._acceleration, backend=None, best=True, strict=False)
        options = best if use_hpip else self._acceleration
        if options == self._acceleration and devices == tuple(graph.device for graph in self._graphs):
            return self._graphs
        key = device_text(devices), options
        if key not in self._others:
            self._others[key] = self._open(key[0], options)
        return self._others[key]

    def _results(
        self, graphs: Sequence[Graph], images: Iterator[InputImage], size: int, thresholds: FloatArray, grow: bool
    ) -> Iterator[Result]:
        def detect(graph: Graph, batch: list[InputImage]) -> list[Instances]:
            return self._detect(graph, [image.pixels for image in batch], [thresholds] * len(batch), grow)

        try:
            with closing(map_ordered(_batches(images, size), graphs, detect)) as done:
                for batch, found in done:
                    for image, instances in zip(batch, found, strict=True):
                        yield Result(instances, self.labels, image.pixels, image.path, image.page)
        finally:
            if isinstance(images, Generator):
                images.close()  # releases a camera or a file

    def _detect(
        self, graph: Graph, images: Sequence[ByteArray], thresholds: Sequence[FloatArray], grow: bool
    ) -> list[Instances]:
        """Run a batch. Inputs of different sizes run separately, because padding would change the results."""
        prepared = [graph.record.preprocess.apply(pixels) for pixels in images]
        sizes: dict[tuple[int, ...], list[int]] = {}
        for number, (pixels, _) in enumerate(prepared):
            sizes.setdefault(pixels.shape, []).append(number)
        runs = [(s, run) for s, numbers in sizes.items() for run in _cut(numbers, graph.batch or len(numbers))]
        found = {}
        for shape, numbers in runs:
            raw = graph.run(np.stack([prepared[number][0] for number in numbers]))
            for i, number in enumerate(numbers):
                found[number] = to_instances(
                    raw.image(i),
                    prepared[number][1],
                    (shape[0], shape[1]),
                    thresholds[number],
                    grow_boxes=grow,
                    mask_layout=graph.record.mask_layout,
                )
        return [found[number] for number in range(len(images))]

    def _thresholds(self, threshold: Threshold) -> FloatArray:
        """One threshold per class; classes missing from a mapping get the model's own."""
        return thresholds_by_class(threshold, self.labels, self._own_threshold)


def _cut(numbers: list[int], size: int) -> list[list[int]]:
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def _batches(images: Iterator[InputImage], size: int) -> Iterator[list[InputImage]]:
    """Batches of ``size``, fewer at the end or before an image that can't be read, whose error follows."""
    batch: list[InputImage] = []
    try:
        for image in images:
            batch.append(image)
            if len(batch) == size:
                yield batch
                batch = []
    except MasklineError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
