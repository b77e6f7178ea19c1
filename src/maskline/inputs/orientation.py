"""Orientation of encoded images: the only reader, used for decoding and for headers.

Sources: EXIF data of a JPEG (an APP1 segment before the image data), PNG (the eXIf chunk, before or after the pixels)
or WebP (the EXIF chunk); the tag of a TIFF page; the rotation and mirroring in an AVIF container. As in OpenCV, XMP and
ImageMagick's "Raw profile" text chunks are ignored. Versions of OpenCV and Pillow differ in what they read, so we rely
on neither.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Literal, NamedTuple

from maskline.errors import InputError
from maskline.inputs import avif, tiff
from maskline.inputs.input_image import DAMAGE, HEAD
from maskline.inputs.tiff import ORIENTATION, TIFF

UPRIGHT, SIDEWAYS = 1, range(5, 9)  # orientations; those in SIDEWAYS swap width and height

_MOST_PARTS = 100_000  # segments or chunks visited per file
_SHORT = 3  # TIFF field type
_WEBP_HAS_EXIF = 0x08
_JPEG_PIXELS = (0xD9, 0xDA)  # markers: end of image, start of scan
_JPEG_BARE = (0x01, *range(0xD0, 0xD9))  # markers without a length
_JPEG_APP1, _JPEG_EXIF = 0xE1, b"Exif\0\0"


def orientation(file: BinaryIO) -> int:
    """Orientation of an encoded image, 1 to 8 as in EXIF; 1 (upright) if it states none or its header is damaged.

    Only headers are read. For TIFF: that of the first image.
    """
    file.seek(0)
    head = file.read(HEAD)
    try:
        if head[:4] in TIFF:
            return tiff.stored_orientation(file)
        if avif.is_avif(head):
            file.seek(0)
            return avif.stored_orientation(file.read())
    except (*DAMAGE, InputError):
        return UPRIGHT
    field = _find(file)
    return UPRIGHT if field is None else field.value


def can_be_set(file: BinaryIO) -> bool:
    """Whether `set_upright` applies: a JPEG, PNG, WebP or TIFF file that states an orientation.

    False for BigTIFF and multi-page TIFF.
    """
    return _find(file) is not None


def set_upright(file: BinaryIO) -> None:
    """Overwrite the orientation in a file with 1 (upright). The stored pixels are not touched.

    ``file`` must be open for reading and writing. Raises ValueError if the orientation can't be set (see `can_be_set`).
    """
    field = _find(file)
    if field is None:
        raise ValueError("no orientation that can be set")
    file.seek(field.entry)
    file.write(struct.pack(f"{field.order}HHIHH", ORIENTATION, _SHORT, 1, UPRIGHT, 0))
    if field.checked:
        start, end = field.checked
        file.seek(start)
        checksum = zlib.crc32(file.read(end - start))
        file.seek(end)
        file.write(struct.pack(">I", checksum))


def jpeg_segments(file: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """Segments of a JPEG file before its image data: marker code, start and end of the content."""
    position = 2
    for _ in range(_MOST_PARTS):
        mark = _at(file, position, 2)
        if len(mark) < 2 or (mark[0] == 0xFF and mark[1] in _JPEG_PIXELS):
            return
        if mark[0] != 0xFF or mark[1] in (0x00, 0xFF):  # junk, which decoders skip, or fill bytes
            position += 1
        elif mark[1] in _JPEG_BARE:
            position += 2
        else:
            start, end = position + 4, position + 2 + int.from_bytes(_at(file, position + 2, 2), "big")
            yield mark[1], start, end
            position = max(start, end)


# ---- EXIF data: a small TIFF file embedded in the image file


class _Block(NamedTuple):
    """Span of EXIF data in a file; ``checked``: the span, if any, that is followed by its CRC-32."""

    start: int
    end: int
    checked: tuple[int, int] | None = None


class _Field(NamedTuple):
    """An orientation in a file: value, offset of its 12-byte entry, byte order; ``checked`` as in `_Block`."""

    value: int
    entry: int
    order: Literal["<", ">"]
    checked: tuple[int, int] | None


def _find(file: BinaryIO) -> _Field | None:
    """The first orientation in a file."""
    file.seek(0)
    head = file.read(12)
    blocks: Iterable[_Block] = ()
    if head[:3] == b"\xff\xd8\xff":
        blocks = _in_jpeg(file)
    elif head[:8] == b"\x89PNG\r\n\x1a\n":
        blocks = _in_png(file)
    elif head[:4] == b"RIFF" and head[8:] == b"WEBP":
        blocks = _in_webp(file)
    elif head[:4] in TIFF:
        blocks = [_Block(0, file.seek(0, io.SEEK_END))]
    fields = (_field(file, block) for block in blocks)
    return next((field for field in fields if field is not None), None)


def _field(file: BinaryIO, block: _Block) -> _Field | None:
    """The orientation in the first directory of a block; None for a TIFF file with several directories."""
    mark = _at(file, block.start, 8)
    order = TIFF.get(mark[:4])
    if order is None or len(mark) < 8 or b"+" in mark[:4]:  # BigTIFF
        return None
    start = block.start + int(struct.unpack_from(f"{order}I", mark, 4)[0]) + 2
    count = _at(file, start - 2, 2)
    if len(count) < 2 or start > block.end:
        return None
    size = 12 * int(struct.unpack(f"{order}H", count)[0])
    if block.start == 0 and any(_at(file, start + size, 4)):
        return None
    entries = _at(file, start, min(size, block.end - start))
    for number, (tag, value) in enumerate(struct.iter_unpack(f"{order}H6xH2x", entries[: len(entries) // 12 * 12])):
        if tag == ORIENTATION:  # its first 16 bits whatever its type, as in OpenCV
            return _Field(value if value in range(1, 9) else UPRIGHT, start + 12 * number, order, block.checked)
    return None


def _in_jpeg(file: BinaryIO) -> Iterator[_Block]:
    for code, start, end in jpeg_segments(file):
        if code == _JPEG_APP1 and _at(file, start, len(_JPEG_EXIF)) == _JPEG_EXIF:
            yield _Block(start + len(_JPEG_EXIF), end)


def _in_png(file: BinaryIO) -> Iterator[_Block]:
    position = 8
    for _ in range(_MOST_PARTS):
        head = _at(file, position, 8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        length, kind = struct.unpack(">I4s", head)
        start, end = position + 8, position + 8 + length
        if kind == b"eXIf" and _at(file, end, 4) == zlib.crc32(_at(file, position + 4, length + 4)).to_bytes(4, "big"):
            yield _Block(start, end, (position + 4, end))
        position = end + 4


def _in_webp(file: BinaryIO) -> Iterator[_Block]:
    """Blocks in the extended format, if its header announces EXIF data."""
    head = _at(file, 0, 21)
    if len(head) < 21 or head[12:16] != b"VP8X" or not head[20] & _WEBP_HAS_EXIF:
        return
    position, end = 12, 8 + int.from_bytes(head[4:8], "little")
    for _ in range(_MOST_PARTS):
        head = _at(file, position, 8)
        if len(head) < 8 or position + 8 > end:
            return
        kind, length = struct.unpack("<4sI", head)
        if kind == b"EXIF":
            yield _Block(position + 8, min(position + 8 + length, end))
        position += 8 + length + length % 2


def _at(file: BinaryIO, position: int, length: int) -> bytes:
    file.seek(position)
    return file.read(length)
