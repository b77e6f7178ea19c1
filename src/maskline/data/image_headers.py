"""Size and orientation of images from their headers, and images embedded in annotation files."""

from __future__ import annotations

import base64
import io
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from maskline._files import read_json
from maskline.errors import InputError
from maskline.inputs import MAX_PIXELS, UPRIGHT, header_size, orientation


def image_size(source: Path | io.BytesIO) -> tuple[int, int]:
    """``(height, width)`` of what `read_image` returns; only the header is read.

    Raises:
        InputError: the header can't be read, or claims more than `MAX_PIXELS`.
    """
    name = source if isinstance(source, Path) else "the image"
    try:
        with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
            height, width = header_size(file)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{name} is not a readable image ({' '.join(str(reason).split())})") from None
    if not 0 < width * height <= MAX_PIXELS:
        raise InputError(f"{name} has {width} x {height} pixels: expected at most {MAX_PIXELS} in all")
    return height, width


def orientation_of(path: Path) -> int:
    """The EXIF orientation of an image file, 1 to 8; 1 (upright) if the file can't be read."""
    try:
        with path.open("rb") as file:
            return orientation(file)
    except OSError:
        return UPRIGHT


def decode_base64(given: Any) -> bytes:
    """Decode a base64 string or data URL. Raises InputError."""
    if not isinstance(given, str) or not given:
        raise InputError("it is not base64")
    try:
        return base64.b64decode("".join(given.rpartition(",")[2].split()), validate=True)
    except ValueError as error:
        raise InputError(f"damaged base64 ({error})") from None


def embedded_image(path: Path) -> bytes:
    """The image file in ``imageData`` of a LabelMe JSON file. Raises InputError."""
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read ({error})") from None
    return decode_base64(content.get("imageData") if isinstance(content, dict) else None)
