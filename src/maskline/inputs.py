"""From what a user gives to a stream of pictures, strictly in the order given, one at a time.

Files are checked before OpenCV decodes them: where a file is cut short it fills in grey or writes to stderr, depending
on version and format, and we want one error that names the file. JPEG and PNG, which are most of all files, are walked
without decoding; Pillow, which is strict, reads the other formats first; TIFF is walked and left to Pillow altogether.
What a file holds is told by its first bytes; its suffix only says whether it is meant as an image at all.

Damage inside compressed data that leaves a JPEG's or TIFF's structure whole goes unseen: decoders conceal it, and
libjpeg may say so on stderr.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, ImageSequence
from PIL.BmpImagePlugin import BmpImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.SunImagePlugin import SunImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from maskline.errors import InputError, InputNotFoundError, ParameterError
from maskline.instances import ByteArray

Source: TypeAlias = Any  # one of the kinds `expand` lists; checked there

SUFFIXES = ("bmp", "dib", "jpeg", "jpg", "png", "webp", "pbm", "pgm", "ppm", "pnm", "sr", "ras", "tiff", "tif")
KEYS = ("input", "img", "img_path")  # of a dict that holds an input
MAX_PIXELS = 178_956_970  # of one picture; what claims more is taken for a decompression bomb

_LATER = {"pdf": "PDF files", **dict.fromkeys(("mp4", "avi", "mov", "mkv", "webm", "m4v"), "videos")}
_ACCEPTED = (
    "the path of an image or a folder, a uint8 BGR array, a PIL image, the bytes of an image file, "
    f"a dict with the key {', '.join(KEYS[:-1])} or {KEYS[-1]}, or a list, tuple or iterator of these"
)
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)  # so that no such file can be there
# What Pillow and OpenCV raise on damaged files.
_DAMAGE = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError),
    *(struct.error, cv2.error, Image.DecompressionBombError),
)

logger = logging.getLogger("maskline")


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One image to look at.

    Attributes:
        pixels: (H, W, 3) uint8, BGR, C-contiguous. May be the very array the user gave: not to be written to.
        path: the file it is from, as given (a file found in a folder: the folder as given, and the way down); or None.
        page: 0, 1, ... in a TIFF file, also if that has a single page; else None.
    """

    pixels: ByteArray
    path: str | None = None
    page: int | None = None


def expand(source: Source, *, on_error: str = "raise") -> Iterator[Picture]:
    """The pictures of ``source``, in order; each is read only when it is asked for.

    Args:
        source: one of
            the path of an image (str or Path), whose suffix must be one of `SUFFIXES` in any case;
            the path of a folder: all images in it and below, sorted by full path, character by character;
            an array of uint8: (H, W, 3) BGR, (H, W, 4) BGRA (alpha is dropped), (H, W) or (H, W, 1) grey;
            a PIL image, its grid as it is (PIL does not apply the EXIF orientation), its current frame only;
            bytes: the content of an image file;
            a dict with exactly one of the keys `KEYS` (others are ignored), whose value is any of these;
            a list, tuple, other sequence or iterator of these, to any depth.
        on_error: "raise", or "skip": log a warning for each input that can't be used, and go on. A TIFF file whose
            third page is damaged has given two pages by then.

    Raises (at the picture concerned, but ParameterError at once):
        InputNotFoundError: no such file or folder.
        InputError: not an image, damaged, too large, of a kind not accepted, or a folder without images.
        ParameterError: ``on_error`` is something else.
    """
    if on_error not in ("raise", "skip"):
        raise ParameterError(f"on_error is {on_error!r}: expected 'raise' or 'skip'")
    return _expand(source, skip=on_error == "skip")


def count(source: Source) -> int | None:
    """How many pictures `expand` gives if all can be read; None where only reading would tell (iterators, TIFF).

    Nothing is opened and nothing is checked: what can't be used counts as one.
    """
    try:
        parts = None if isinstance(source, Iterator) else _parts(source)
    except InputError:
        return 1
    if parts is not None:
        counts = [count(part) for part in parts]
        known = [n for n in counts if n is not None]
        return sum(known) if len(known) == len(counts) else None
    several = isinstance(source, Iterator) or _is_tiff_source(source)
    return None if several else 1


