"""Opening of graphs: choice of devices and backend, and fallbacks if they are unavailable."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from maskline._cpu import bound_cores, cores
from maskline._progress import status
from maskline.errors import MasklineError
from maskline.runtime import providers
from maskline.runtime.backend import BACKENDS, GRAPH_FILES, Acceleration, module_of, unfit
from maskline.runtime.device import CPU, Device, available, device_text, may_fall_back, parse_devices
from maskline.runtime.graph import Graph, backend_for

#: Models that OpenVINO runs more than 5 % faster than ONNX Runtime on the CPU in fp32, measured by
#: `benchmarks/backends.py` on one machine. The others were slower, equal, or not measured.
FASTER_BY_OPENVINO = ("PP-YOLOE_seg-S", "SOLOv2", "MaskRCNN-ResNet50-FPN", "MaskRCNN-ResNet101-FPN")

SOME_GRAPH = Path(GRAPH_FILES["onnx"])  # stands for a model that is not exported yet

logger = logging.getLogger("maskline")


def open_graphs(path: Path, device: str | None, options: Acceleration) -> tuple[Graph, ...]:
    """Open one graph per device, see `choose_devices`.

    Raises:
        DeviceError: a device can't be used.
        ModelError, ParameterError, MissingDependencyError: see `Graph`.
    """
    devices = choose_devices(device, options, path)
    with status(f"opening {path.parent.name}/{path.name}", logging.DEBUG):
        graphs = _open_each(path, devices, options)
    logger.info("%s", describe(graphs))
    return graphs


def choose_devices(device: str | None, options: Acceleration, path: Path = SOME_GRAPH) -> tuple[Device, ...]:
    """Choose the devices to run on, all available. Opens no graph, so that it can be called before slow work.

    A missing device is replaced by the CPU, with a warning, if ``options`` allow it or if no device was named.

    Args:
        device: as in `parse_devices`; None: the device in ``options``, else the first GPU, else the CPU.
        path: the graph file, whose format may determine the backend.

    Raises:
        DeviceError: a device can't be used.
        ParameterError: ``device`` is malformed.
    """
    text = options.device if device is None else device
    devices = (_default(path, options),) if text is None else parse_devices(text)
    may = text is None or may_fall_back(options.cpu_fallback)
    return available(devices, partial(_problem, path, options), cpu_fallback=may)


def _problem(path: Path, options: Acceleration, device: Device) -> str | None:
    """What is wrong with a device, according to the backend that would use it; None if nothing."""
    name = options.backend
    if name is not None and unfit(name, path, device, options.precision):
        if options.strict:
            return None  # the problem is the backend, reported when it opens the graph
        name = None
    return module_of(name or backend_for(path, device)).problem(device)


def describe(graphs: Sequence[Graph]) -> str:
    """Model, devices, backend and precision of opened graphs, in one line."""
    first = graphs[0]
    threads = ""
    if first.threads is not None and first.device == CPU:
        threads = f", {first.threads} thread{'s' * (first.threads > 1)}{' each' * (len(graphs) > 1)}"
    where, title = device_text([g.device for g in graphs]), BACKENDS[first.backend].title
    return f"{first.record.model} on {where} by {title} ({first.precision}{threads})"


def _default(path: Path, options: Acceleration) -> Device:
    """The first GPU if there is one and the backend can use it, else the CPU."""
    device, kinds = providers.default_device(), BACKENDS[options.backend or backend_for(path, CPU)].kinds
    return CPU if device.kind not in kinds and "cpu" in kinds else device


def _open_each(path: Path, devices: Sequence[Device], options: Acceleration) -> tuple[Graph, ...]:
    copies = devices.count(CPU)
    if options.threads is None and (copies > 1 or (copies and cores() < bound_cores())):
        options = replace(options, threads=max(1, cores() // copies))
    return tuple(open_graph(path, device, options) for device in devices)


def open_graph(path: Path, device: Device, options: Acceleration) -> Graph:
    """Open a graph with the named or fastest backend; if that fails and ``options`` allow it, with the default one.

    Raises: as `Graph`.
    """
    if options.backend is None and options.best:
        return _open_best(path, device, options)
    try:
        graph = Graph(path, device, options)
    except MasklineError as error:
        if options.strict:
            raise
        graph = Graph(path, device, plain(options))  # raises for a damaged file or a missing device
        logger.warning("%s; using %s in fp32", error, BACKENDS[graph.backend].title)
        return graph
    if graph.precision != options.precision:
        title = BACKENDS[graph.backend].title
        logger.warning(
            "%s computes in %s on this %s, not in %s", title, graph.precision, device.kind, options.precision
        )
    return graph


def plain(options: Acceleration) -> Acceleration:
    """The options that apply to the default backend."""
    return Acceleration(device=options.device, threads=options.threads, cpu_fallback=options.cpu_fallback)


def _open_best(path: Path, device: Device, options: Acceleration) -> Graph:
    """Open with a backend that supports the precision if below fp32, else with the one measured to be fastest."""
    if options.precision != "fp32":
        able = [n for n, spec in BACKENDS.items() if device.kind in spec.kinds and options.precision in spec.precisions]
        return open_graph(path, device, replace(options, best=False, backend=able[0] if able else None))
    graph = Graph(path, device, plain(options))
    faster = graph.record.model in FASTER_BY_OPENVINO and device == CPU and path.suffix.lower() == ".onnx"
    if not faster or find_spec("openvino") is None:
        return graph
    return open_graph(path, device, replace(options, best=False, backend="openvino"))
