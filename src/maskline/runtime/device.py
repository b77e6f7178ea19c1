"""Devices: ``cpu``, ``gpu:0``, ``gpu:0,1`` and their like; what ONNX Runtime calls them; what if one is not there."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from maskline._checks import environment_switch
from maskline.errors import DeviceError, ParameterError, UnknownNameError

#: Kinds of devices and the ONNX Runtime providers that serve them, best first. Kinds without a provider are known only
#: so that the error can say so.
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
NO_FALLBACK_VARIABLE = "PADDLE_PDX_DISABLE_DEVICE_FALLBACK"  # PaddleX's, for the forms that are its own

logger = logging.getLogger("maskline")


@dataclass(frozen=True, slots=True)
class Device:
    """One processor: a kind of `PROVIDERS` and, except for the CPU, its number."""

    kind: str
    index: int | None = None

    def __str__(self) -> str:
        return self.kind if self.index is None else f"{self.kind}:{self.index}"


CPU = Device("cpu")


def parse_devices(text: str) -> tuple[Device, ...]:
    """``cpu``, ``gpu`` (the first), ``gpu:1``, ``cuda:0,1``, ``cpu,cpu`` …, in any case. One may be named twice.

    Raises:
        ParameterError: not ``kind`` or ``kind:number``, further ones after commas; or a kind that is not known.
    """
    if not isinstance(text, str):
        raise ParameterError(f"device is {text!r}: expected a text such as 'cpu' or 'gpu:0'")
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
            raise ParameterError(f"device {text!r}: the CPU has no number, say 'cpu'")
        return CPU
    if colon and not _is_number(number):
        raise ParameterError(f"device {text!r}: expected a whole number after the colon, such as '{kind}:0'")
    return Device(kind, int(number) if number else 0)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def device_text(devices: Sequence[Device]) -> str:
    """The shortest text that `parse_devices` turns back into these: ``gpu:0,1``, ``cpu,cpu``."""
    parts: list[str] = []
    for i, device in enumerate(devices):
        goes_on = i > 0 and device.index is not None and devices[i - 1].kind == device.kind
        parts.append(str(device.index) if goes_on else str(device))
    return ",".join(parts)


def may_fall_back(by_default: bool = False) -> bool:
    """Whether the CPU stands in for a device that is not there: as the environment says, else ``by_default``."""
    if os.environ.get(FALLBACK_VARIABLE, "").strip():
        return environment_switch(FALLBACK_VARIABLE)
    return by_default and not environment_switch(NO_FALLBACK_VARIABLE)


def available(
    devices: Sequence[Device], problem: Callable[[Device], str | None], *, cpu_fallback: bool
) -> tuple[Device, ...]:
    """These devices, if all are there; or the CPU alone, which always is.

    Args:
        problem: what is wrong with a device, see `missing`; None: nothing.
        cpu_fallback: the CPU stands in where something is wrong, with a warning, rather than an error.

    Raises:
        DeviceError: one of the devices can't be used.
    """
    found = next((told for device in devices if device != CPU and (told := problem(device))), None)
    if found is None:
        return tuple(devices)
    if not cpu_fallback:
        raise DeviceError(f"{found}; or run on the CPU: device cpu, or {FALLBACK_VARIABLE}=1")
    logger.warning("%s; using the CPU", found)
    return (CPU,)


def missing(device: Device, library: str, there: Iterable[str], remedy: str) -> str:
    """The one wording for a device that a library can't use: what it has instead, and what to do."""
    return f"device '{device}' is not available: {library} has {', '.join(there)} here; {remedy}"
