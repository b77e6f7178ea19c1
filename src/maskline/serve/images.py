"""Extraction of image files from requests; nothing is decoded here."""

from __future__ import annotations

import base64
import binascii
import io
import re

from maskline.errors import InputError
from maskline.inputs import header_size
from maskline.inputs.files import kind_of
from maskline.inputs.input_image import check_size
from maskline.serve.refusal import RefusalError

_URL = re.compile(r"https?://", re.IGNORECASE)
_DATA_URL = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)
_LINE_ENDS = str.maketrans("", "", "\r\n")


def is_url(image: str | bytes) -> bool:
    """Whether an image is a URL to fetch, rather than Base64 or the bytes of a file."""
    return isinstance(image, str) and _URL.match(image) is not None


def file_of(image: str | bytes) -> bytes:
    """Return the bytes of an image file sent as is or in Base64. Raises RefusalError (422)."""
    data = image if isinstance(image, bytes) else _from_base64(image)
    if not data:
        raise RefusalError.of_image("image_empty", "empty: send the bytes of an image file")
    return data


def _from_base64(text: str) -> bytes:
    """Decode Base64 (RFC 4648, section 4), also in a data URL or with line breaks. Raises RefusalError (422)."""
    start = 0
    if text[:5].lower() == "data:":
        prefix = _DATA_URL.match(text)
        if prefix is None:
            raise RefusalError.of_image("base64_invalid", "a data URL without `;base64,`: send the image in Base64")
        start = prefix.end()
    body = text[start:]
    if "\n" in body:
        body = body.translate(_LINE_ENDS)
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:  # ValueError: not ASCII
        reason = "padding is missing or wrong" if "padding" in str(error).lower() else "invalid characters"
        raise RefusalError.of_image("base64_invalid", f"not Base64 ({reason}), nor an http(s) URL") from None


def pixels_claimed(data: bytes, most: int) -> int:
    """Pixels of an image by its header. Raises RefusalError: 422 if invalid, 413 if there are more than ``most``."""
    try:
        if kind_of(data) == "pdf":
            raise InputError("a PDF file: send its pages as images")
        height, width = header_size(io.BytesIO(data))
        if width * height > most:
            raise RefusalError(413, f"the image has {width} x {height} pixels: this service accepts up to {most}")
        check_size(width, height)
    except InputError as error:
        raise RefusalError.of_image("image_invalid", str(error)) from None
    return width * height
