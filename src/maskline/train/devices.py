"""Where to train: from what people write to what torch and accelerate understand."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from maskline.errors import DeviceError, ParameterError

#: Kinds of devices as people call them, as torch does, and the variable that says which of them a process sees.
KINDS = {
    "cpu": ("cpu", ""),
    "gpu": ("cuda", "CUDA_VISIBLE_DEVICES"),
    "cuda": ("cuda", "CUDA_VISIBLE_DEVICES"),
    "dcu": ("cuda", "HIP_VISIBLE_DEVICES"),
    "npu": ("npu", "ASCEND_RT_VISIBLE_DEVICES"),
    "mlu": ("mlu", "MLU_VISIBLE_DEVICES"),
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


def choose(device: str | None, processes: int) -> Devices:
    """What ``cpu``, ``gpu``, ``gpu:0,1`` ... mean here; None: the first GPU if there is one, else the CPU.

    Args:
        processes: on the CPU.

    Raises:
        ParameterError: no such kind, or several processes on one device.
        DeviceError: this machine or this installation of torch has none of that kind, or too few.
    """
    if device is None:
        device = "gpu:0" if torch.cuda.is_available() else "cpu"
    name, _, numbers = device.partition(":")
    if name not in KINDS:
        raise ParameterError(f"device is {device!r}: expected one of {', '.join(KINDS)}, with numbers such as gpu:0,1")
    kind, variable = KINDS[name]
    if kind == "cpu":
        return Devices(kind, processes)
    chosen = tuple(int(number) for number in numbers.split(",")) if numbers else (0,)
    there = _count(kind)
    if max(chosen) >= there:
        raise DeviceError(f"device is {device!r}, but torch sees {there} of these here: name another, or cpu")
    if processes not in (1, len(chosen)):
        raise ParameterError(f"processes is {processes}, but {device} is {len(chosen)} devices with one process each")
    return Devices(kind, len(chosen), chosen, variable)


def _count(kind: str) -> int:
    module = getattr(torch, kind, None)
    if module is None or not module.is_available():
        return 0
    return int(module.device_count())
