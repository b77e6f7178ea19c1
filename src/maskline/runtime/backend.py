"""Backends that open and run model files: a row of `BACKENDS` and a module of this package for each library."""

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

#: Graph file by format; the first that exists is used. OpenVINO keeps the weights in ``inference.bin``.
GRAPH_FILES = {"onnx": "inference.onnx", "ort": "inference.ort", "openvino": "inference.xml"}

#: Input shape: (B, H, W, 3).
Shape = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Spec:
    """Static facts about a backend."""

    title: str
    module: str  # of this package, see `BackendModule`
    kinds: tuple[str, ...]  # device kinds
    suffixes: tuple[str, ...]  # suffixes of model files
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
    """How to run a model. Built from user options by `maskline.runtime.acceleration.parse_acceleration`.

    Attributes:
        backend: key of `BACKENDS`; None: ONNX Runtime, if it can open the file.
        best: if no backend is named, use the one measured to be fastest.
        strict: an unavailable backend is an error, rather than a warning and a fallback to ONNX Runtime.
        device: default device.
        threads: CPU threads per run; None: the backend's default (all cores).
        precision: compute precision, as in `Spec`. Below fp32, results differ.
        cache_dir: folder for compiled models; None: ``.cache`` next to the model, for devices that compile slowly.
        shapes: minimum, typical and maximum input shape for TensorRT.
        cpu_fallback: use the CPU, with a warning, if a device is missing.
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
    """An opened model file on one device. Thread-safe."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """Metadata of the file, by key."""
        ...

    @property
    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the inputs and of the outputs."""
        ...

    @property
    def batch(self) -> int | None:
        """Batch size, if fixed by the file."""
        ...

    @property
    def precision(self) -> str:
        """Actual compute precision."""
        ...

    def run(self, *inputs: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        """Compute all outputs from all inputs, in the order of ``names``. Raises RunError."""
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
    """A backend's own error, in one line. Internal: `Graph` turns it into an error that names file and input."""


def first_line(error: Exception) -> str:
    """First line of a message that is not just a source location."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    informative = [line for line in lines if not line.startswith(("Exception from ", "Check '"))]
    return (informative or lines or [type(error).__name__])[0]


def cache_folder(path: Path, options: Acceleration, *, by_default: bool) -> Path | None:
    """Folder for compiled versions of a model file, created if missing; None for no cache."""
    folder = options.cache_dir or (path.parent / ".cache" if by_default else None)
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # such as the package's own folder; without a cache, it is only slower
        return None
    return folder


def unfit(name: str, path: Path, device: Device, precision: str) -> str:
    """Why a backend can't run this file on this device; empty if nothing static speaks against it."""
    spec = BACKENDS[name]
    if path.suffix.lower() not in spec.suffixes and any(path.suffix.lower() in s.suffixes for s in BACKENDS.values()):
        return f"{spec.title} can't open {path.name}: it opens {' and '.join(spec.suffixes)}"
    if device.kind not in spec.kinds:
        return f"{spec.title} can't use device '{device}': it runs on {', '.join(spec.kinds)}"
    if precision not in spec.precisions:
        return f"{spec.title} can't compute in {precision}: it supports {', '.join(spec.precisions)}"
    return ""
