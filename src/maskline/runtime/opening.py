"""From what users ask for to opened graphs: which devices, which backend, and what if they can't be had."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from maskline._cpu import bound_cores, cores
from maskline.errors import MasklineError
from maskline.runtime import providers
from maskline.runtime.backend import BACKENDS, GRAPH_FILES, Acceleration, module_of, unfit
from maskline.runtime.device import CPU, Device, available, device_text, may_fall_back, parse_devices
from maskline.runtime.graph import Graph, backend_for

#: Models that OpenVINO runs faster than ONNX Runtime on the CPU, in fp32, by more than a twentieth: what
#: `benchmarks/backends.py` measured, on one machine. The others were slower, equal, or not measured.
FASTER_BY_OPENVINO = ("PP-YOLOE_seg-S", "SOLOv2", "MaskRCNN-ResNet50-FPN", "MaskRCNN-ResNet101-FPN")

SOME_GRAPH = Path(GRAPH_FILES["onnx"])  # of a model that is not there yet

logger = logging.getLogger("maskline")


def open_graphs(path: Path, device: str | None, options: Acceleration) -> tuple[Graph, ...]:
    """One graph for each device, see `settle`.

    Raises:
        DeviceError: a device can't be used.
        ModelError, ParameterError, MissingDependencyError: see `Graph`.
    """
    graphs = _open_each(path, settle(device, options, path), options)
    logger.info("%s", told(graphs))
    return graphs


def settle(device: str | None, options: Acceleration, path: Path = SOME_GRAPH) -> tuple[Device, ...]:
    """The devices to run on, all of them there. Opens no graph: to be asked before anything slow is done.

    The CPU stands in, with a warning, for a device that is not there if ``options`` allow it, or if none was named.

    Args:
        device: as `parse_devices` takes it; None: what ``options`` name, else the first GPU, else the CPU.
        path: the graph's file; its form may say which backend is asked.

    Raises:
        DeviceError: a device can't be used.
        ParameterError: ``device`` is not of that form.
    """
    text = options.device if device is None else device
    devices = (_default(path, options),) if text is None else parse_devices(text)
    may = text is None or may_fall_back(options.cpu_fallback)
    return available(devices, partial(_problem, path, options), cpu_fallback=may)


def _problem(path: Path, options: Acceleration, device: Device) -> str | None:
    """What is wrong with a device, as the backend says that will run on it."""
    name = options.backend
    if name is not None and unfit(name, path, device, options.precision):
        if options.strict:
            return None  # the backend is what is wrong, which is told when it opens the graph
        name = None
    return module_of(name or backend_for(path, device)).problem(device)


def told(graphs: Sequence[Graph]) -> str:
    """What runs where and by what, in one line."""
    first = graphs[0]
    threads = ""
    if first.threads is not None and first.device == CPU:
        threads = f", {first.threads} thread{'s' * (first.threads > 1)}{' each' * (len(graphs) > 1)}"
    where, title = device_text([g.device for g in graphs]), BACKENDS[first.backend].title
    return f"{first.record.model} on {where} by {title} ({first.precision}{threads})"


def _default(path: Path, options: Acceleration) -> Device:
    """The first GPU, else the CPU; that also where the backend can't use the GPU."""
    device, kinds = providers.default_device(), BACKENDS[options.backend or backend_for(path, CPU)].kinds
    return CPU if device.kind not in kinds and "cpu" in kinds else device


def _open_each(path: Path, devices: Sequence[Device], options: Acceleration) -> tuple[Graph, ...]:
    copies = devices.count(CPU)
    if options.threads is None and (copies > 1 or (copies and cores() < bound_cores())):
        options = replace(options, threads=max(1, cores() // copies))
    return tuple(open_graph(path, device, options) for device in devices)


def open_graph(path: Path, device: Device, options: Acceleration) -> Graph:
    """By the backend named or the best known one; if need be and allowed, with a warning, by the default.

    Raises: as `Graph`.
    """
    if options.backend is None and options.best:
        return _open_best(path, device, options)
    try:
        graph = Graph(path, device, options)
    except MasklineError as error:
        if options.strict:
            raise
        graph = Graph(path, device, plain(options))  # a damaged file or a missing device is told by this
        logger.warning("%s; using %s in fp32", error, BACKENDS[graph.backend].title)
        return graph
    if graph.precision != options.precision:
        title = BACKENDS[graph.backend].title
        logger.warning(
            "%s computes in %s on this %s, not in %s", title, graph.precision, device.kind, options.precision
        )
    return graph


def plain(options: Acceleration) -> Acceleration:
    """Of the options those that hold for the default backend."""
    return Acceleration(device=options.device, threads=options.threads, cpu_fallback=options.cpu_fallback)


def _open_best(path: Path, device: Device, options: Acceleration) -> Graph:
    """Precision decides if it is less than fp32; else what was measured."""
    if options.precision != "fp32":
        able = [n for n, spec in BACKENDS.items() if device.kind in spec.kinds and options.precision in spec.precisions]
        return open_graph(path, device, replace(options, best=False, backend=able[0] if able else None))
    graph = Graph(path, device, plain(options))
    faster = graph.record.model in FASTER_BY_OPENVINO and device == CPU and path.suffix.lower() == ".onnx"
    if not faster or find_spec("openvino") is None:
        return graph
    return open_graph(path, device, replace(options, best=False, backend="openvino"))
