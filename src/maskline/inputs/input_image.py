"""`Image`, what every kind of input becomes, and how a reader says what is wrong with one."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import cv2
from PIL import Image

from maskline.errors import DownloadError, InputError
from maskline.instances import ByteArray

MAX_PIXELS = 178_956_970  # of one image; what claims more is taken for a decompression bomb
HEAD = 1024  # bytes that tell what a file holds; %PDF- may come as late as that
NARROW = 8  # the part of the range, one eighth, within which levels are told of: 13 of 16 bits
# What Pillow and OpenCV raise on damaged files.
DAMAGE = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, OverflowError),
    *(struct.error, cv2.error, Image.DecompressionBombError),
)


class Levels(NamedTuple):
    """The levels of an image of more than 8 bits of which its upper 8 show next to nothing.

    Attributes:
        low, high: its lowest and highest level, as in the file; of a TIFF in colour the bounds that its upper 8 bits
            give.
        most: the highest that it could have.
        white: level 0 is white.
    """

    low: int
    high: int
    most: int
    white: bool = False

    @property
    def are_narrow(self) -> bool:
        """Whether something is there, but in the lowest eighth of the range."""
        return 0 < self.high < (self.most + 1) // NARROW

    def __str__(self) -> str:
        shown = "white" if self.white else "black"
        return (
            f"levels {self.low} to {self.high} of {self.most}: nearly {shown} in 8 bits; scale them to the full range"
        )


@dataclass(frozen=True, slots=True, eq=False)
class InputImage:
    """One image to look at.

    Attributes:
        pixels: (H, W, 3) uint8, BGR, C-contiguous. May be the very array the user gave: not to be written to.
        path: the file it is from, as given (a file found in a folder: the folder as given, and the way down; of a URL:
            the copy in the cache; of a camera: ``camera_0``; of a stream: its address without the password); or None.
        page: 0, 1, ... in a PDF or TIFF file, also if that has a single page, and of a frame; else None.
        fps: of a frame of a video, camera or stream: how many of them are a second, 0.0 where nobody knows; else None.
        levels: of an image of more than 8 bits that is nearly black (or white) in 8, such as 12 bits in 16; else None.
    """

    pixels: ByteArray
    path: str | None = None
    page: int | None = None
    fps: float | None = None
    levels: Levels | None = None


#: What a reader finds, in order: an image, or why there is none. So one bad page does not hide those after it.
Found: TypeAlias = InputImage | InputError | DownloadError


def check_size(width: int, height: int) -> None:
    """Pixels claimed by a header. Raises InputError if there are too many, or none."""
    if width * height > MAX_PIXELS:
        raise InputError(f"{width} x {height} pixels: expected at most {MAX_PIXELS} in one image").because("too large")
    if min(width, height) <= 0:
        raise InputError(f"{width} x {height} pixels: nothing to look at").because("empty")


def guarded(step: Callable[[Any], InputImage], value: object, name: str) -> InputImage:
    """``step(value)``, whose complaints about the image become an InputError that names it."""
    try:
        return step(value)
    except (*DAMAGE, InputError) as error:
        raise fault(name, error) from error


def fault(name: str, error: BaseException) -> InputError:
    """The error about ``name``: our own words as they are; those of a decoder with what they mean."""
    if isinstance(error, InputError):
        return InputError(f"{name}: {error}").because(error.reason)
    told = " ".join(str(error).split())
    return InputError(f"{name}: damaged, or a variant of its format that can't be decoded ({told})").because("damaged")
