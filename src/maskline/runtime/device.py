"""Devices: ``cpu``, ``gpu:0``, ``gpu:0,1`` and their like, and what ONNX Runtime calls them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from maskline.checks import environment_switch
from maskline.errors import DeviceError, ParameterError, UnknownNameError

#: Kinds of devices and the ONNX Runtime providers that serve them, best first. Those without have none in public: they
#: are names of the reference's, known so that the error can say so.
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


def default_device() -> Device:
    """The first GPU if this ONNX Runtime is built for one, else the CPU."""
    return Device("gpu", 0) if "gpu" in usable_kinds() else CPU


def usable_kinds() -> list[str]:
    """Kinds that the installed ONNX Runtime is built for; whether such a device is in this machine, it can't tell."""
    from onnxruntime import get_available_providers

    there = set(get_available_providers())
    return [kind for kind, providers in PROVIDERS.items() if there.intersection(providers)]


def provider_of(device: Device) -> str:
    """ONNX Runtime's best provider for a device. Raises DeviceError, naming what can be used, if there is none."""
    from onnxruntime import get_available_providers

    there = get_available_providers()
    provider = next((name for name in PROVIDERS[device.kind] if name in there), None)
    if provider is None:
        remedy = (
            "install the ONNX Runtime build for that device" if PROVIDERS[device.kind] else "none is built for that"
        )
        raise DeviceError(
            f"device '{device}' is not available: this ONNX Runtime has {', '.join(usable_kinds())}; "
            f"use one of these ({remedy})"
        )
    return provider


def may_fall_back() -> bool:
    """Whether the environment asks for the CPU in place of a device that is not there."""
    return environment_switch(FALLBACK_VARIABLE)
