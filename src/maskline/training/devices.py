"""Training devices: from device strings to torch and accelerate."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from maskline._wording import counted
from maskline.errors import DeviceError, ParameterError
from maskline.runtime.device import Device, available, device_text, may_fall_back, missing, parse_devices

#: For kinds of `maskline.runtime.device`: torch's name, and the environment variable that selects visible devices. Some
#: vendors use torch's CUDA interface.
KINDS = {
    "cpu": ("cpu", ""),
    "gpu": ("cuda", "CUDA_VISIBLE_DEVICES"),
    "dcu": ("cuda", "HIP_VISIBLE_DEVICES"),
    "iluvatar_gpu": ("cuda", "CUDA_VISIBLE_DEVICES"),
    "metax_gpu": ("cuda", "MACA_VISIBLE_DEVICES"),
    "npu": ("npu", "ASCEND_RT_VISIBLE_DEVICES"),
    "mlu": ("mlu", "MLU_VISIBLE_DEVICES"),
    "gcu": ("gcu", "TOPS_VISIBLE_DEVICES"),
    "xpu": ("xpu", "ZE_AFFINITY_MASK"),
    "mps": ("mps", ""),
}


@dataclass(frozen=True, slots=True)
class Devices:
    """Devices of one kind, and the number of processes on them."""

    kind: str  # torch's name
    processes: int
    numbers: tuple[int, ...] = ()
    variable: str = ""

    def select(self) -> None:
        """Make accelerate use these devices. Processes started later see no others."""
        if self.kind == "cpu":
            os.environ["ACCELERATE_USE_CPU"] = "true"
        elif self.processes == 1:
            os.environ["ACCELERATE_TORCH_DEVICE"] = f"{self.kind}:{self.numbers[0]}"
        elif self.variable:
            os.environ[self.variable] = ",".join(map(str, self.numbers))


def resolve(device: str | None, *, cpu_fallback: bool = False) -> str:
    """Check a device string and apply defaults; call it before anything slow.

    Args:
        device: as for `parse_devices`; None: the first GPU if there is one, else the CPU.
        cpu_fallback: use the CPU, with a warning, if torch has no device of that kind;
            `maskline.runtime.device.FALLBACK_VARIABLE` takes precedence.

    Raises:
        ParameterError: an invalid string.
        DeviceError: this machine or this installation of torch has none of that kind.
    """
    if device is None:
        return "gpu:0" if torch.cuda.is_available() else "cpu"
    return device_text(available(parse_devices(device), _problem, cpu_fallback=may_fall_back(cpu_fallback)))


def choose(device: str | None, processes: int) -> Devices:
    """Resolve ``cpu``, ``gpu``, ``gpu:0,1`` ... on this machine; None: the first GPU if there is one, else the CPU.

    Args:
        device: as for `parse_devices`. ``cpu,cpu`` is two processes.
        processes: number of processes on the CPU.

    Raises:
        ParameterError: an invalid string, several kinds, or several processes on one device.
        DeviceError: this machine or this installation of torch has none of that kind, or too few.
    """
    chosen = parse_devices(resolve(device))
    if len({one.kind for one in chosen}) > 1:
        raise ParameterError(f"device is {device!r}: training takes devices of one kind, such as gpu:0,1")
    kind, variable = KINDS[chosen[0].kind]
    if kind == "cpu" and len(chosen) == 1:
        return Devices(kind, processes)
    if processes not in (1, len(chosen)):
        there = f"there {'is' if len(chosen) == 1 else 'are'} {counted(len(chosen), 'device')}"
        raise ParameterError(f"processes is {processes}, but {there}: expected one process per device")
    if kind == "cpu":
        return Devices(kind, len(chosen))
    if len(set(chosen)) < len(chosen):
        raise ParameterError(f"device is {device!r}: for training, each device may be given once")
    existing = [Device(chosen[0].kind, number) for number in range(_count(kind))]
    for one in chosen:
        if one not in existing:
            raise DeviceError(missing(one, "torch", [device_text(existing)], "choose among these"))
    return Devices(kind, len(chosen), tuple(one.index for one in chosen if one.index is not None), variable)


def _problem(device: Device) -> str | None:
    """Explain why torch can't train on a kind of device; None if it can."""
    if _count(KINDS[device.kind][0]):
        return None
    existing = [name for name in dict.fromkeys(name for name, _ in KINDS.values()) if name == "cpu" or _count(name)]
    version = torch.version
    built = {"cuda": version.cuda or version.hip, "xpu": version.xpu}.get(KINDS[device.kind][0])
    remedy = "is its driver installed?" if built else "install a build of torch for it,"
    return missing(device, "torch", existing, f"{remedy} see docs/gpu.md")


def _count(kind: str) -> int:
    module = getattr(torch, kind, None)
    if module is None or not module.is_available():
        return 0
    return int(module.device_count())
