"""Devices: ``cpu``, ``gpu:0`` and their like, and what ONNX Runtime calls them."""

from __future__ import annotations

from dataclasses import dataclass

from maskline.errors import DeviceError, ParameterError, UnknownNameError

#: Device kinds and the ONNX Runtime providers that serve them, best first.
PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "gpu": ("CUDAExecutionProvider", "ROCMExecutionProvider", "MIGraphXExecutionProvider"),
    "npu": ("CANNExecutionProvider",),
    "xpu": ("OpenVINOExecutionProvider",),
    "mps": ("CoreMLExecutionProvider",),
}
ALIASES = {"cuda": "gpu", "dcu": "gpu"}


@dataclass(frozen=True, slots=True)
class Device:
    """One processor: a kind of `PROVIDERS` and, except for the CPU, its number."""

    kind: str
    index: int | None = None

    def __str__(self) -> str:
        return self.kind if self.index is None else f"{self.kind}:{self.index}"


def parse_device(text: str) -> Device:
    """``cpu``, ``gpu``, ``gpu:1``, ``cuda:0`` …, in any case. Without a number, the first.

    Raises:
        ParameterError: not of the form ``kind`` or ``kind:number``, or a kind that is not known.
    """
    if not isinstance(text, str):
        raise ParameterError(f"device is {text!r}: expected a text such as 'cpu' or 'gpu:0'")
    kind, colon, number = text.strip().lower().partition(":")
    kind = ALIASES.get(kind, kind)
    if kind not in PROVIDERS:
        raise UnknownNameError.of("device", text, PROVIDERS)
    if kind == "cpu":
        if colon:
            raise ParameterError(f"device {text!r}: the CPU has no number, say 'cpu'")
        return Device("cpu")
    if colon and not number.isdigit():
        raise ParameterError(f"device {text!r}: expected one whole number after the colon, such as '{kind}:0'")
    return Device(kind, int(number) if number else 0)


def choose_device(text: str | None) -> Device:
    """The device asked for, or by default the first GPU if this installation can use one, else the CPU.

    Raises:
        DeviceError: the device asked for can't be used; the message names those that can.
    """
    from onnxruntime import get_available_providers

    usable = [kind for kind, names in PROVIDERS.items() if set(names) & set(get_available_providers())]
    if text is None:
        return Device("gpu", 0) if "gpu" in usable else Device("cpu")
    device = parse_device(text)
    if device.kind not in usable:
        raise DeviceError(
            f"device {text!r} is not available: this ONNX Runtime has {', '.join(usable)}; "
            "use one of these, or install the ONNX Runtime build for that device"
        )
    return device
