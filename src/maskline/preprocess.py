"""Preprocessing of an image into a network's input, and the mapping back.

`Preprocess` describes what a model expects; `Preprocess.apply` produces it, together with the `Frame` that maps the
network's coordinates back to the image.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from maskline.errors import ModelError
from maskline.instances import ByteArray

INTERPOLATION = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos4": cv2.INTER_LANCZOS4,
}


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How an image is turned into a network's input.

    With ``keep_ratio`` the image is scaled so that its short side is ``min(height, width)``, unless its long side would
    exceed ``max(height, width)``; without, it is stretched to ``height`` x ``width``. It is then padded with zeros on
    the right and at the bottom to a multiple of ``pad_stride`` (0: no padding here; networks that need it pad by
    themselves). Normalisation, ``(pixel * scale - mean) / std`` for RGB, happens inside the graph, except for
    ``float_resize`` models, which are normalised before the resize.
    """

    height: int
    width: int
    keep_ratio: bool = False
    interpolation: str = "cubic"
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    pad_stride: int = 0
    float_resize: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values, for the record in a model file."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """The inverse of `to_dict`. Raises ModelError on unknown or missing keys."""
        known = {f.name for f in fields(cls)}
        if set(values) != known or values["interpolation"] not in INTERPOLATION:
            raise ModelError(f"the model's preprocess record is {values!r}: expected the keys {sorted(known)}")
        plain: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**plain)

    @property
    def has_free_size(self) -> bool:
        """Whether the size of inputs depends on the image."""
        return self.keep_ratio and self.pad_stride < max(self.height, self.width)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) an image is scaled to, before padding."""
        if not self.keep_ratio:
            return self.height, self.width
        short, long = sorted((self.height, self.width))
        ratio = min(short / min(height, width), long / max(height, width))
        return max(round(height * ratio), 1), max(round(width * ratio), 1)

    def apply(self, image: ByteArray) -> tuple[npt.NDArray[Any], Frame]:
        """Turn an image (H, W, 3) uint8 BGR into an input (h, w, 3) RGB, uint8 (float32 with ``float_resize``)."""
        height, width = image.shape[:2]
        h, w = self.resized(height, width)
        pixels: npt.NDArray[Any] = self._normalise(image) if self.float_resize else image
        pixels = cv2.resize(pixels, (w, h), interpolation=INTERPOLATION[self.interpolation])
        if not self.float_resize:
            pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        return pad_to_multiple(pixels, self.pad_stride), Frame((height, width), (h, w))

    def _normalise(self, image: ByteArray) -> npt.NDArray[np.float32]:
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.float32)
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return np.asarray(rgb * (np.float32(self.scale) / std) - mean / std, np.float32)


@dataclass(frozen=True, slots=True)
class Frame:
    """Placement of an image (``size``) in a network's input: scaled to ``resized`` (h, w), at the top left corner."""

    size: tuple[int, int]
    resized: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """Image pixels per pixel of the network's input, along y and x."""
        return self.size[0] / self.resized[0], self.size[1] / self.resized[1]


def pad_to_multiple(pixels: npt.NDArray[Any], stride: int) -> npt.NDArray[Any]:
    """Pad (h, w, 3) with zeros at the bottom and right to multiples of ``stride``."""
    if stride <= 1:
        return pixels
    h, w = pixels.shape[:2]
    return pad_to(pixels, -(-h // stride) * stride, -(-w // stride) * stride)


def pad_to(pixels: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[Any]:
    """Pad (h, w, 3) with zeros at the bottom and right to a given size."""
    h, w = pixels.shape[:2]
    return pixels if (h, w) == (height, width) else np.pad(pixels, ((0, height - h), (0, width - w), (0, 0)))
