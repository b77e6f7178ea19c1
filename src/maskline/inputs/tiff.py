"""TIFF: its structure is walked first, then Pillow decodes one page at a time."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from maskline.errors import InputError
from maskline.inputs.arrays import from_pillow
from maskline.inputs.picture import DAMAGE, MAX_PIXELS, Found, Picture, check_size, fault

TIFF: dict[bytes, Literal["<", ">"]] = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}  # byte orders
ORIENTATION = 0x0112  # the tag that says how a page is turned, here and in EXIF data
_XMP = "xmp"  # Pillow's key; where there is no tag, it would turn pages by the orientation in XMP
_TYPE_BYTES = dict(zip(range(1, 14), (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4), strict=True)) | {16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8"}  # type of a field: NumPy's
_PIXEL_FIELDS = ((273, 279), (324, 325))  # offsets and lengths of strips; of tiles


@dataclass(frozen=True, slots=True)
class _Tiff:
    """A TIFF file as its structure is written: numbers in ``order`` of bytes, offsets as ``I`` or (BigTIFF) ``Q``."""

    data: bytes
    order: Literal["<", ">"]
    offset: Literal["I", "Q"]

    @classmethod
    def of(cls, data: bytes) -> _Tiff:
        return cls(data, TIFF[data[:4]], "Q" if b"+" in data[:4] else "I")

    def numbers(self, codes: str, position: int) -> tuple[int, ...]:
        return struct.unpack_from(self.order + codes, self.data, position)

    def array(self, kind: int, number: int, position: int) -> npt.NDArray[np.uint64]:
        dtype = np.dtype(_INTEGERS[kind]).newbyteorder(self.order)
        return np.frombuffer(self.data, dtype, number, position).astype(np.uint64)


def _check_tiff(data: bytes) -> int:
    """Follow all directories and see that they, and the pixels they point to, lie inside the file. Returns how many."""
    tiff = _Tiff.of(data)
    try:
        (position,) = tiff.numbers(tiff.offset, 8 if tiff.offset == "Q" else 4)
        seen = {0}
        while position not in seen:
            seen.add(position)
            position = _check_directory(tiff, position)
        return len(seen) - 1
    except (struct.error, ValueError, OverflowError) as error:
        raise InputError("the TIFF data is cut short or damaged: parts of it would lie past its end") from error


def _check_directory(tiff: _Tiff, position: int) -> int:
    """Check one page. Returns the offset of the next, 0 after the last. Raises struct.error or ValueError."""
    word = struct.calcsize(f"<{tiff.offset}")  # bytes of an offset, and of the field for a value that fits
    (entries,) = tiff.numbers("Q" if word == 8 else "H", position)
    position += 8 if word == 8 else 2
    fields: dict[int, npt.NDArray[np.uint64]] = {}
    for _ in range(entries):
        tag, kind, number = tiff.numbers(f"HH{tiff.offset}", position)
        where, length = position + 4 + word, number * _TYPE_BYTES.get(kind, 0)
        if length > word:
            (where,) = tiff.numbers(tiff.offset, where)
        _require(where + length <= len(tiff.data))
        if kind in _INTEGERS:
            fields[tag] = tiff.array(kind, number, where)
        position += 4 + 2 * word
    for offsets, lengths in _PIXEL_FIELDS:
        if offsets in fields and lengths in fields:
            _require((fields[offsets] + fields[lengths]).max(initial=0) <= len(tiff.data))
    return tiff.numbers(tiff.offset, position)[0]


def _require(inside: bool | np.bool_) -> None:
    if not inside:
        raise ValueError("past the end")


def page_orientation(image: TiffImageFile) -> int:
    """The orientation that the tag of the current page states, 1 to 8; 1 (upright) where there is none."""
    image.info.pop(_XMP, None)
    value: Any = image.getexif().get(ORIENTATION)
    return int(value) if value in range(1, 9) else 1


def _load_page(frame: Image.Image) -> None:
    """Decode a page without Pillow's warning that it is large: our own limit has been applied."""
    if frame.width * frame.height <= MAX_PIXELS // 2:
        frame.load()
        return
    with warnings.catch_warnings():  # not safe between threads, so only where Pillow warns
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        frame.load()


def decode_tiff(data: bytes, name: str, path: str | None) -> Iterator[Found]:
    """The pages of a TIFF file, one decoded at a time; for one that can't be, why. ``name`` is for messages.

    If the first page can't be, there are no others: Pillow does not open such a file.
    """
    try:
        count = _check_tiff(data)
        image = TiffImageFile(io.BytesIO(data))
    except (*DAMAGE, InputError) as error:
        yield fault(name, error)
        return
    with image:
        for page in range(count):
            yield _page(image, page, f"{name}, page {page}" if count > 1 else name, path)


def _page(image: TiffImageFile, page: int, name: str, path: str | None) -> Found:
    try:
        image.seek(page)
        image.info.pop(_XMP, None)
        check_size(*image.size)
        _load_page(image)
        return Picture(from_pillow(ImageOps.exif_transpose(image)), path, page)
    except (*DAMAGE, InputError) as error:
        return fault(name, error)
