"""Inputs that are already decoded: arrays and PIL images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from maskline.errors import InputError
from maskline.inputs.input_image import InputImage, Levels, check_size
from maskline.instances import ByteArray

_TURNS: dict[int, Callable[[ByteArray], object]] = {
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.flip(cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE), 0),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


def from_array(array: npt.NDArray[Any]) -> ByteArray:
    """Convert any accepted array to (H, W, 3) BGR, without a copy if it already is. Raises InputError."""
    given = f"an array of {array.dtype} with shape {array.shape}"
    if array.dtype != np.uint8:
        raise InputError(f"{given}: expected uint8, 0 to 255, (H, W, 3) in the order BGR; convert it first")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InputError(f"{given}: expected (H, W, 3) BGR, (H, W, 4) BGRA, (H, W) or (H, W, 1); several go in a list")
    if array.size == 0:
        raise InputError(f"{given}: it has no pixels")
    if array.ndim == 2 or array.shape[2] == 1:
        array = np.broadcast_to(array.reshape(*array.shape[:2], 1), (*array.shape[:2], 3))
    return np.ascontiguousarray(array[..., :3])


def turn(pixels: ByteArray, orientation: int) -> ByteArray:
    """Apply an EXIF orientation (1 to 8) to pixels (H, W, 3) as stored."""
    if orientation == 1:
        return pixels
    return np.ascontiguousarray(_TURNS[orientation](pixels), np.uint8)


def from_pillow(image: Image.Image, *, bits: int = 16, white: bool = False) -> InputImage:
    """Convert a PIL image of any mode up to 16 bits, dropping alpha. Raises InputError, and what Pillow raises.

    Args:
        bits: bit depth of 16-bit modes; the upper 8 bits are kept.
        white: whether level 0 is white, in 16-bit modes.
    """
    check_size(*image.size)
    if image.mode.startswith("I;16"):
        deep = np.asarray(image).astype(np.uint16)
        levels = Levels(int(deep.min()), int(deep.max()), (1 << bits) - 1, white)
        pixels = (deep >> (bits - 8)).astype(np.uint8)
        return InputImage(from_array(~pixels if white else pixels), levels=levels if levels.are_narrow else None)
    if image.mode in ("I", "F"):
        raise InputError(wrong_pixels({"I": "int32", "F": "float32"}[image.mode]))
    if image.mode in ("RGBa", "La"):  # Pillow can't convert these to RGB directly
        image = image.convert(image.mode.upper())
    return InputImage(np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1]))


def wrong_pixels(kind: str) -> str:
    """Error message for an unsupported pixel type, such as float32."""
    return f"{kind} pixels: expected uint8 or uint16; scale them to one of these"
