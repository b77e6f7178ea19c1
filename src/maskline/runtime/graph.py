"""A model file: an ONNX graph that follows the contract and describes itself.

The contract, the same for all families:

====== ================= ======= ===========================================================================
input  image             uint8   (B, H, W, 3) RGB; float32, normalised, for models that resize floats
output boxes             float32 (B, K, 4) ``x1 y1 x2 y2`` in pixels of the network's input
output scores            float32 (B, K) best first; 0 where there is no object
output labels            int64   (B, K)
output masks             float32 (B, K, h, w), foreground where positive; `MASK_FRAMES` says how they lie
====== ================= ======= ===========================================================================

A pixel is foreground where the bilinear interpolation of its mask at the pixel's centre is positive, and beyond the
mask's border the border's values go on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from maskline.checks import check_score
from maskline.errors import DeviceError, ModelError
from maskline.instances import FloatArray, IntArray
from maskline.preprocess import Preprocess
from maskline.runtime.device import PROVIDERS, Device

RECORD_KEY = "maskline"
RECORD_VERSION = 1
INPUT = "image"
OUTPUTS = ("boxes", "scores", "labels", "masks")

#: How masks lie. ``image``: over the whole input. ``within``: so too, but of each only what is in its box means
#: anything. ``box``: over its box, with a ring of one cell around it. Cells 1 to h - 2 cover the box's height and 1 to
#: w - 2 its width, once the box is in the image and clipped to it; the ring lies outside and is background. (With
#: probability - 0.5 in the box and -0.5 in the ring, that is Mask R-CNN's paste: zero beyond the box, then >= 0.5.)
#: ``tight``: over the whole input, and a box is its mask's own: the graph's holds all of it, the image's is cut to it.
MASK_FRAMES = ("image", "within", "box", "tight")


@dataclass(frozen=True, slots=True)
class Record:
    """What a model file says about itself."""

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
        """The text kept in the graph's metadata."""
        return json.dumps(
            {
                "version": RECORD_VERSION,
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
                mask_frame=str(values["mask_frame"]),
                made_by=str(values["made_by"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{path} has a damaged description of itself ({error!r}): export the model again"
            ) from None


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
    """An opened model file on one device."""

    def __init__(self, path: Path, device: Device, *, threads: int | None = None) -> None:
        """Open a file and check that it keeps the contract.

        Args:
            threads: processor threads for one run; None leaves it to ONNX Runtime (one for each core).

        Raises:
            ModelError: the file is damaged, or no maskline model.
            DeviceError: the device is there in name only.
        """
        self.path, self.device = path, device
        self._session = _open(path, device, threads)
        metadata = self._session.get_modelmeta().custom_metadata_map
        if RECORD_KEY not in metadata:
            raise ModelError(f"{path} is an ONNX file but not a maskline model: make one with `maskline export`")
        self.record = Record.from_json(metadata[RECORD_KEY], path)
        names = tuple(o.name for o in self._session.get_outputs()), tuple(i.name for i in self._session.get_inputs())
        if names != (OUTPUTS, (INPUT,)):
            raise ModelError(f"{path} has inputs and outputs {names}: expected {((INPUT,), OUTPUTS)}; export it again")

    def run(self, images: npt.NDArray[Any]) -> Raw:
        """(B, H, W, 3) to detections. Raises ModelError where the graph fails, for example for lack of memory."""
        try:
            return Raw(*self._session.run(list(OUTPUTS), {INPUT: images}))
        except _runtime_errors() as error:
            raise ModelError(f"{self.path} failed on an input of shape {images.shape}: {_first_line(error)}") from None


def _open(path: Path, device: Device, threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its own lines on stderr would repeat the error raised here
    if threads is not None:
        options.intra_op_num_threads = threads
    provider = next(p for p in PROVIDERS[device.kind] if p in onnxruntime.get_available_providers())
    numbered = device.kind in ("gpu", "npu")  # the other providers don't know the option
    providers: list[Any] = [(provider, {"device_id": device.index} if numbered else {})]
    if device.kind != "cpu":
        providers.append("CPUExecutionProvider")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except _runtime_errors() as error:
        raise ModelError(f"{path} can't be opened ({_first_line(error)}): fetch or export the model again") from None
    if provider not in session.get_providers():
        raise DeviceError(f"device {device} can't be used: ONNX Runtime could not start {provider} (driver, library?)")
    return session


def _runtime_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: its own exceptions, which have no common base, and built-in ones."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [v for v in vars(state).values() if isinstance(v, type) and issubclass(v, Exception)]
    return (RuntimeError, ValueError, *own)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
