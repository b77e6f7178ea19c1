"""Where to train: from what people write to what torch and accelerate understand."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from maskline._wording import counted
from maskline.errors import DeviceError, ParameterError
from maskline.runtime.device import Device, available, device_text, may_fall_back, missing, parse_devices

#: Kinds of `maskline.runtime.device`: torch's name, and the variable that says which of them a process sees. Those of
#: makers who keep to CUDA's names have torch's.
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
    """One kind of device and how many processes use it."""

    kind: str  # torch's name
    processes: int
    numbers: tuple[int, ...] = ()
    variable: str = ""

    def select(self) -> None:
        """Let accelerate take these. Processes that are started later see no others."""
        if self.kind == "cpu":
            os.environ["ACCELERATE_USE_CPU"] = "true"
        elif self.processes == 1:
            os.environ["ACCELERATE_TORCH_DEVICE"] = f"{self.kind}:{self.numbers[0]}"
        elif self.variable:
            os.environ[self.variable] = ",".join(map(str, self.numbers))


def resolve(device: str | None, *, cpu_fallback: bool = False) -> str:
    """Where to train, in the form of ``device``; to be asked before anything slow is done.

    Args:
        device: as `parse_devices` takes it; None: the first GPU if there is one, else the CPU.
        cpu_fallback: the CPU stands in, with a warning, where torch has no such device at all;
            `maskline.runtime.device.FALLBACK_VARIABLE` wins.

    Raises:
        ParameterError: not such a text.
        DeviceError: this machine or this installation of torch has none of that kind.
    """
    if device is None:
        return "gpu:0" if torch.cuda.is_available() else "cpu"
    return device_text(available(parse_devices(device), _problem, cpu_fallback=may_fall_back(cpu_fallback)))


def choose(device: str | None, processes: int) -> Devices:
    """What ``cpu``, ``gpu``, ``gpu:0,1`` ... mean here; None: the first GPU if there is one, else the CPU.

    Args:
        device: as `parse_devices` takes it. ``cpu,cpu`` is two processes.
        processes: on the CPU.

    Raises:
        ParameterError: not such a text, several kinds, or several processes on one device.
        DeviceError: this machine or this installation of torch has none of that kind, or too few.
    """
    chosen = parse_devices(resolve(device))
    if len({one.kind for one in chosen}) > 1:
        raise ParameterError(f"device is {device!r}: training takes one kind of devices, with numbers such as gpu:0,1")
    kind, variable = KINDS[chosen[0].kind]
    if kind == "cpu" and len(chosen) == 1:
        return Devices(kind, processes)
    if processes not in (1, len(chosen)):
        raise ParameterError(
            f"processes is {processes}, but {device} is {counted(len(chosen), 'device')}: one process on each"
        )
    if kind == "cpu":
        return Devices(kind, len(chosen))
    if len(set(chosen)) < len(chosen):
        raise ParameterError(f"device is {device!r}: to train on, each can be named once only")
    there = [Device(chosen[0].kind, number) for number in range(_count(kind))]
    for one in chosen:
        if one not in there:
            raise DeviceError(missing(one, "torch", [device_text(there)], "choose among these"))
    return Devices(kind, len(chosen), tuple(one.index for one in chosen if one.index is not None), variable)


def _problem(device: Device) -> str | None:
    """Why torch can't train on a kind of device, and what to do; None if it can."""
    if _count(KINDS[device.kind][0]):
        return None
    there = [name for name in dict.fromkeys(name for name, _ in KINDS.values()) if name == "cpu" or _count(name)]
    version = torch.version
    built = {"cuda": version.cuda or version.hip, "xpu": version.xpu}.get(KINDS[device.kind][0])
    remedy = "is its driver installed?" if built else "install a build of torch for it,"
    return missing(device, "torch", there, f"{remedy} see docs/gpu.md")


def _count(kind: str) -> int:
    module = getattr(torch, kind, None)
    if module is None or not module.is_available():
        return 0
    return int(module.device_count())
