"""Devices (``cpu``, ``gpu:0``, ``gpu:0,1``): parsing, ONNX Runtime's providers for them, and CPU fallback."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from maskline._checks import environment_switch
from maskline.errors import DeviceError, ParameterError, UnknownNameError

#: Kinds of devices and their ONNX Runtime providers, best first. Kinds without a provider are listed for the error
#: message only.
PROVIDERS: dict[str, tuple[str, ...]] = {
    "cpu": ("CPUExecutionProvider",),
    "gpu": ("CUDAExecutionProvider", "ROCMExecutionProvider", "MIGraphXExecutionProvider"),
    "xpu": ("OpenVINOExecutionProvider",),
    "npu": ("CANNExecutionProvider",),
    "dcu": ("ROCMExecutionProvider", "MIGraphXExecutionProvider"),
    "mps": ("CoreMLExecutionProvider",),
    "mlu": (),
    "gcu": (),
    "iluvatar_gpu": (),
    "metax_gpu": (),
}
ALIASES = {"cuda": "gpu", "rocm": "gpu"}

FALLBACK_VARIABLE = "MASKLINE_DEVICE_FALLBACK"
NO_FALLBACK_VARIABLE = "PADDLE_PDX_DISABLE_DEVICE_FALLBACK"  # PaddleX's, for its own commands

logger = logging.getLogger("maskline")


@dataclass(frozen=True, slots=True)
class Device:
    """One device: a kind from `PROVIDERS` and, except for the CPU, its index."""

    kind: str
    index: int | None = None

    def __str__(self) -> str:
        return self.kind if self.index is None else f"{self.kind}:{self.index}"


CPU = Device("cpu")


def parse_devices(text: str) -> tuple[Device, ...]:
    """Parse ``cpu``, ``gpu`` (the first), ``gpu:1``, ``cuda:0,1``, ``cpu,cpu`` …, in any case; repeats are allowed.

    Raises:
        ParameterError: not a comma-separated list of ``kind`` or ``kind:number``, or an unknown kind.
    """
    if not isinstance(text, str):
        raise ParameterError(f"device is {text!r}: expected a string such as 'cpu' or 'gpu:0'")
    devices: list[Device] = []
    for part in text.strip().lower().split(","):
        part = part.strip()
        if _is_number(part) and devices and devices[-1].index is not None:
            devices.append(Device(devices[-1].kind, int(part)))
        else:
            devices.append(_parse(part, text))
    return tuple(devices)


def _parse(part: str, text: str) -> Device:
    kind, colon, number = part.partition(":")
    kind = ALIASES.get(kind, kind)
    if not kind or kind.isdigit():
        raise ParameterError(f"device {text!r}: expected kinds and numbers such as 'gpu:0', 'gpu:0,1' or 'cpu,cpu'")
    if kind not in PROVIDERS:
        raise UnknownNameError.of("device", part, [*PROVIDERS, *ALIASES])
    if kind == "cpu":
        if colon:
            raise ParameterError(f"device {text!r}: the CPU has no number; use 'cpu'")
        return CPU
    if colon and not _is_number(number):
        raise ParameterError(f"device {text!r}: expected an integer after the colon, such as '{kind}:0'")
    return Device(kind, int(number) if number else 0)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def device_text(devices: Sequence[Device]) -> str:
    """Inverse of `parse_devices`, in the shortest form: ``gpu:0,1``, ``cpu,cpu``."""
    parts: list[str] = []
    for i, device in enumerate(devices):
        goes_on = i > 0 and device.index is not None and devices[i - 1].kind == device.kind
        parts.append(str(device.index) if goes_on else str(device))
    return ",".join(parts)


def may_fall_back(by_default: bool = False) -> bool:
    """Whether to use the CPU if a device is missing: from the environment, else ``by_default``."""
    if os.environ.get(FALLBACK_VARIABLE, "").strip():
        return environment_switch(FALLBACK_VARIABLE)
    return by_default and not environment_switch(NO_FALLBACK_VARIABLE)


def available(
    devices: Sequence[Device], problem: Callable[[Device], str | None], *, cpu_fallback: bool
) -> tuple[Device, ...]:
    """Return the devices if all are available; else fall back to the CPU alone.

    Args:
        problem: returns what is wrong with a device (see `missing`), or None.
        cpu_fallback: fall back to the CPU with a warning, rather than raise an error.

    Raises:
        DeviceError: a device can't be used, without ``cpu_fallback``.
    """
    found = next((reason for device in devices if device != CPU and (reason := problem(device))), None)
    if found is None:
        return tuple(devices)
    if not cpu_fallback:
        raise DeviceError(f"{found}; or run on the CPU: device cpu, or {FALLBACK_VARIABLE}=1")
    logger.warning("%s; using the CPU", found)
    return (CPU,)


def missing(device: Device, library: str, there: Iterable[str], remedy: str) -> str:
    """Message for a device that a library can't use: what it has instead, and what to do."""
    return f"device '{device}' is not available: {library} has {', '.join(there)} here; {remedy}"
