"""Files of data sets from elsewhere: pictures by their headers, texts in the encodings that tools and editors leave."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import struct
import warnings
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from maskline.errors import DatasetError, InputError
from maskline.inputs import MAX_PIXELS

#: What Pillow raises on damaged files.
DAMAGE = (
    *(OSError, ValueError, SyntaxError, LookupError, TypeError, OverflowError),
    *(struct.error, Image.DecompressionBombError),
)
EXIF_ORIENTATION = 0x0112
UPRIGHT, SIDEWAYS = 1, range(5, 9)  # orientations; the latter swap width and height


def picture_size(source: Path | io.BytesIO) -> tuple[int, int]:
    """``(height, width)`` of a picture once its EXIF orientation is applied; only its header is read.

    Raises:
        InputError: it can't be read, or claims more than `MAX_PIXELS`.
    """
    name = source if isinstance(source, Path) else "the picture"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # we have our own limit
            with Image.open(source) as picture:
                width, height = picture.size
                sideways = _orientation(picture) in SIDEWAYS
    except DAMAGE as error:
        raise InputError(f"{name} is not a readable picture ({' '.join(str(error).split())})") from None
    if not 0 < width * height <= MAX_PIXELS:
        raise InputError(f"{name} has {width} x {height} pixels: expected at most {MAX_PIXELS} in all")
    return (width, height) if sideways else (height, width)


def orientation(path: Path) -> int:
    """The EXIF orientation of a picture, 1 to 8; 1 is upright, and what a file without one has."""
    try:
        with Image.open(path) as picture:
            return _orientation(picture)
    except DAMAGE:
        return UPRIGHT


def _orientation(picture: Image.Image) -> int:
    try:
        value = picture.getexif().get(EXIF_ORIENTATION)
    except DAMAGE:
        return UPRIGHT
    return value if isinstance(value, int) and value in range(1, 9) else UPRIGHT


def decode_base64(given: Any) -> bytes:
    """What a text in base64 stands for, be it a data URL. Raises InputError."""
    if not isinstance(given, str) or not given:
        raise InputError("it is not base64")
    try:
        return base64.b64decode("".join(given.rpartition(",")[2].split()), validate=True)
    except ValueError as error:
        raise InputError(f"damaged base64 ({error})") from None


def embedded_image(path: Path) -> bytes:
    """The image file that a JSON file of LabelMe holds as ``imageData``. Raises InputError."""
    try:
        content = json.loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} can't be read ({error})") from None
    return decode_base64(content.get("imageData") if isinstance(content, dict) else None)


def relative_name(name: str) -> str | None:
    """A file name with forward slashes and without ``.``; None if it leads out of its folder or is no file name."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.name or "\0" in name or re.match(r"[A-Za-z]:", name):
        return None
    return str(path)


def is_file(path: Path) -> bool:
    """Whether there is such a file, by a name from a data set: it raises nothing, however odd or long the name is."""
    return os.path.isfile(path)  # noqa: PTH113 (Path's own raises where a name is too long)


def text_of(path: Path) -> str:
    """A text file: UTF-8, or UTF-16 with its mark; what is neither is taken for GB 18030. Raises DatasetError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} can't be read: {error.strerror}") from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("gb18030", "replace")  # what users of the reference who don't write UTF-8 mostly write
