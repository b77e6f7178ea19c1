"""OpenVINO backend, for ``.onnx`` files and OpenVINO IR (``.xml`` with weights in ``.bin``)."""

from __future__ import annotations

import queue
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from maskline.errors import DeviceError, MissingDependencyError, ModelError
from maskline.runtime.backend import Acceleration, RunError, cache_folder, first_line
from maskline.runtime.device import CPU, Device, missing

if TYPE_CHECKING:
    import openvino

TELEMETRY = "openvino_telemetry"
PRECISIONS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}  # our names: OpenVINO's names


def open_file(path: Path, device: Device, options: Acceleration) -> OpenVino:
    """See `maskline.runtime.backend.BackendModule`."""
    return OpenVino(path, device, options)


class OpenVino:
    """See `Backend`."""

    def __init__(self, path: Path, device: Device, options: Acceleration) -> None:
        """Raises: ModelError: a damaged file. DeviceError: no such device. MissingDependencyError: no OpenVINO."""
        library()  # so that a missing library is reported before a missing device
        if device != CPU and (found := problem(device)):
            raise DeviceError(found)
        core, target = _core(), "CPU" if device == CPU else f"GPU.{device.index}"
        try:
            model = core.read_model(path)
            self._compiled = core.compile_model(model, target, _settings(path, device, options))
        except RuntimeError as error:
            raise ModelError(
                f"{path} can't be opened by OpenVINO ({first_line(error)}): download or export the model again"
            ) from None
        self.metadata = metadata(model)
        self.names = (
            tuple(i.get_any_name() for i in self._compiled.inputs),
            tuple(o.get_any_name() for o in self._compiled.outputs),
        )
        real = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.precision = next((ours for ours, theirs in PRECISIONS.items() if theirs == real), real)
        self._idle: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()

    @property
    def batch(self) -> int | None:
        size = self._compiled.inputs[0].get_partial_shape()[0]
        return size.get_length() if size.is_static else None

    def run(self, *inputs: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        request = self._request()
        try:
            found = request.infer(list(inputs), share_inputs=True)  # a copy has to fit the last buffer
        except RuntimeError as error:
            raise RunError(first_line(error)) from None
        self._idle.put(request)
        return list(found.to_tuple())

    def _request(self) -> openvino.InferRequest:
        """A request not in use by another thread: each holds the memory for one run."""
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return self._compiled.create_infer_request()


def library() -> ModuleType:
    """Import OpenVINO without its telemetry.

    The import alone sends an event to Google Analytics and stores a client id in the user's home, unless the package
    ``openvino-telemetry``, a dependency, is missing. So we hide that package during the import, and import OpenVINO
    nowhere else.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
    """
    hidden = TELEMETRY not in sys.modules
    if hidden:
        sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # importing it fails
    try:
        return import_module("openvino")
    except ImportError:
        raise MissingDependencyError("OpenVINO is not installed: pip install 'maskline[openvino]'") from None
    finally:
        if hidden:
            del sys.modules[TELEMETRY]


@lru_cache(maxsize=1)
def _core() -> openvino.Core:
    """One core per process: the CPU plugin of a core gives its thread an alternate signal stack and frees it at the
    end; with several cores, a freed stack may remain in place, and the next signal kills the process.
    """
    core: openvino.Core = library().Core()
    return core


def metadata(model: openvino.Model) -> dict[str, str]:
    """Metadata of a model: strings in the ``rt_info`` of an ``.xml``, or the metadata_props of an ``.onnx``.

    An exporter writes the record with ``model.set_rt_info(record.to_json(), [RECORD_KEY])``.
    """
    info = dict(model.get_rt_info().items())
    imported = info.pop("framework", {})  # metadata of the source format
    texts = {**imported, **info} if isinstance(imported, Mapping) else info
    return {key: value.astype(str) for key, value in texts.items() if not isinstance(value, Mapping)}


def problem(device: Device) -> str | None:
    """Why OpenVINO can't use a device, and what to do; None if it can, or if it is not installed (reported later)."""
    try:
        there = [_device(name) for name in _core().available_devices]
    except ImportError:
        return None
    if device in there:
        return None
    return missing(device, "OpenVINO", [str(one) for one in there if one], "is its driver installed? see docs/gpu.md")


def _device(name: str) -> Device | None:
    """Device from OpenVINO's name; None for unsupported kinds."""
    kind, _, number = name.partition(".")
    if kind == "GPU":
        return Device("xpu", int(number or 0))
    return CPU if kind == "CPU" else None


def _settings(path: Path, device: Device, options: Acceleration) -> dict[str, Any]:
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": PRECISIONS[options.precision]}  # default may be bf16
    if device.kind == "cpu" and options.threads is not None:
        # With pinning, the threads of two copies would share one core.
        settings |= {"INFERENCE_NUM_THREADS": options.threads, "ENABLE_CPU_PINNING": False}
    cache = cache_folder(path, options, by_default=device.kind != "cpu")
    if cache is not None:
        settings["CACHE_DIR"] = str(cache)
    return settings