def read_image(path: str | os.PathLike[str]) -> ByteArray:
    """The image at ``path`` as (H, W, 3) uint8 BGR: what OpenCV's colour flag gives, or an error.

    Alpha is dropped, 16 bits become the upper 8, grey becomes three equal channels, the EXIF orientation is applied (in
    WebP only where the installed OpenCV does so). Of a TIFF file the first page.

    Raises:
        InputNotFoundError: no such file.
        InputError: a folder, another suffix than `SUFFIXES`, not an image, damaged or cut short, or over `MAX_PIXELS`.
    """
    name = os.fsdecode(path)
    return next(_decode(_read_bytes(name), repr(name)))[0]


def _expand(source: Source, skip: bool) -> Iterator[Picture]:
    """`expand` without its check."""
    try:
        parts = _parts(source)
        if parts is None:
            yield from _pictures(source)
            return
    except InputError as error:
        if not skip:
            raise
        logger.warning("skipped: %s", error)
        return
    for part in parts:
        yield from _expand(part, skip)


def _parts(source: Source) -> Iterable[Source] | None:
    """What a compound source is made of, or None if it is a single one. Raises InputError."""
    if isinstance(source, Mapping):
        keys = [key for key in KEYS if key in source]
        if len(keys) != 1:
            raise InputError(f"a dict with the keys {list(source)!r}: expected exactly one of {', '.join(KEYS)}")
        return [source[keys[0]]]
    if isinstance(source, (str, os.PathLike)):
        name = os.fsdecode(source)
        return _files(name) if os.path.isdir(name) else None  # noqa: PTH112 (Path("") is a folder, and Path can raise)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return None
    if hasattr(source, "read"):
        raise InputError(f"{source!r} is an open file: give its path, or its bytes as from read()")
    return source if isinstance(source, (Sequence, Iterator)) else None


