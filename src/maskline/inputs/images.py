"""Encoded images, checked before OpenCV decodes them.

On truncated files OpenCV fills in grey or writes to stderr, depending on version and format; we want one error that
names the file. JPEG and PNG, by far the most common, are parsed without decoding; other formats are first read by
Pillow, which is strict; TIFF and AVIF have their own modules. The format is recognized by the first bytes.

Damage within compressed data that leaves the structure of a JPEG or TIFF intact is not detected: decoders conceal it,
and libjpeg may print a warning on stderr.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, BinaryIO

import cv2
import numpy as np
import numpy.typing as npt
from PIL import ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.SunImagePlugin import SunImageFile
from PIL.WebPImagePlugin import WebPImageFile

from maskline.errors import InputError
from maskline.inputs import avif, tiff
from maskline.inputs.arrays import from_array, turn
from maskline.inputs.input_image import DAMAGE, HEAD, NARROW, Found, InputImage, Levels, check_size, fault, guarded
from maskline.inputs.orientation import SIDEWAYS, jpeg_segments, orientation
from maskline.inputs.tiff import TIFF
from maskline.inputs.unread import not_an_image
from maskline.instances import ByteArray

JPEG = b"\xff\xd8\xff"
PNG = b"\x89PNG\r\n\x1a\n"
_OTHER: tuple[tuple[re.Pattern[bytes], type[ImageFile.ImageFile]], ...] = (
    (re.compile(rb"BM"), BmpImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImageFile),
    (re.compile(rb"P[1-6]\s"), PpmImageFile),
    (re.compile(rb"\x59\xa6\x6a\x95"), SunImageFile),
)
_MAY_BE_DEEP = re.compile(rb"\x89PNG.{20}\x10|P[2356]\s", re.DOTALL)  # 16 bits per channel


def header_size(file: BinaryIO) -> tuple[int, int]:
    """``(height, width)`` of an encoded image after decoding, as claimed by its header; of a TIFF, its first image's.

    Nothing is decoded or allocated, and no more of the file is read than needed.

    Raises:
        InputError: the format is not supported, or the header is damaged.
    """
    file.seek(0)
    head = file.read(HEAD)
    width, height = _stored_size(file, head)
    return (width, height) if orientation(file) in SIDEWAYS else (height, width)


def _stored_size(file: BinaryIO, head: bytes) -> tuple[int, int]:
    """``(width, height)`` as claimed, before rotation. Raises InputError."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _claimed_by_webp(head)
    if head[:8] == PNG:
        return _claimed_by_png(head)
    if head[:3] == JPEG:
        return _claimed_by_jpeg(file)
    if head[:4] in TIFF:
        return tiff.stored_size(file)
    file.seek(0)
    if avif.is_avif(head):
        return avif.stored_size(file.read())
    reader: type[ImageFile.ImageFile] | None = next((r for magic, r in _OTHER if magic.match(head)), None)
    if reader is None:
        raise InputError(not_an_image(head)).because("not supported")
    try:
        with reader(file) as image:
            return image.width, image.height
    except DAMAGE as error:
        raise fault("the header of the image", error) from error


def _claimed_by_jpeg(file: BinaryIO) -> tuple[int, int]:
    """From the frame header; Pillow would parse EXIF data first and fail on bad data."""
    for code, start, _ in jpeg_segments(file):
        if code in _SIZE_MARKERS:
            file.seek(start + 1)
            if len(sides := file.read(4)) == 4:
                height, width = struct.unpack(">HH", sides)
                return width, height
    raise InputError("the JPEG data is cut short or damaged: its header has no size").because("damaged")


def _claimed_by_png(data: bytes) -> tuple[int, int]:
    """From the first chunk, which must be IHDR; Pillow would decompress text and profiles first."""
    if len(data) < 24 or data[12:16] != b"IHDR":
        raise InputError("the PNG data is cut short or damaged: its header has no size").because("damaged")
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _claimed_by_webp(data: bytes) -> tuple[int, int]:
    """From the WebP container (RFC 9649, sections 2.5 to 2.7); Pillow would allocate the image first."""
    kind = data[12:16]
    try:
        if kind == b"VP8X":
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        if kind == b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        if kind == b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
    except struct.error:
        pass
    raise InputError("the WebP data is cut short or damaged: its header has no size").because("damaged")


