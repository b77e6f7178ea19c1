"""`InputImage`, which every input becomes, and the errors that readers report."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import cv2
from PIL import Image

from maskline.errors import DownloadError, InputError
from maskline.instances import ByteArray

MAX_PIXELS = 178_956_970  # per image; more is treated as a decompression bomb
HEAD = 1024  # bytes read to recognize a file; %PDF- may occur anywhere in them
NARROW = 8  # levels within 1/NARROW of the range (13 of 16 bits) are reported
# Exceptions of Pillow and OpenCV on damaged files.
DAMAGE = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, OverflowError),
    *(struct.error, cv2.error, Image.DecompressionBombError),
)


class Levels(NamedTuple):
    """Levels of an image with more than 8 bits that is nearly black (or white) in its upper 8.

    Attributes:
        low, high: lowest and highest level in the file; for colour TIFF, the bounds given by its upper 8 bits.
        most: highest level possible.
        white: level 0 is white.
    """

    low: int
    high: int
    most: int
    white: bool = False

    @property
    def are_narrow(self) -> bool:
        """Whether the image is not empty but confined to the lowest eighth of the range."""
        return 0 < self.high < (self.most + 1) // NARROW

    def __str__(self) -> str:
        shown = "white" if self.white else "black"
        return (
            f"levels {self.low} to {self.high} of {self.most}: nearly {shown} in 8 bits; scale them to the full range"
        )


@dataclass(frozen=True, slots=True, eq=False)
class InputImage:
    """One image to predict on.

    Attributes:
        pixels: (H, W, 3) uint8, BGR, C-contiguous. May be the user's own array: don't write to it.
        path: source file as given (in a folder: joined to the folder as given; for a URL: the cached copy; for a
            camera: ``camera_0``; for a stream: its address without the password); None for arrays and bytes.
        page: index from 0 of a PDF or TIFF page (also of a single one) or of a video frame; else None.
        fps: frame rate of a video, camera or stream, 0.0 if unknown; else None.
        levels: set for images with more than 8 bits that are nearly black (or white) in 8, such as 12-bit data in 16
            bits; else None.
    """

    pixels: ByteArray
    path: str | None = None
    page: int | None = None
    fps: float | None = None
    levels: Levels | None = None


#: What a reader yields, in order: images, or errors in their place, so that one bad page does not hide the next.
Found: TypeAlias = InputImage | InputError | DownloadError


def check_size(width: int, height: int) -> None:
    """Raise InputError if the size claimed by a header is zero or exceeds `MAX_PIXELS`."""
    if width * height > MAX_PIXELS:
        raise InputError(f"{width} x {height} pixels: expected at most {MAX_PIXELS} in one image").because("too large")
    if min(width, height) <= 0:
        raise InputError(f"{width} x {height} pixels: the image is empty").because("empty")


def guarded(step: Callable[[Any], InputImage], value: object, name: str) -> InputImage:
    """Call ``step(value)``; exceptions about the image become an InputError that names it."""
    try:
        return step(value)
    except (*DAMAGE, InputError) as error:
        raise fault(name, error) from error


def fault(name: str, error: BaseException) -> InputError:
    """An InputError about ``name``, from one of ours or from a decoder's exception."""
    if isinstance(error, InputError):
        return InputError(f"{name}: {error}").because(error.reason)
    reason = " ".join(str(error).split())
    return InputError(f"{name}: damaged, or an unsupported variant of its format ({reason})").because("damaged")
