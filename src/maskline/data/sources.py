"""Files of data sets from elsewhere: sizes of images by their headers, names, texts."""

from __future__ import annotations

import base64
import io
import os
import re
from contextlib import nullcontext
from pathlib import Path, PurePosixPath
from typing import Any

from maskline._files import decode_text, read_json
from maskline.errors import DatasetError, InputError
from maskline.inputs import MAX_PIXELS, UPRIGHT, header_size, orientation

LFS_POINTER = "version https://git-lfs"  # how the files begin that stand for others in a repository


def image_size(source: Path | io.BytesIO) -> tuple[int, int]:
    """``(height, width)`` that `read_image` will give; only the header is read.

    Raises:
        InputError: it can't be read, or claims more than `MAX_PIXELS`.
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
    """The orientation of an image file, 1 to 8; 1 is upright, and what a file has that can't be read."""
    try:
        with path.open("rb") as file:
            return orientation(file)
    except OSError:
        return UPRIGHT


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
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read ({error})") from None
    return decode_base64(content.get("imageData") if isinstance(content, dict) else None)


def relative_name(name: str) -> str | None:
    """A file name with forward slashes and without ``.``; None if it leads out of its folder or is not a file name."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.name or "\0" in name or re.match(r"[A-Za-z]:", name):
        return None
    return str(path)


def is_file(path: Path) -> bool:
    """Whether there is such a file, by a name from a data set: it raises nothing, however odd or long the name is."""
    return os.path.isfile(path)  # noqa: PTH113 (Path's own raises where a name is too long)


def text_of(path: Path) -> str:
    """A text file, as `decode_text` reads it, with a mark for what is not text.

    Raises DatasetError if it can't be read, or is a pointer of Git LFS.
    """
    try:
        text = decode_text(path.read_bytes(), errors="replace")
    except OSError as error:
        raise DatasetError(f"{path} can't be read: {error.strerror}") from error
    if text.startswith(LFS_POINTER):
        raise DatasetError(f"{path} is a pointer of Git LFS: run git lfs pull")
    return text