def decode(data: bytes, name: str, path: str | None) -> Iterator[Found]:
    """Decode an image file: one image, or for TIFF one per page that is an image. ``name`` is for messages."""
    if data[:4] in TIFF:
        yield from tiff.decode_tiff(data, name, path)
        return
    try:
        yield replace(guarded(_decode_single, data, name), path=path)
    except InputError as error:
        yield error


def _decode_single(data: bytes) -> InputImage:
    """Decode any format but TIFF. Raises InputError without a name, and what Pillow and OpenCV raise on damage."""
    if avif.is_avif(data):
        return avif.decode_avif(data)
    if data[:3] == JPEG:
        _check_jpeg(data)
    elif data[:8] == PNG:
        _check_png(data)
    else:
        _check_other(data)
    pixels = from_array(_decode_by_opencv(data, cv2.IMREAD_COLOR))
    return InputImage(turn(pixels, orientation(io.BytesIO(data))), levels=_narrow_levels(data, pixels))


def _decode_by_opencv(data: bytes, flags: int) -> npt.NDArray[Any]:
    """Decode the pixels as stored, without applying the orientation."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ValueError("OpenCV could not decode it")
    return np.asarray(pixels)


def _narrow_levels(data: bytes, pixels: ByteArray) -> Levels | None:
    """Levels of a 16-bit PNG or PNM if ``pixels``, its upper 8 bits, are nearly black; else None."""
    if not _MAY_BE_DEEP.match(data) or pixels.max(initial=0) >= 256 // NARROW:
        return None
    deep = _decode_by_opencv(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    levels = Levels(int(deep.min()), int(deep.max()), 65535)
    return levels if deep.dtype == np.uint16 and levels.are_narrow else None


# A JPEG marker is 0xFF and a code; in a scan, 0xFF 0x00 stands for a data byte and D0 to D7 restart the coder.
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE_MARKERS = {0xD8, 0x01}
_END_OF_IMAGE = 0xD9


def _check_jpeg(data: bytes) -> None:
    """Walk the segments and scans up to the end marker; one inside a segment belongs to a thumbnail."""
    position = 2
    while marker := _MARKER.search(data, position):
        code, position = marker[1][0], marker.end()
        if code == _END_OF_IMAGE:
            return
        if code in _SIZE_MARKERS and position + 7 <= len(data):
            height, width = struct.unpack_from(">HH", data, position + 3)
            check_size(width, height)
        if code not in _BARE_MARKERS:
            position += int.from_bytes(data[position : position + 2], "big")
    raise InputError("the JPEG data is cut short: it has no end marker").because("damaged")


def _check_png(data: bytes) -> None:
    """Walk the chunks up to IEND and verify the checksums of critical ones, as a decoder would."""
    view, position = memoryview(data), len(PNG)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        critical = kind[:1].isupper()
        if critical and zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise InputError(f"the PNG data is damaged: wrong checksum of the chunk {kind.decode('latin-1')}").because(
                "damaged"
            )
        if kind == b"IHDR" and length >= 8:
            check_size(*struct.unpack_from(">II", data, position + 8))
        if kind == b"IEND":
            return
        position = end
    raise InputError("the PNG data is cut short: it has no end chunk").because("damaged")


def _check_other(data: bytes) -> None:
    """Have Pillow read BMP, WebP, PNM and Sun raster: it is strict where OpenCV is lenient or noisy."""
    reader = next((reader for magic, reader in _OTHER if magic.match(data)), None)
    if reader is None:
        raise InputError(not_an_image(data)).because("not supported")
    if reader is WebPImageFile:  # allocates the image when opened
        check_size(*_claimed_by_webp(data))
    with reader(io.BytesIO(data)) as image:
        check_size(*image.size)
        if reader is BmpImageFile:  # Pillow accepts a last row without padding, OpenCV does not
            _check_bmp_rows(image, len(data))
        if reader is not WebPImageFile:  # already loaded
            image.load()


def _check_bmp_rows(image: ImageFile.ImageFile, available: int) -> None:
    """Raise InputError unless all rows of an uncompressed BMP are present."""
    for tile in image.tile:
        arguments = tile[3]
        if tile[0] == "raw" and isinstance(arguments, tuple):
            needed = tile[2] + int(arguments[1]) * image.size[1]
            if needed > available:
                raise InputError(f"the BMP data is cut short: {available} of {needed} bytes").because("damaged")


def is_image(head: bytes) -> bool:
    """Whether ``head``, the first bytes of a file, is that of a supported image."""
    return head.startswith((JPEG, PNG, *TIFF)) or avif.is_avif(head) or any(m.match(head) for m, _ in _OTHER)
