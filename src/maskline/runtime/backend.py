"""What opens and runs a model file: a row of `BACKENDS`, and a module of this folder for each library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from maskline.runtime.device import PROVIDERS, Device

if TYPE_CHECKING:
    import numpy.typing as npt

INPUT = "image"  # name of a graph's input

#: Name of the graph's file by format; the first that exists is taken. OpenVINO's weights are in ``inference.bin``.
GRAPH_FILES = {"onnx": "inference.onnx", "ort": "inference.ort", "openvino": "inference.xml"}

#: Shape of the input: (B, H, W, 3).
Shape = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Spec:
    """What is known of a backend before its library is imported."""

    title: str
    module: str  # of this package, see `BackendModule`
    kinds: tuple[str, ...]  # of devices
    suffixes: tuple[str, ...]  # of model files
    precisions: tuple[str, ...] = ("fp32",)


#: By the name of the engine. The first that opens a file is the default for it.
BACKENDS = {
    "onnxruntime": Spec("ONNX Runtime", "onnxruntime_backend", tuple(PROVIDERS), (".onnx", ".ort")),
    "openvino": Spec("OpenVINO", "openvino_backend", ("cpu", "xpu"), (".onnx", ".xml"), ("fp32", "bf16", "fp16")),
    "tensorrt": Spec("TensorRT", "onnxruntime_backend", ("gpu",), (".onnx",), ("fp32", "fp16")),
    "om": Spec("CANN", "onnxruntime_backend", ("npu",), (".onnx",)),
}


@dataclass(frozen=True, slots=True)
class Acceleration:
    """How a model is to be run. `maskline.runtime.acceleration.choose` makes it from what users write.

    Attributes:
        backend: a name of `BACKENDS`; None: ONNX Runtime, where it can open the file.
        best: without a backend, take the one that was measured to be fastest.
        strict: a backend that can't be used here is an error, rather than a warning and ONNX Runtime.
        device: where, unless something else says so.
        threads: processor threads for one run, on the CPU; None leaves it to the backend (all cores).
        precision: of arithmetic, as in `Spec`. With less than fp32 results differ.
        cache_dir: where compiled models are kept; None: ``.cache`` beside the model, for devices that compile slowly.
        shapes: least, usual and largest input that TensorRT prepares for.
        cpu_fallback: the CPU stands in, with a warning, for a device that is not there.
    """

    backend: str | None = None
    best: bool = False
    strict: bool = True
    device: str | None = None
    threads: int | None = None
    precision: str = "fp32"
    cache_dir: Path | None = None
    shapes: tuple[Shape, Shape, Shape] | None = None
    cpu_fallback: bool = False


class Backend(Protocol):
    """An opened model file on one device. Several threads may run it at once."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the file says about itself, by key."""
        ...

    @property
    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Of the inputs and of the outputs."""
        ...

    @property
    def batch(self) -> int | None:
        """Images in a run, where the file fixes it."""
        ...

    @property
    def precision(self) -> str:
        """What arithmetic really is in."""
        ...

    def run(self, *inputs: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        """All outputs, for all inputs, as in ``names``. Raises RunError."""
        ...


class BackendModule(Protocol):
    """What the module of a backend offers."""

    def open_file(self, path: Path, device: Device, options: Acceleration) -> Backend:
        """Open a model file. Raises ModelError, DeviceError, MissingDependencyError."""

    def problem(self, device: Device) -> str | None:
        """Why this backend can't run on a device, and what to do; None if it can."""


def module_of(name: str) -> BackendModule:
    """The module of a backend of `BACKENDS`, imported."""
    return cast("BackendModule", import_module(f"maskline.runtime.{BACKENDS[name].module}"))


class RunError(Exception):
    """A backend's own error, in one line. Users never see it: `Graph` says which file failed on what."""


def first_line(error: Exception) -> str:
    """The first line of a message that is not a mere place in somebody's source code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from ", "Check '"))]
    return (telling or lines or [type(error).__name__])[0]


def cache_folder(path: Path, options: Acceleration, *, by_default: bool) -> Path | None:
    """Where to keep what was compiled for a model file; None if nowhere. The folder is made."""
    folder = options.cache_dir or (path.parent / ".cache" if by_default else None)
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # the package's own folder, say; without a cache it is only slower
        return None
    return folder


def unfit(name: str, path: Path, device: Device, precision: str) -> str:
    """Why a backend can't run this file on this device; empty if, for all that is known beforehand, it can."""
    spec = BACKENDS[name]
    if path.suffix.lower() not in spec.suffixes and any(path.suffix.lower() in s.suffixes for s in BACKENDS.values()):
        return f"{spec.title} can't open {path.name}: it opens {' and '.join(spec.suffixes)}"
    if device.kind not in spec.kinds:
        return f"{spec.title} can't use device '{device}': it runs on {', '.join(spec.kinds)}"
    if precision not in spec.precisions:
        return f"{spec.title} can't compute in {precision}: it does in {', '.join(spec.precisions)}"
    return ""
