"""The predictor: inputs in, results out, in order, one at a time or in true batches."""

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
from maskline.inputs import InputImage, OnError, expand, on_fault
from maskline.instances import ByteArray, FloatArray, Instances
from maskline.outputs.result import Result
from maskline.runtime.backend import Acceleration
from maskline.runtime.device import device_text, parse_devices
from maskline.runtime.graph import Graph
from maskline.runtime.model_dir import open_model_dir
from maskline.runtime.opening import open_graphs
from maskline.runtime.parallel import spread
from maskline.runtime.postprocess import to_instances
from maskline.runtime.thresholds import Threshold, by_class


class Predictor:
    """A model ready to predict. Made by `maskline.create_model` and `maskline.create_pipeline`.

    Attributes:
        model_name: name of the model, from its file.
        labels: class names, in the order of class indices.
        device: where it runs, such as ``cpu``, ``gpu:0`` or ``gpu:0,1``.
        backend: what runs it: a name of `maskline.runtime.backend.BACKENDS`.
        precision: what the network computes in, such as fp32.
        threshold: scores must be above it unless `predict` says otherwise.
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
            model_name: if given, the model must be this one.
            device: ``cpu``, ``gpu:0`` …; None takes the first GPU if there is one, else the CPU. With several, such as
                ``gpu:0,1`` or ``cpu,cpu``, each has a copy of the model and batches go to whichever is free.
            threshold: see `predict`; None takes the model's own.
            batch_size: images in one run of the network, unless `predict` says otherwise.
            grow_boxes: enlarge boxes to hold all of their mask, rather than cut masks at their boxes. Without effect on
                models whose masks mean something in their boxes only (PP-YOLOE-seg).
            acceleration: with what to run it, see `maskline.runtime.acceleration.choose`; None: ONNX Runtime.

        Raises:
            ModelError, DeviceError, ParameterError: see there.
        """
        self._model = open_model_dir(Path(model_dir), model_name)
        self._acceleration = Acceleration() if acceleration is None else acceleration
        self._graphs = self._open(device, self._acceleration)
        record = self._graphs[0].record
        self._others: dict[tuple[str, Acceleration], tuple[Graph, ...]] = {}  # that calls asked for
        self.model_name = record.model
        self.labels = self._model.labels or record.labels
        self.batch_size = check_count(batch_size, "batch_size")
        self.grow_boxes = grow_boxes
        self._own_threshold = record.threshold if self._model.threshold is None else self._model.threshold
        self.threshold: Threshold = self._own_threshold if threshold is None else threshold
        self._thresholds(self.threshold)  # refuse a bad value now

    @property
    def device(self) -> str:
        """Where the network runs."""
        return device_text([graph.device for graph in self._graphs])

    @property
    def backend(self) -> str:
        """What runs the network."""
        return self._graphs[0].backend

    @property
    def precision(self) -> str:
        """What the network computes in."""
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
        """Predict, lazily and in order.

        Args:
            input: path of an image, PDF file, video or folder, URL, array (H, W, 3) uint8 **BGR**, PIL image, bytes of
                a file, number of a camera, or a list (nested too) or iterator of these: what `maskline.inputs.expand`
                takes. ``x`` is its old name.
            batch_size: images in one run of the network, for this call. Results do not depend on it.
            threshold: a score in [0, 1], or a mapping from class index or name to one (other classes keep the model's
                own); an instance's score must be above it.
            device: run this call on another device. It stays open for the next such call, until `close`.
            grow_boxes: for this call.
            use_hpip: run this call on the backend that was measured to be fastest for the model, as
                `maskline.create_model` does with it. None or False: as the predictor was made. Stays open as a device.
            on_error: ``raise``; ``skip`` to leave out inputs that can't be read, with a warning; or a function, called
                with the error of each input that is left out.

        Yields:
            One `Result` for each image.

        Raises:
            ParameterError, DeviceError: at once, for a bad argument.
            InputError: when its turn comes, for an input that can't be read.
        """
        source = x if input is None else input
        if source is None:
            raise ParameterError("predict() needs an input: a path, an array, or a list of them")
        size = self.batch_size if batch_size is None else check_count(batch_size, "batch_size")
        thresholds = self._thresholds(self.threshold if threshold is None else threshold)
        on_error = on_fault(on_error)
        grow = self.grow_boxes if grow_boxes is None else grow_boxes
        if not isinstance(use_hpip, bool | None):
            raise ParameterError(f"use_hpip is {use_hpip!r}: expected True or False")
        graphs = self._graphs if device is None and not use_hpip else self._graphs_on(device, bool(use_hpip))
        return self._results(graphs, expand(source, on_error=on_error), size, thresholds, grow)

    __call__ = predict

    def detect(
        self, images: Sequence[ByteArray], thresholds: Sequence[Threshold | None] | None = None
    ) -> list[Instances]:
        """What is in some images, in one run of the network where their inputs have one size. For programs with a queue
        of their own, such as a server; several threads may call it at once.

        Args:
            images: each (H, W, 3) uint8 BGR.
            thresholds: one for each image, see `predict`; None is the predictor's own.

        Raises:
            ParameterError: a bad threshold, or not as many as images.
            ModelError: the network failed, for example for lack of memory.
        """
        given = [None] * len(images) if thresholds is None else thresholds
        if len(given) != len(images):
            raise ParameterError(
                f"{counted(len(given), 'threshold')} for {counted(len(images), 'image')}: expected one for each"
            )
        each = [self._thresholds(self.threshold if threshold is None else threshold) for threshold in given]
        return self._detect(self._graphs[0], images, each, self.grow_boxes)

    def close(self) -> None:
        """Let go of the devices and backends that calls asked for. Its own stay, and it can still be used."""
        self._others.clear()

    def _open(self, device: str | None, options: Acceleration) -> tuple[Graph, ...]:
        graphs = open_graphs(self._model.graph_path, device, options)
        self._model.check(graphs[0].record)
        return graphs

    def _graphs_on(self, device: str | None, use_hpip: bool) -> tuple[Graph, ...]:
        """The graphs of a call that asks for a device, None for the predictor's own, or for the fastest backend."""
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
            with closing(spread(_batches(images, size), graphs, detect)) as done:
                for batch, found in done:
                    for image, instances in zip(batch, found, strict=True):
                        yield Result(instances, self.labels, image.pixels, image.path, image.page)
        finally:
            if isinstance(images, Generator):
                images.close()  # a camera, a file

    def _detect(
        self, graph: Graph, images: Sequence[ByteArray], thresholds: Sequence[FloatArray], grow: bool
    ) -> list[Instances]:
        """Run a batch. Inputs of different size run apart, because padding one to the other would change its result."""
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
        """One threshold for each class; classes that a mapping leaves out have the model's own."""
        return by_class(threshold, self.labels, self._own_threshold)


def _cut(numbers: list[int], size: int) -> list[list[int]]:
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def _batches(images: Iterator[InputImage], size: int) -> Iterator[list[InputImage]]:
    """Of ``size``, fewer at the end or where an image can't be read; then that is raised."""
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
