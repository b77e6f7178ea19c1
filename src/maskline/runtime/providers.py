"""Execution providers of the installed ONNX Runtime, and what to install if one is missing."""

from __future__ import annotations

import io
import os
from contextlib import redirect_stdout
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from maskline.errors import MissingDependencyError
from maskline.runtime.device import CPU, PROVIDERS, Device, missing

#: ONNX Runtime's packages share one folder: the one installed last overwrites the other.
PACKAGES = ("onnxruntime", "onnxruntime-gpu")
REPAIR = "pip uninstall -y onnxruntime, then pip install --force-reinstall --no-deps onnxruntime-gpu"
REMEDIES = {
    "gpu": "for NVIDIA GPUs: pip install 'maskline[gpu]', see docs/gpu.md",
    "xpu": "for Intel GPUs: pip install 'maskline[openvino]', see docs/gpu.md",
}

#: An ONNX graph that returns its input, used to test whether a provider starts.
PROBE = (
    b'\x08\x07\x12\x00:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)
SILENT, WARNINGS = 4, 2  # log severities of ONNX Runtime; WARNINGS is its default


def library(module: str = "onnxruntime") -> ModuleType:
    """Import ONNX Runtime, or one of its modules such as ``onnxruntime.quantization``, without its telemetry.

    From 1.29 on it sends events to Microsoft and stores a device id in the user's home, unless an environment variable,
    read at the first import, disables that. So nothing else in this package imports it. Child processes inherit the
    variable; a value set by the user is kept.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed, or incomplete.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        onnxruntime, requested = import_module("onnxruntime"), import_module(module)
    except ImportError as error:
        raise MissingDependencyError(f"ONNX Runtime can't be imported ({error}): pip install onnxruntime") from None
    if not hasattr(onnxruntime, "InferenceSession"):  # an empty folder is left
        repair = REPAIR if _is_installed("onnxruntime-gpu") else "pip install --force-reinstall --no-deps onnxruntime"
        raise MissingDependencyError(
            f"ONNX Runtime is incomplete, as after `pip uninstall` of one of {' and '.join(PACKAGES)}: {repair}"
        )
    return requested


def too_old() -> str:
    """Message for a file in a format newer than this ONNX Runtime supports."""
    package = PACKAGES[1] if _is_installed(PACKAGES[1]) else PACKAGES[0]
    return f"this ONNX Runtime ({library().__version__}) is too old: pip install -U {package}"


def errors() -> tuple[type[Exception], ...]:
    """Exceptions that ONNX Runtime raises: its own, which have no common base, and built-in ones."""
    state = vars(library("onnxruntime.capi.onnxruntime_pybind11_state"))
    own = [value for value in state.values() if isinstance(value, type) and issubclass(value, Exception)]
    return (RuntimeError, ValueError, *own)


def usable_kinds() -> list[str]:
    """Device kinds that the installed ONNX Runtime is built for; `problem` checks whether a device works."""
    there = set(library().get_available_providers())
    return [kind for kind, providers in PROVIDERS.items() if there.intersection(providers)]


def default_device() -> Device:
    """The first GPU if this ONNX Runtime is built for one, else the CPU."""
    return Device("gpu", 0) if "gpu" in usable_kinds() else CPU


def provider_of(device: Device) -> str | None:
    """ONNX Runtime's best provider for a device; None if it has none."""
    there = library().get_available_providers()
    return next((name for name in PROVIDERS[device.kind] if name in there), None)


def options_of(provider: str, device: Device) -> dict[str, str]:
    """Provider options that select the device."""
    if provider == "OpenVINOExecutionProvider":
        return {"device_type": f"GPU.{device.index}"}  # its default is the CPU
    return {"device_id": str(device.index)} if device.kind in ("gpu", "dcu", "npu") else {}


def problem(device: Device) -> str | None:
    """Why ONNX Runtime can't use a device other than the CPU, and what to do; None if it can."""
    provider = provider_of(device)
    if provider is None:
        return missing(device, "ONNX Runtime", usable_kinds(), _remedy(device))
    reason = _fault(provider, device)
    if reason is None:
        return None
    return f"device '{device}' is not available: ONNX Runtime could not start {provider} ({reason}); see docs/gpu.md"


def _remedy(device: Device) -> str:
    if not PROVIDERS[device.kind]:
        return "it has no provider for this kind of device"
    if device.kind == "gpu" and all(map(_is_installed, PACKAGES)):
        return f"{' and '.join(PACKAGES)} are both installed and overwrite each other: {REPAIR}"
    return REMEDIES.get(device.kind, "install the build of ONNX Runtime for it")


def _is_installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


@lru_cache
def _fault(provider: str, device: Device) -> str | None:
    """Why a built-in provider does not start; None if it does. ONNX Runtime would silently use the CPU instead."""
    runtime, lines = library(), ""
    if provider == "CUDAExecutionProvider" and hasattr(runtime, "preload_dlls"):
        with redirect_stdout(io.StringIO()) as printed:
            runtime.preload_dlls()  # CUDA and cuDNN installed by pip
        lines = printed.getvalue()
    runtime.set_default_logger_severity(SILENT)  # we report the reason ourselves
    settings = runtime.SessionOptions()
    settings.log_severity_level = SILENT
    try:
        providers = [(provider, options_of(provider, device))]
        session = runtime.InferenceSession(PROBE, settings, providers=providers, enable_fallback=0)
        if provider in session.get_providers():
            return None
        reason = "check the device, its driver and libraries"
    except Exception as error:  # noqa: BLE001  # those of ONNX Runtime have no common base
        reason = str(error).splitlines()[0]
    finally:
        runtime.set_default_logger_severity(WARNINGS)
    return lines.splitlines()[0] if lines else reason