def _files(folder: str) -> list[str]:
    """The image files in ``folder`` and below, sorted by path. Raises InputError if there are none.

    Links to files count, links to folders are not followed.
    """
    found: list[str] = []
    folders = [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif _suffix(entry.name) in SUFFIXES and entry.is_file():
                        found.append(entry.path)
        except OSError as error:
            raise InputError(f"{error.filename!r} could not be listed: {error.strerror}") from error
    if not found:
        raise InputError(f"{folder!r} holds no image: expected files with the suffix {', '.join(SUFFIXES)}")
    return sorted(found)


def _suffix(name: str) -> str:
    """What follows the last full stop, in lower case; nothing if there is none."""
    return name.rpartition(".")[2].lower() if "." in name else ""


def _pictures(source: Source) -> Iterator[Picture]:
    """The pictures of a single source: one, but for TIFF. Raises InputError."""
    if isinstance(source, (str, os.PathLike)):
        name = os.fsdecode(source)
        for pixels, page in _decode(_read_bytes(name), repr(name)):
            yield Picture(pixels, name, page)
    elif isinstance(source, np.ndarray):
        yield Picture(_from_array(source))
    elif isinstance(source, Image.Image):
        yield Picture(_guarded(_from_pillow, source, "the PIL image"))
    elif isinstance(source, (bytes, bytearray, memoryview)):
        for pixels, page in _decode(bytes(source), "the image given as bytes"):
            yield Picture(pixels, None, page)
    else:
        raise InputError(f"an input of type {type(source).__name__}: expected {_ACCEPTED}")


def _is_tiff_source(source: Source) -> bool:
    if isinstance(source, (str, os.PathLike)):
        return _suffix(os.fsdecode(source)) in ("tif", "tiff")
    return isinstance(source, (bytes, bytearray, memoryview)) and bytes(source[:4]) in _TIFF


def _read_bytes(name: str) -> bytes:
    """The content of a file that is meant to be an image. Raises InputNotFoundError, InputError."""
    if name.lower().startswith(("http://", "https://")):
        raise InputError(f"{name!r}: URLs are not supported in this version; download the image and give its path")
    suffix = _suffix(name)
    if suffix in _LATER:
        raise InputError(
            f"{name!r}: {_LATER[suffix]} are not supported in this version; save the images and give those"
        )
    try:
        mode = os.stat(name).st_mode  # noqa: PTH116 (Path("") is a folder)
        folder = stat.S_ISDIR(mode)
        if not folder and not stat.S_ISREG(mode):
            raise InputError(f"{name!r} is a device or pipe: expected an image file")
        data = None if folder or suffix not in SUFFIXES else Path(name).read_bytes()
    except InputError:
        raise
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        if isinstance(error, OSError) and error.errno in _NOT_THERE:
            raise InputNotFoundError(f"{name!r}: no such file or folder") from error
        raise InputError(f"{name!r} could not be read: {getattr(error, 'strerror', error)}") from error
    if data is None:
        expected = "an image file" if folder else f"an image with the suffix {', '.join(SUFFIXES)}"
        raise InputError(f"{name!r} is a {'folder' if folder else 'file of another kind'}: expected {expected}")
    if not data:
        raise InputError(f"{name!r} is empty (0 bytes)")
    return data


# ---- arrays and PIL images


def _from_array(array: npt.NDArray[Any]) -> ByteArray:
    """Any accepted array as (H, W, 3) BGR; the same memory where it already is. Raises InputError."""
    given = f"an array of {array.dtype} with shape {array.shape}"
    if array.dtype != np.uint8:
        raise InputError(f"{given}: expected uint8, 0 to 255, (H, W, 3) in the order BGR; convert it first")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InputError(f"{given}: expected (H, W, 3) BGR, (H, W, 4) BGRA, (H, W) or (H, W, 1); several go in a list")
    if array.size == 0:
        raise InputError(f"{given}: it has no pixels")
    if array.ndim == 2 or array.shape[2] == 1:
        array = np.broadcast_to(array.reshape(*array.shape[:2], 1), (*array.shape[:2], 3))
    return np.ascontiguousarray(array[..., :3])


def _from_pillow(image: Image.Image) -> ByteArray:
    """A PIL image of any mode of up to 16 bits as (H, W, 3) BGR. Raises InputError, and what Pillow raises."""
    _check_size(*image.size)
    if image.mode.startswith("I;16"):
        return _from_array((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise InputError(f"32-bit pixels (PIL mode {image.mode}): expected 8 or 16 bits a channel")
    if image.mode == "RGBa":  # has no direct way to RGB
        image = image.convert("RGBA")
    return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])


def _guarded(step: Callable[[Any], ByteArray], value: object, name: str) -> ByteArray:
    """``step(value)``, whose complaints about the image become an InputError that names it."""
    try:
        return step(value)
    except (*_DAMAGE, InputError) as error:
        raise InputError(f"{name}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Our own words as they are; those of a decoder with what they mean."""
    if isinstance(error, InputError):
        return str(error)
    return f"damaged, or a variant of its format that can't be decoded ({' '.join(str(error).split())})"


# ---- encoded images


_TIFF: dict[bytes, Literal["<", ">"]] = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}  # byte orders
_OTHER: tuple[tuple[re.Pattern[bytes], type[ImageFile.ImageFile]], ...] = (
    (re.compile(rb"BM"), BmpImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImageFile),
    (re.compile(rb"P[1-6]\s"), PpmImageFile),
    (re.compile(rb"\x59\xa6\x6a\x95"), SunImageFile),
)


def _decode(data: bytes, name: str) -> Iterator[tuple[ByteArray, int | None]]:
    """The content of an image file as (H, W, 3) BGR with the page number; several for TIFF. Raises InputError."""
    if data[:4] in _TIFF:
        yield from _decode_tiff(data, name)
    else:
        yield _guarded(_decode_single, data, name), None


def _decode_single(data: bytes) -> ByteArray:
    """Any format but TIFF. Raises InputError without a name, and what Pillow and OpenCV raise on damage."""
    if data[:3] == b"\xff\xd8\xff":
        _check_jpeg(data)
    elif data[:8] == _PNG:
        _check_png(data)
    else:
        _check_other(data)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError("OpenCV could not decode it")
    return _from_array(np.asarray(pixels))


def _check_size(width: int, height: int) -> None:
    """Pixels claimed by a header. Raises InputError if there are too many, or none."""
    if width * height > MAX_PIXELS:
        raise InputError(f"{width} x {height} pixels: expected at most {MAX_PIXELS} in one image")
    if min(width, height) <= 0:
        raise InputError(f"{width} x {height} pixels: nothing to look at")


# A JPEG marker is 0xFF and a code; in a scan, 0xFF 0x00 stands for a data byte and D0 to D7 restart the coder.
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE_MARKERS = {0xD8, 0x01}
_END_OF_IMAGE = 0xD9


def _check_jpeg(data: bytes) -> None:
    """Walk the segments and scans to the image's own end marker: one inside a segment is a thumbnail's."""
    position = 2
    while marker := _MARKER.search(data, position):
        code, position = marker[1][0], marker.end()
        if code == _END_OF_IMAGE:
            return
        if code in _SIZE_MARKERS and position + 7 <= len(data):
            height, width = struct.unpack_from(">HH", data, position + 3)
            _check_size(width, height)
        if code not in _BARE_MARKERS:
            position += int.from_bytes(data[position : position + 2], "big")
    raise InputError("the JPEG data is cut short: it has no end marker")


_PNG = b"\x89PNG\r\n\x1a\n"


def _check_png(data: bytes) -> None:
    """Walk the chunks to IEND and check the sums of the critical ones, as a decoder would."""
    view, position = memoryview(data), len(_PNG)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        critical = kind[:1].isupper()
        if critical and zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise InputError(f"the PNG data is damaged: wrong checksum of the chunk {kind.decode('latin-1')}")
        if kind == b"IHDR" and length >= 8:
            _check_size(*struct.unpack_from(">II", data, position + 8))
        if kind == b"IEND":
            return
        position = end
    raise InputError("the PNG data is cut short: it has no end chunk")


def _check_other(data: bytes) -> None:
    """BMP, WebP, portable maps and Sun rasters: let Pillow read them. It is strict where OpenCV is not or is noisy."""
    reader = next((reader for magic, reader in _OTHER if magic.match(data)), None)
    if reader is None:
        raise InputError("not an image: expected the content of a BMP, JPEG, PNG, WebP, PNM, Sun raster or TIFF file")
    with reader(io.BytesIO(data)) as image:
        _check_size(*image.size)
        if reader is BmpImageFile:  # Pillow forgives a last row that lacks its padding, OpenCV does not
            _check_bmp_rows(image, len(data))
        if reader is not WebPImageFile:  # that one has read everything by now
            image.load()


def _check_bmp_rows(image: ImageFile.ImageFile, available: int) -> None:
    """Raises InputError unless all rows of an uncompressed BMP are there."""
    for tile in image.tile:
        arguments = tile[3]
        if tile[0] == "raw" and isinstance(arguments, tuple):
            needed = tile[2] + int(arguments[1]) * image.size[1]
            if needed > available:
                raise InputError(f"the BMP data is cut short: {available} of {needed} bytes")


# ---- TIFF


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
        return cls(data, _TIFF[data[:4]], "Q" if b"+" in data[:4] else "I")

    def numbers(self, codes: str, position: int) -> tuple[int, ...]:
        return struct.unpack_from(self.order + codes, self.data, position)

    def array(self, kind: int, number: int, position: int) -> npt.NDArray[np.uint64]:
        dtype = np.dtype(_INTEGERS[kind]).newbyteorder(self.order)
        return np.frombuffer(self.data, dtype, number, position).astype(np.uint64)


def _check_tiff(data: bytes) -> None:
    """Follow all directories and see that they, and the pixels they point to, lie inside the file."""
    tiff = _Tiff.of(data)
    try:
        (position,) = tiff.numbers(tiff.offset, 8 if tiff.offset == "Q" else 4)
        seen = {0}
        while position not in seen:
            seen.add(position)
            position = _check_directory(tiff, position)
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


def _load_page(frame: Image.Image) -> None:
    """Decode a page without Pillow's warning that it is large: our own limit has been applied."""
    if frame.width * frame.height <= MAX_PIXELS // 2:
        frame.load()
        return
    with warnings.catch_warnings():  # not safe between threads, so only where Pillow warns
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        frame.load()


def _decode_tiff(data: bytes, name: str) -> Iterator[tuple[ByteArray, int]]:
    """The pages of a TIFF file with their numbers, one decoded at a time. Raises InputError."""
    try:
        _check_tiff(data)
        with TiffImageFile(io.BytesIO(data)) as image:
            for page, frame in enumerate(ImageSequence.Iterator(image)):
                _check_size(*frame.size)
                _load_page(frame)
                yield _from_pillow(ImageOps.exif_transpose(frame)), page
    except (*_DAMAGE, InputError) as error:
        raise InputError(f"{name}: {_reason(error)}") from error
