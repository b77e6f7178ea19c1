"""AVIF still images: size from the container and the AV1 data; decoding by Pillow.

Decoders shrink larger AV1 frames to the container's size, so that size alone does not bound the cost of decoding; files
in which the two differ are rejected. Containers: ISO 14496-12 and 23008-12 (HEIF). Frames: AV1 Bitstream & Decoding
Process Specification, 5.3 to 5.5.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

import PIL
from PIL.ImageFile import ImageFile

from maskline.errors import InputError
from maskline.inputs.arrays import from_pillow, turn
from maskline.inputs.input_image import InputImage, check_size

Size: TypeAlias = tuple[int, int]  # width, height
Span: TypeAlias = tuple[int, int]  # start and end, in bytes

_MOST_PARTS = 100_000  # boxes, items, extents and units per file
_AV1 = b"av01"  # item type
_SEQUENCE_HEADER = 1  # OBU type
_HEADER_BYTES = 600  # more than the longest sequence header


def brands(head: bytes) -> tuple[bytes, ...]:
    """Brands of an ISO media file (the container of MP4), major brand first; empty for any other file."""
    if head[4:8] != b"ftyp":
        return ()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return (head[8:12], *(head[start : start + 4] for start in range(16, end - 3, 4)))


def is_avif(head: bytes) -> bool:
    """Whether ``head``, the first bytes of a file, is that of a still AVIF image."""
    found = brands(head)
    return b"avif" in found and found[0] != b"avis"


def decode_avif(data: bytes) -> InputImage:
    """Decode an image, upright. Raises InputError without a file name, and what Pillow raises on damage."""
    size = stored_size(data)
    check_size(*size)
    with _opened(data) as image:
        if image.size != size:
            frames, shown = ("{} x {}".format(*sides) for sides in (size, image.size))
            raise InputError(f"the AVIF data is damaged: frames of {frames} pixels in an image of {shown}").because(
                "damaged"
            )
        decoded = from_pillow(image)
        return replace(decoded, pixels=turn(decoded.pixels, _orientation(image)))


def stored_orientation(data: bytes) -> int:
    """Orientation stated by the container, 1 to 8 as in EXIF. Raises what `decode_avif` raises."""
    stored_size(data)  # raises if the container is damaged
    with _opened(data) as image:
        return _orientation(image)


def _orientation(image: ImageFile) -> int:
    """The container's rotation and mirroring, which Pillow gives in EXIF's form. XMP and EXIF are ignored."""
    image.info.pop("xmp", None)
    return int(image.getexif().get(0x0112, 1))


@contextmanager
def _opened(data: bytes) -> Iterator[ImageFile]:
    try:
        from PIL.AvifImagePlugin import SUPPORTED, AvifImageFile
    except ImportError:  # before Pillow 11.3
        SUPPORTED = False  # noqa: N806
    if not SUPPORTED:
        raise InputError(
            f"this is an AVIF image, which Pillow {PIL.__version__} can't decode: pip install -U pillow"
        ).because("not supported")
    try:
        with AvifImageFile(io.BytesIO(data)) as image:
            yield image
    except RuntimeError as error:  # raised on damage by this Pillow plugin only
        raise OSError(str(error)) from error


def stored_size(data: bytes) -> Size:
    """Largest size claimed by the container or the AV1 data, before rotation. Raises InputError."""
    try:
        sizes = _File(data).sizes()
    except InputError:
        raise
    except (struct.error, ValueError, LookupError) as error:
        raise InputError("the AVIF data is cut short or damaged").because("damaged") from error
    return _largest(sizes)


def _largest(sizes: Iterable[Size]) -> Size:
    return max(sizes, key=lambda size: size[0] * size[1])


@dataclass(slots=True)
class _File:
    """Structure of an AVIF file. Methods raise struct.error, ValueError or LookupError if it is damaged."""

    data: bytes
    parts: int = 0

    def sizes(self) -> list[Size]:
        """Sizes in the container and in the AV1 data of all items."""
        top = list(self._boxes((0, len(self.data))))
        if self.data[8:12] != b"avif" and any(kind == b"moov" for kind, _ in top):  # decoders prefer the movie
            raise InputError("this is an animated AVIF image, which is not read: save it as JPEG, PNG or TIFF").because(
                "not supported"
            )
        ((start, end),) = (span for kind, span in top if kind == b"meta")
        meta = dict(self._boxes((start + 4, end)))
        properties = dict(self._boxes(meta[b"iprp"]))[b"ipco"]
        claimed = [self._pair(">II", s + 4) for kind, (s, _) in self._boxes(properties) if kind == b"ispe"]
        coded = self._coded_items(meta[b"iinf"])
        items = dict(self._items(meta[b"iloc"], meta.get(b"idat", (0, 0))))
        contents = {items[item] for item in coded}  # identical tiles of a grid may share their data
        if sum(end - start for content in contents for start, end in content) > len(self.data):
            raise ValueError("overlapping items")
        for content in contents:
            units = self._units(b"".join(self.data[start:end] for start, end in content))
            claimed.append(_largest(_coded_size(unit) for kind, unit in units if kind == _SEQUENCE_HEADER))
        return claimed

    def _count(self) -> None:
        self.parts += 1
        if self.parts > _MOST_PARTS:
            raise ValueError("too many parts")

    def _pair(self, codes: str, position: int) -> tuple[int, int]:
        first, second = struct.unpack_from(codes, self.data, position)
        return first, second

    def _integer(self, position: int, width: int) -> int:
        if position + width > len(self.data):
            raise ValueError("past the end")
        return int.from_bytes(self.data[position : position + width], "big")

    def _boxes(self, span: Span) -> Iterator[tuple[bytes, Span]]:
        """Type and content span of each box in a span of the file."""
        position, end = span
        while position < end:
            self._count()
            length, kind = self._integer(position, 4), self.data[position + 4 : position + 8]
            head = 8
            if length == 1:
                length, head = self._integer(position + 8, 8), 16
            stop = position + length if length else end  # 0: to the end
            if not position + head <= stop <= end:
                raise ValueError("past the end")
            yield kind, (position + head, stop)
            position = stop

    def _coded_items(self, span: Span) -> set[int]:
        """Ids of the items that hold AV1 data, from the ``iinf`` box."""
        start = span[0] + 4
        start += 2 if self.data[span[0]] == 0 else 4
        found: set[int] = set()
        for _, (position, _) in self._boxes((start, span[1])):
            width = {2: 2, 3: 4}[self.data[position]]  # by version of ``infe``
            if self.data[position + 6 + width : position + 10 + width] == _AV1:
                found.add(self._integer(position + 4, width))
        return found

    def _items(self, span: Span, idat: Span) -> Iterator[tuple[int, tuple[Span, ...]]]:
        """Id of each item and the spans of the file that hold it, from the ``iloc`` box."""
        position = span[0]
        version, sizes = self.data[position], self._integer(position + 4, 2)
        of_offset, of_length, of_base, of_index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
        wide = 4 if version == 2 else 2  # bytes of an item id and of the item count
        count, position = self._integer(position + 6, wide), position + 6 + wide
        for _ in range(count):
            self._count()
            item, position, base = self._integer(position, wide), position + wide, 0
            if version:
                base, position = idat[0] if self._integer(position, 2) & 15 else 0, position + 2
            else:
                of_index = 0
            base, position = base + self._integer(position + 2, of_base), position + 2 + of_base
            extents, position = self._integer(position, 2), position + 2
            content = []
            for _ in range(extents):
                self._count()
                position += of_index
                start = base + self._integer(position, of_offset)
                length = self._integer(position + of_offset, of_length) or len(self.data) - start
                position += of_offset + of_length
                if not 0 <= length <= len(self.data) - start:
                    raise ValueError("past the end")
                content.append((start, start + length))
            yield item, tuple(content)

    def _units(self, content: bytes) -> Iterator[tuple[int, bytes]]:
        """Type and first bytes of each unit (OBU) of AV1 data."""
        position = 0
        while position < len(content):
            self._count()
            head = content[position]
            position += 2 if head & 4 else 1
            length, shift = len(content) - position, 0
            if head & 2:
                length = 0
                while True:
                    byte = content[position]
                    length |= (byte & 127) << shift
                    position, shift = position + 1, shift + 7
                    if byte < 128:
                        break
                    if shift > 28:
                        raise ValueError("oversized length field")
            yield head >> 3 & 15, content[position : position + min(length, _HEADER_BYTES)]
            position += length


def _coded_size(header: bytes) -> Size:
    """Maximum frame width and height from a sequence header. Raises ValueError if it is truncated."""
    bits, left = int.from_bytes(header, "big"), 8 * len(header)

    def take(count: int) -> int:
        nonlocal left
        left -= count
        if left < 0:
            raise ValueError("cut short")
        return bits >> left & ((1 << count) - 1)

    take(4)  # profile, still image
    if take(1):  # reduced header
        take(5)
    else:
        of_delay = 0  # bits; 0: no decoder model
        if take(1):  # timing
            take(64)
            if take(1):  # an exp-Golomb number
                zeros = next((i for i in range(33) if take(1)), 33)
                take(zeros if zeros < 32 else 0)
            if take(1):
                of_delay = take(5) + 1
                take(42)
        delays = take(1)
        for _ in range(take(5) + 1):  # operating points
            take(12)
            if take(5) > 7:
                take(1)
            if of_delay and take(1):
                take(2 * of_delay + 1)
            if delays and take(1):
                take(4)
    of_width, of_height = take(4) + 1, take(4) + 1
    return take(of_width) + 1, take(of_height) + 1
