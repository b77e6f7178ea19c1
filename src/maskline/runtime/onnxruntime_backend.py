"""ONNX Runtime, with the provider that serves the device: ``.onnx`` and ``.ort`` files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from maskline._checks import environment_switch
from maskline.errors import DeviceError, ModelError
from maskline.runtime import providers
from maskline.runtime.backend import INPUT, Acceleration, RunError, Shape, cache_folder, first_line
from maskline.runtime.device import CPU, Device

#: Have threads sleep, not spin, while they wait for their next part: 2 to 6 % slower alone, but other work on the same
#: cores gets them meanwhile.
PATIENT_VARIABLE = "MASKLINE_NO_SPINNING"
TENSORRT = "TensorrtExecutionProvider"


def open_file(path: Path, device: Device, options: Acceleration) -> OnnxRuntime:
    """See `maskline.runtime.backend.BackendModule`."""
    return OnnxRuntime(path, device, options)


def problem(device: Device) -> str | None:
    """See `maskline.runtime.backend.BackendModule`."""
    return providers.problem(device)


class OnnxRuntime:
    """See `Backend`."""

    def __init__(self, path: Path, device: Device, options: Acceleration) -> None:
        """Raises: ModelError: a damaged file. DeviceError: the device is not there, or in name only."""
        onnxruntime = providers.library()
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4  # its own lines on stderr would repeat the error raised here
        if environment_switch(PATIENT_VARIABLE):
            settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        wanted = _providers(path, device, options)
        try:
            self._session = onnxruntime.InferenceSession(str(path), settings, providers=wanted, enable_fallback=0)
        except providers.errors() as error:
            if options.backend == "tensorrt" and "TensorRT" in str(error):
                raise DeviceError(f"TensorRT could not be started ({first_line(error)}); see docs/gpu.md") from None
            if "Unsupported model IR version" in str(error):
                raise ModelError(f"{path} can't be opened: {providers.too_old()}") from None
            raise ModelError(f"{path} can't be opened ({first_line(error)}): fetch or export the model again") from None
        if wanted[0][0] not in self._session.get_providers():
            raise DeviceError(f"device '{device}' is not available: ONNX Runtime could not start {wanted[0][0]}")
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.names = (
            tuple(i.name for i in self._session.get_inputs()),
            tuple(o.name for o in self._session.get_outputs()),
        )
        self.precision = options.precision

    @property
    def batch(self) -> int | None:
        size = self._session.get_inputs()[0].shape[0]
        return size if isinstance(size, int) else None  # else its name

    def run(self, *inputs: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        try:
            outputs: list[npt.NDArray[Any]] = self._session.run(None, dict(zip(self.names[0], inputs, strict=True)))
        except providers.errors() as error:
            raise RunError(first_line(error)) from None
        return outputs


def _providers(path: Path, device: Device, options: Acceleration) -> list[tuple[str, dict[str, Any]]]:
    """Best first; each takes what those before it leave."""
    provider = providers.provider_of(device)
    if provider is None:
        raise DeviceError(str(providers.problem(device)))
    found: list[tuple[str, dict[str, Any]]] = [(provider, providers.options_of(provider, device))]
    if options.backend == "tensorrt":
        found.insert(0, (TENSORRT, _tensorrt(path, device, options)))
    if device != CPU:
        found.append(("CPUExecutionProvider", {}))
    return found


def _tensorrt(path: Path, device: Device, options: Acceleration) -> dict[str, Any]:
    """Options of the provider. Raises DeviceError where ONNX Runtime is built without it."""
    if TENSORRT not in providers.library().get_available_providers():
        built_for = ", ".join(providers.usable_kinds())
        raise DeviceError(f"TensorRT is not available: this ONNX Runtime, for {built_for}, is built without it")
    settings: dict[str, Any] = {"device_id": device.index, "trt_fp16_enable": options.precision == "fp16"}
    cache = cache_folder(path, options, by_default=True)
    if cache is not None:  # one per file content: TensorRT itself goes by the path and form of a model, not its weights
        own = cache / hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        settings |= {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(own)}
    if options.shapes is not None:
        for name, shape in zip(("min", "opt", "max"), options.shapes, strict=True):
            settings[f"trt_profile_{name}_shapes"] = f"{INPUT}:{_times(shape)}"
    return settings


def _times(shape: Shape) -> str:
    return "x".join(map(str, shape))
