"""Model files: graphs in ONNX or OpenVINO format that follow the contract and describe themselves.

The contract, the same for all families:

====== ================= ======= ===========================================================================
input  image             uint8   (B, H, W, 3) RGB; float32, normalised, for models that resize floats
output boxes             float32 (B, K, 4) ``x1 y1 x2 y2`` in pixels of the network's input
output scores            float32 (B, K) best first; 0 where there is no object
output labels            int64   (B, K)
output masks             float32 (B, K, h, w), foreground where positive; `MASK_FRAMES` says how they lie
====== ================= ======= ===========================================================================

A pixel is foreground where the bilinear interpolation of its mask at the pixel's centre is positive, and beyond the
mask's border the border's values go on. Only ``twice`` interpolates more than once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from maskline._checks import check_score
from maskline.errors import ModelError, ParameterError
from maskline.instances import FloatArray, IntArray
from maskline.preprocess import Preprocess
from maskline.runtime.backend import Acceleration, Backend, RunError, unfit
from maskline.runtime.device import Device
from maskline.runtime.onnxruntime_backend import OnnxRuntime
from maskline.runtime.openvino_backend import OpenVino
from maskline.runtime.providers import usable_kinds

RECORD_KEY = "maskline"
RECORD_VERSION = 2  # the newest that is read; 2 is written only where mask_frame is ``twice``, which 1 did not have
INPUT = "image"
OUTPUTS = ("boxes", "scores", "labels", "masks")

#: How masks lie. ``image``: over the whole input. ``within``: so too, but of each only what is in its box means
#: anything. ``twice``: as ``within``, but enlarged in PaddleDetection's two steps: to the input's pixels, of which
#: those outside the box become background (-0.5), and then to the image's; a cell is a whole number of pixels high
#: and wide. ``box``: over its box, with a ring of one cell around it. Cells 1 to h - 2 cover the box's height and 1 to
#: w - 2 its width, also of a box that goes beyond the image; the ring lies outside and is background. (With probability
#: - 0.5 in the box and -0.5 in the ring, that is Mask R-CNN's paste: zero beyond the box, then >= 0.5.) ``tight``: over
#: the whole input, and a box is its mask's own: the graph's holds all of it, the image's is cut to it.
MASK_FRAMES = ("image", "within", "twice", "box", "tight")


@dataclass(frozen=True, slots=True)
class Record:
    """Description that a model file carries of itself."""

    model: str
    labels: tuple[str, ...]
    preprocess: Preprocess
    threshold: float
    mask_frame: str  # of MASK_FRAMES
    made_by: str

    def __post_init__(self) -> None:
        check_score(self.threshold)
        if self.mask_frame not in MASK_FRAMES:
            raise ValueError(f"mask_frame is {self.mask_frame!r}: expected one of {', '.join(MASK_FRAMES)}")

    def to_json(self) -> str:
        """Serialize for the graph's metadata."""
        return json.dumps(
            {
                "version": 2 if self.mask_frame == "twice" else 1,
                "model": self.model,
                "labels": list(self.labels),
                "preprocess": self.preprocess.to_dict(),
                "threshold": self.threshold,
                "mask_frame": self.mask_frame,
                "made_by": self.made_by,
            },
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, text: str, path: Path) -> Record:
        """Parse the metadata. Raises ModelError if it is damaged or of a newer version."""
        try:
            values = json.loads(text)
            if values["version"] > RECORD_VERSION:
                raise ModelError(f"{path} was made by a newer maskline ({values['made_by']}): update maskline")
            return cls(
                model=str(values["model"]),
                labels=tuple(str(v) for v in values["labels"]),
                preprocess=Preprocess.from_dict(values["preprocess"]),
                threshold=float(values["threshold"]),
                mask_frame=str(values["mask_frame"]),
                made_by=str(values["made_by"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{path} has a damaged description of itself ({error!r}): export the model again"
            ) from None


class Raw(NamedTuple):
    """Outputs of the graph for a batch; see the contract."""

    boxes: FloatArray
    scores: FloatArray
    labels: IntArray
    masks: FloatArray

    def image(self, index: int) -> Raw:
        """Outputs of one image of the batch, without the first axis."""
        return Raw(*(a[index] for a in self))


class Graph:
    """An opened model file on one device. Thread-safe.

    Attributes:
        record: the file's description of itself.
        backend: key of `BACKENDS`.
        precision: compute precision.
        threads: CPU threads per run; None: the backend's default.
        batch: batch size, if fixed by the file; None: any.
    """

    def __init__(self, path: Path, device: Device, options: Acceleration | None = None) -> None:
        """Open a file and check it against the contract.

        Args:
            options: backend and its options; ``best`` and ``strict`` apply to `open_graph`. Default: ONNX Runtime, if
                it supports the file.

        Raises:
            ModelError: the file is damaged, or not a maskline model.
            DeviceError: the device is missing, does not start, or is not supported by the named backend.
            ParameterError: the named backend does not support the file or the precision.
            MissingDependencyError: the backend's library is not installed.
        """
        options = Acceleration() if options is None else options
        self.path, self.device, self.threads = path, device, options.threads
        self.backend = backend_for(path, device) if options.backend is None else options.backend
        self._backend = open_backend(self.backend, path, device, options)
        self.precision = self._backend.precision
        if RECORD_KEY not in self._backend.metadata:
            raise ModelError(f"{path} is a graph but not a maskline model: make one with `maskline export`")
        self.record = Record.from_json(self._backend.metadata[RECORD_KEY], path)
        if self._backend.names != ((INPUT,), OUTPUTS):
            raise ModelError(
                f"{path} has inputs and outputs {self._backend.names}: expected {((INPUT,), OUTPUTS)}; export it again"
            )
        self.batch = self._backend.batch

    def run(self, images: npt.NDArray[Any]) -> Raw:
        """Run on (B, H, W, 3). Raises ModelError if the graph fails, for example for lack of memory."""
        try:
            return Raw(*self._backend.run(images))
        except RunError as error:
            raise ModelError(f"{self.path} failed on an input of shape {images.shape}: {error}") from None


def backend_for(path: Path, device: Device) -> str:
    """Default backend for a file and device: ONNX Runtime, or OpenVINO if only that supports it."""
    if path.suffix.lower() == ".xml":
        return "openvino"
    elsewhere = device.kind == "xpu" and "xpu" not in usable_kinds() and find_spec("openvino") is not None
    return "openvino" if elsewhere else "onnxruntime"


def open_backend(name: str, path: Path, device: Device, options: Acceleration) -> Backend:
    """Open a file with any inputs and outputs. Raises as `Graph` does."""
    reason = unfit(name, path, device, options.precision)
    if reason:
        raise ParameterError(reason)
    if name == "openvino":
        return OpenVino(path, device, options)
    return OnnxRuntime(path, device, options, INPUT)
