"""A model file: a graph, in ONNX or OpenVINO's form, that follows the contract and describes itself.

The contract, the same for all families:

====== ================= ======= ===========================================================================
input  image             uint8   (B, H, W, 3) RGB; float32, normalised, for models that resize floats
output boxes             float32 (B, K, 4) ``x1 y1 x2 y2`` in pixels of the network's input
output scores            float32 (B, K) best first; 0 where there is no object
output labels            int64   (B, K)
output masks             float32 (B, K, h, w), foreground where positive; the record's `MaskLayout` says what they cover
====== ================= ======= ===========================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from maskline._checks import check_score
from maskline.errors import ModelError, ParameterError
from maskline.instances import FloatArray, IntArray
from maskline.preprocess import Preprocess
from maskline.runtime.backend import BACKENDS, INPUT, Acceleration, Backend, RunError, module_of, unfit
from maskline.runtime.device import Device
from maskline.runtime.mask_layout import MASK_FRAMES, MaskLayout
from maskline.runtime.providers import usable_kinds

RECORD_KEY = "maskline"
RECORD_VERSION = 3  # the newest that is read; 1 and 2 had a ``mask_frame`` instead of a ``mask_layout``
OUTPUTS = ("boxes", "scores", "labels", "masks")


@dataclass(frozen=True, slots=True)
class Record:
    """What a model file says about itself."""

    model: str
    labels: tuple[str, ...]
    preprocess: Preprocess
    threshold: float
    mask_layout: MaskLayout
    made_by: str

    def __post_init__(self) -> None:
        check_score(self.threshold)

    def to_json(self) -> str:
        """The text kept in the graph's metadata."""
        return json.dumps(
            {
                "version": RECORD_VERSION,
                "model": self.model,
                "labels": list(self.labels),
                "preprocess": self.preprocess.to_dict(),
                "threshold": self.threshold,
                "mask_layout": self.mask_layout.to_dict(),
                "made_by": self.made_by,
            },
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, text: str, path: Path) -> Record:
        """Read the text back. Raises ModelError if it is not such a record or of a newer version."""
        try:
            values = json.loads(text)
            if values["version"] > RECORD_VERSION:
                raise ModelError(f"{path} was made by a newer maskline ({values['made_by']}): update maskline")
            return cls(
                model=str(values["model"]),
                labels=tuple(str(v) for v in values["labels"]),
                preprocess=Preprocess.from_dict(values["preprocess"]),
                threshold=float(values["threshold"]),
                mask_layout=_mask_layout(values),
                made_by=str(values["made_by"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{path} has a damaged description of itself ({error!r}): export the model again"
            ) from None


def _mask_layout(values: Mapping[str, Any]) -> MaskLayout:
    """Of a record of any version. Raises KeyError, TypeError or ValueError if it has none."""
    if "mask_layout" in values:
        return MaskLayout.from_dict(values["mask_layout"])
    frame = values["mask_frame"]
    if frame not in MASK_FRAMES:
        raise ValueError(f"mask_frame is {frame!r}: expected one of {', '.join(MASK_FRAMES)}")
    return MASK_FRAMES[frame]


class Raw(NamedTuple):
    """The graph's outputs, for a batch; see the contract."""

    boxes: FloatArray
    scores: FloatArray
    labels: IntArray
    masks: FloatArray

    def image(self, index: int) -> Raw:
        """The outputs of one image of the batch, without the first axis."""
        return Raw(*(a[index] for a in self))


class Graph:
    """An opened model file on one device. Several threads may run it at once.

    Attributes:
        record: what the file says about itself.
        backend: what runs it, a name of `BACKENDS`.
        precision: what arithmetic is in.
        threads: processor threads of a run; None: as many as the backend takes.
        batch: images in a run, where the file fixes it; None: any number.
    """

    def __init__(self, path: Path, device: Device, options: Acceleration | None = None) -> None:
        """Open a file and check that it keeps the contract.

        Args:
            options: with what; ``best`` and ``strict`` are for `open_graph`. Default: ONNX Runtime, if it can.

        Raises:
            ModelError: the file is damaged, or no maskline model.
            DeviceError: the device is not there, or in name only, or the backend named can't use it.
            ParameterError: the backend named can't open such a file, or not in this precision.
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
        """(B, H, W, 3) to detections. Raises ModelError where the graph fails, for example for lack of memory."""
        try:
            return Raw(*self._backend.run(images))
        except RunError as error:
            raise ModelError(f"{self.path} failed on an input of shape {images.shape}: {error}") from None


def backend_for(path: Path, device: Device) -> str:
    """The default backend for a file on a device: the first that opens it; OpenVINO if only that can use the device."""
    able = [name for name, spec in BACKENDS.items() if path.suffix.lower() in spec.suffixes]
    elsewhere = device.kind == "xpu" and "xpu" not in usable_kinds() and find_spec("openvino") is not None
    return "openvino" if elsewhere else next(iter(able), "onnxruntime")


def open_backend(name: str, path: Path, device: Device, options: Acceleration) -> Backend:
    """Open a file, whatever its inputs and outputs are. Raises as `Graph` does."""
    reason = unfit(name, path, device, options.precision)
    if reason:
        raise ParameterError(reason)
    return module_of(name).open_file(path, device, options)
