"""TIFF: the structure is checked first, then Pillow decodes one page at a time.

Not every page is an image: GeoTIFF, whole-slide and camera files store reduced copies and masks as separate pages.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from maskline._wording import counted
from maskline.errors import InputError
from maskline.inputs.arrays import from_pillow, turn, wrong_pixels
from maskline.inputs.input_image import DAMAGE, MAX_PIXELS, Found, InputImage, Levels, check_size, fault

TIFF: dict[bytes, Literal["<", ">"]] = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}  # byte orders
ORIENTATION = 0x0112  # orientation tag, here and in EXIF data
_UPRIGHT, _SHORT = 1, 3  # an orientation; its field type
_XMP = "xmp"  # Pillow's key; without the tag, it would apply the orientation in XMP
_TYPE_BYTES = dict(zip(range(1, 14), (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4), strict=True)) | {16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8"}  # field type to NumPy type
_PIXEL_FIELDS = ((273, 279), (324, 325))  # offsets and lengths of strips, of tiles
# Tags and values, named as in the TIFF 6.0 specification.
_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _IMAGE_WIDTH, _IMAGE_LENGTH, _BITS_PER_SAMPLE = 254, 255, 256, 257, 258
_PHOTOMETRIC, _SAMPLES_PER_PIXEL, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 262, 277, 338, 339
_REDUCED, _MASK, _OLD_REDUCED = 1, 4, 2  # two bits of NewSubfileType, a SubfileType
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _PALETTE = 0, 1, 3  # single-channel values of PhotometricInterpretation
_ALPHA = (1, 2)  # values of ExtraSamples
_FORMATS = {1: "uint", 2: "int", 3: "float", 4: "uint", 5: "complex int", 6: "complex"}  # 4: undefined
_COMMON_BITS = (8, 16, 32, 64, 128)  # other bit depths: damage, or handled by the decoder
_MOST_ENTRIES = 20_000  # directory entries searched for a size, in a fraction of a second
_CUT = "the TIFF data is cut short or damaged: it refers to data past its end"
_NO_PAGES = "a TIFF file without pages"


class _Field(NamedTuple):
    """An integer field of a page: type, number of values, and position of the values."""

    kind: int = 1
    number: int = 0
    position: int = 0


@dataclass(frozen=True, slots=True)
class _Tiff:
    """A TIFF file of ``length`` bytes, with byte order ``order`` and offsets of type ``I`` or (BigTIFF) ``Q``."""

    file: BinaryIO
    length: int
    order: Literal["<", ">"]
    offset: Literal["I", "Q"]

    @classmethod
    def of(cls, file: BinaryIO) -> _Tiff:
        file.seek(0)
        magic = file.read(4)
        return cls(file, file.seek(0, io.SEEK_END), TIFF[magic], "Q" if b"+" in magic else "I")

    @property
    def start(self) -> int:
        """Offset of the field that holds the position of the first directory."""
        return 8 if self.offset == "Q" else 4

    def numbers(self, codes: str, position: int) -> tuple[int, ...]:
        codes = self.order + codes
        return struct.unpack(codes, self._at(position, struct.calcsize(codes)))

    def dtype(self, field: _Field) -> np.dtype[Any]:
        return np.dtype(f"{self.order}{_INTEGERS[field.kind]}")

    def array(self, field: _Field) -> npt.NDArray[np.uint64]:
        dtype = self.dtype(field)
        return np.frombuffer(self._at(field.position, field.number * dtype.itemsize), dtype).astype(np.uint64)

    def _at(self, position: int, length: int) -> bytes:
        if position + length > self.length:
            raise ValueError("past the end")
        self.file.seek(position)
        return self.file.read(length)


@dataclass(frozen=True, slots=True)
class _Page:
    """A page as described by its directory.

    Attributes:
        index: page number in the file, from 0.
        position: offset of the directory.
        fields: integer fields by tag.
        turned: offsets of the entries that state an orientation, of any type.
    """

    tiff: _Tiff
    index: int
    position: int
    fields: Mapping[int, _Field]
    turned: Sequence[int]

    def values(self, tag: int) -> npt.NDArray[np.uint64]:
        """All values of a field; empty if it is missing."""
        return self.tiff.array(self.fields.get(tag, _Field()))

    def value(self, tag: int, default: int) -> int:
        """First value of a field."""
        field = self.fields.get(tag, _Field())
        return int(self.tiff.array(field._replace(number=1))[0]) if field.number else default

    @property
    def size(self) -> tuple[int, int]:
        """``(width, height)`` as stored."""
        return self.value(_IMAGE_WIDTH, 0), self.value(_IMAGE_LENGTH, 0)

    @property
    def orientation(self) -> int:
        """1 to 8 as in EXIF; 1 (upright) if none is stated."""
        value = self.value(ORIENTATION, _UPRIGHT)
        return value if value in range(1, 9) else _UPRIGHT

    @property
    def is_mask(self) -> bool:
        return bool(self.value(_NEW_SUBFILE_TYPE, 0) & _MASK)

    @property
    def is_reduced(self) -> bool:
        """Whether it is a smaller copy of another page."""
        return bool(self.value(_NEW_SUBFILE_TYPE, 0) & _REDUCED) or self.value(_SUBFILE_TYPE, 0) == _OLD_REDUCED

    @property
    def bits(self) -> int:
        """Bits per sample."""
        return self.value(_BITS_PER_SAMPLE, 1)

    @property
    def photometric(self) -> int:
        return self.value(_PHOTOMETRIC, _WHITE_IS_ZERO)  # without one, Pillow's default

    def put_first(self, file: io.BytesIO, *, black_is_zero: bool) -> None:
        """Make this page the first of the file, upright: Pillow rejects a file whose first page it can't decode.

        Args:
            file: the whole file; its position is 0 afterwards.
            black_is_zero: declare the lowest level as black, whether or not it is.
        """
        order, offset = self.tiff.order, self.tiff.offset
        _put(file, self.tiff.start, struct.pack(order + offset, self.position))
        for entry in self.turned:  # versions of Pillow differ in how they apply it
            _put(file, entry, struct.pack(f"{order}HH{offset}HH", ORIENTATION, _SHORT, 1, _UPRIGHT, 0))
        if black_is_zero and _PHOTOMETRIC in self.fields:
            field = self.fields[_PHOTOMETRIC]
            _put(file, field.position, np.array(_BLACK_IS_ZERO, self.tiff.dtype(field)).tobytes())
        file.seek(0)

    def check_pixels(self) -> None:
        """Raise InputError if the pixel type is not supported."""
        kind = _FORMATS.get(self.value(_SAMPLE_FORMAT, 1))
        if kind and self.bits in _COMMON_BITS and (kind != "uint" or self.bits > 16):
            raise InputError(wrong_pixels(f"{kind}{self.bits}")).because("not supported")
        alpha = np.isin(self.values(_EXTRA_SAMPLES), _ALPHA).sum()
        channels = self.value(_SAMPLES_PER_PIXEL, 1) - int(alpha)
        grey = self.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _PALETTE)
        if channels not in (1, 3, 4) or (grey and channels != 1):
            marked = " that are not marked as RGB" if channels in (3, 4) else ""
            raise InputError(
                f"{counted(channels, 'channel')}{marked}: expected 1, 3 or 4; save three of them as RGB"
            ).because("not supported")

    def check_place(self) -> None:
        """Raise InputError if pixel data extends past the end of the file."""
        for offsets, lengths in _PIXEL_FIELDS:
            if offsets in self.fields and lengths in self.fields:
                try:
                    ends = self.values(offsets) + self.values(lengths)
                except ValueError as error:  # different numbers of offsets and lengths
                    raise InputError(_CUT).because("damaged") from error
                if ends.max(initial=0) > self.tiff.length:
                    raise InputError(_CUT).because("damaged")


def _put(file: io.BytesIO, position: int, content: bytes) -> None:
    """Overwrite part of a file unless it already has this content: the first write to a BytesIO copies it."""
    file.seek(position)
    if file.read(len(content)) != content:
        file.seek(position)
        file.write(content)


def _all_pages(tiff: _Tiff, most_entries: float = float("inf")) -> Iterator[_Page]:
    """Yield the pages, read lazily. Raises InputError if the structure is damaged or exceeds ``most_entries``."""
    seen = {0}
    try:
        (position,) = tiff.numbers(tiff.offset, tiff.start)
        while position not in seen:
            index = len(seen) - 1
            seen.add(position)
            page, entries, following = _read_directory(tiff, index, position, most_entries)
            most_entries -= entries + 1
            yield page
            position = following
    except InputError:
        raise
    except (struct.error, ValueError, OverflowError) as error:
        raise InputError(_CUT).because("damaged") from error


def _read_directory(tiff: _Tiff, index: int, start: int, most_entries: float) -> tuple[_Page, int, int]:
    """Read a page, the number of its entries, and the position of the next page (0 after the last).

    Raises struct.error or ValueError if it extends past the end of the file, InputError if it is too long.
    """
    word = struct.calcsize(f"<{tiff.offset}")  # bytes of an offset, and of a value stored in its place
    (entries,) = tiff.numbers("Q" if word == 8 else "H", start)
    if entries > most_entries:
        raise InputError("a TIFF file with too many pages or fields before its first image").because("not supported")
    position = start + (8 if word == 8 else 2)
    fields: dict[int, _Field] = {}
    turned: list[int] = []
    for _ in range(entries):
        tag, kind, number = tiff.numbers(f"HH{tiff.offset}", position)
        where, length = position + 4 + word, number * _TYPE_BYTES.get(kind, 0)
        if length > word:
            (where,) = tiff.numbers(tiff.offset, where)
        if where + length > tiff.length:
            raise ValueError("past the end")
        if kind in _INTEGERS:
            fields[tag] = _Field(kind, number, where)
        if tag == ORIENTATION:
            turned.append(position)
        position += 4 + 2 * word
    return _Page(tiff, index, start, fields, turned), entries, tiff.numbers(tiff.offset, position)[0]


def _images(pages: Iterable[_Page]) -> Iterator[_Page]:
    """The pages that are images; if there are none, the largest that is not a mask, else the largest."""
    others: list[_Page] | None = []
    for page in pages:
        if not (page.is_reduced or page.is_mask):
            others = None
            yield page
        elif others is not None:
            others.append(page)
    if others:
        yield max(others, key=lambda page: (not page.is_mask, page.size[0] * page.size[1]))


def _first_image(file: BinaryIO) -> _Page:
    """The first page that `decode_tiff` yields. Raises InputError."""
    for page in _images(_all_pages(_Tiff.of(file), _MOST_ENTRIES)):
        return page
    raise InputError(_NO_PAGES).because("damaged")


def stored_size(file: BinaryIO) -> tuple[int, int]:
    """``(width, height)`` of the first image, before rotation. Raises InputError."""
    return _first_image(file).size


def stored_orientation(file: BinaryIO) -> int:
    """Orientation of the first image, 1 to 8 as in EXIF; 1 (upright) if none is stated. Raises InputError."""
    return _first_image(file).orientation


def decode_tiff(data: bytes, name: str, path: str | None) -> Iterator[Found]:
    """Decode the images of a TIFF file one at a time; an error in place of each that fails. ``name`` is for messages.

    Reduced copies and masks are skipped, unless there is nothing else: then the largest page is decoded.
    """
    tiff = _Tiff.of(io.BytesIO(data))
    try:
        pages = list(_all_pages(tiff))
        for page in pages:
            page.check_place()
        if not pages:
            raise InputError(_NO_PAGES).because("damaged")
        if (tiff.order, tiff.offset) == (">", "Q"):
            raise InputError("a big-endian BigTIFF file, which Pillow can't decode: save it as little-endian").because(
                "not supported"
            )
    except InputError as error:
        yield fault(name, error)
        return
    file = io.BytesIO(data)
    for page in _images(pages):
        try:
            yield replace(_decode_page(file, page), path=path, page=page.index)
        except (*DAMAGE, InputError) as error:
            yield fault(f"{name}, page {page.index}" if len(pages) > 1 else name, error)


def _decode_page(file: io.BytesIO, page: _Page) -> InputImage:
    """Decode a page, after making it the first of ``file``. Raises InputError, and what Pillow raises."""
    page.check_pixels()
    check_size(*page.size)
    white = page.bits > 8 and page.photometric == _WHITE_IS_ZERO
    page.put_first(file, black_is_zero=white)  # Pillow inverts 8 bits only, and 16 only in one byte order
    with TiffImageFile(file) as image:
        image.info.pop(_XMP, None)
        if image.size != page.size:
            raise ValueError("it states conflicting sizes")
        _load_page(image)
        decoded = from_pillow(image, bits=page.bits, white=white)
        levels = decoded.levels
        if page.bits == 16 and image.mode in ("RGB", "RGBA"):  # Pillow has kept the upper 8 bits only
            bounds = Levels(int(decoded.pixels.min()) << 8, int(decoded.pixels.max()) << 8 | 255, 65535)
            levels = bounds if bounds.are_narrow else None
    return InputImage(turn(decoded.pixels, page.orientation), levels=levels)


def _load_page(frame: Image.Image) -> None:
    """Decode a page without Pillow's warning about large images: our own limit has been checked."""
    if frame.width * frame.height <= MAX_PIXELS // 2:
        frame.load()
        return
    with warnings.catch_warnings():  # not thread-safe, so only where Pillow warns
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        frame.load()
