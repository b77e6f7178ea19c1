"""OpenVINO: ``.onnx`` files and its own form, ``.xml`` with the weights in ``.bin`` beside it."""

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
PRECISIONS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}  # as we call them: as OpenVINO does


def open_file(path: Path, device: Device, options: Acceleration) -> OpenVino:
    """See `maskline.runtime.backend.BackendModule`."""
    return OpenVino(path, device, options)


class OpenVino:
    """See `Backend`."""

    def __init__(self, path: Path, device: Device, options: Acceleration) -> None:
        """Raises: ModelError: a damaged file. DeviceError: no such device. MissingDependencyError: no OpenVINO."""
        library()  # so that its absence is told before that of the device
        if device != CPU and (found := problem(device)):
            raise DeviceError(found)
        core, target = _core(), "CPU" if device == CPU else f"GPU.{device.index}"
        try:
            model = core.read_model(path)
            self._compiled = core.compile_model(model, target, _settings(path, device, options))
        except RuntimeError as error:
            raise ModelError(
                f"{path} can't be opened by OpenVINO ({first_line(error)}): fetch or export the model again"
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
            found = request.infer(list(inputs), share_inputs=True)  # copied, it would have to fit the last one's memory
        except RuntimeError as error:
            raise RunError(first_line(error)) from None
        self._idle.put(request)
        return list(found.to_tuple())

    def _request(self) -> openvino.InferRequest:
        """One that no other thread uses: each holds the memory for one run."""
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return self._compiled.create_infer_request()


def library() -> ModuleType:
    """OpenVINO, without its telemetry.

    Its import alone tells Google Analytics that it was imported, and stores a client id in the user's home, unless the
    package ``openvino-telemetry``, which comes with it, is missing. So that is out of reach during the import, and
    nothing else in this package imports OpenVINO.

    Raises:
        MissingDependencyError: it is not installed.
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
    """One for the whole process: a core's CPU plugin gives its thread an alternate stack for signals and takes it back
    when it goes; where several come and go, one stays that is freed, and the next signal ends the process.
    """
    core: openvino.Core = library().Core()
    return core


def metadata(model: openvino.Model) -> dict[str, str]:
    """What a model says about itself: texts in the ``rt_info`` of an ``.xml``, an ``.onnx``'s metadata_props.

    An exporter writes the record with ``model.set_rt_info(record.to_json(), [RECORD_KEY])``.
    """
    info = dict(model.get_rt_info().items())
    imported = info.pop("framework", {})  # where OpenVINO keeps what the format it read from had
    texts = {**imported, **info} if isinstance(imported, Mapping) else info
    return {key: value.astype(str) for key, value in texts.items() if not isinstance(value, Mapping)}


def problem(device: Device) -> str | None:
    """Why OpenVINO can't run on a device, and what to do; None if it can, or is not installed, which is told later."""
    try:
        there = [_device(name) for name in _core().available_devices]
    except ImportError:
        return None
    if device in there:
        return None
    return missing(device, "OpenVINO", [str(one) for one in there if one], "is its driver installed? see docs/gpu.md")


def _device(name: str) -> Device | None:
    """A device by OpenVINO's name for it; None for kinds that are not used."""
    kind, _, number = name.partition(".")
    if kind == "GPU":
        return Device("xpu", int(number or 0))
    return CPU if kind == "CPU" else None


def _settings(path: Path, device: Device, options: Acceleration) -> dict[str, Any]:
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": PRECISIONS[options.precision]}  # else it takes bf16
    if device.kind == "cpu" and options.threads is not None:
        # Pinned, the threads of two copies would share one core.
        settings |= {"INFERENCE_NUM_THREADS": options.threads, "ENABLE_CPU_PINNING": False}
    cache = cache_folder(path, options, by_default=device.kind != "cpu")
    if cache is not None:
        settings["CACHE_DIR"] = str(cache)
    return settings
