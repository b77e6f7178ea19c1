"""Detection of truncated video files from the lengths stored in their containers; nothing is decoded.

Decoders don't report truncation: they treat the cut as the regular end.
"""

from __future__ import annotations

import re
import struct
from typing import BinaryIO

_SEGMENT = b"\x18\x53\x80\x67"  # Matroska and WebM element that holds everything after the header
_BOX_KIND = re.compile(rb"[ -~]{4}")
_HEAD = 256  # bytes
_MOST_BOXES = 100_000  # top-level boxes of MP4


def is_cut_short(file: BinaryIO, size: int) -> bool:
    """Whether the container's lengths extend past the end of the file, at ``size`` bytes.

    Always False for containers without lengths (MPEG streams, FLV, Ogg, ASF).
    """
    head = file.read(_HEAD)
    try:
        if head[:4] == b"RIFF":
            return _riff_end(file, size) > size
        if head[:4] == b"\x1a\x45\xdf\xa3":
            return _matroska_end(head) > size
        return head[4:8].isalpha() and _box_end(file, size) > size
    except struct.error:  # the header itself is truncated
        return True


def _box_end(file: BinaryIO, size: int) -> int:
    """End of the last top-level box of an MP4 or QuickTime file; 0 if unknown."""
    position = 0
    for _ in range(_MOST_BOXES):
        if position + 8 > size:  # trailing bytes after the last box
            return position
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        if length == 1:
            (length,) = struct.unpack(">Q", file.read(8))
        if length < 8 or not _BOX_KIND.fullmatch(kind):  # 0: to the end of the file; other values are invalid
            return 0
        position += int(length)
    return 0


def _riff_end(file: BinaryIO, size: int) -> int:
    """End of the last top-level chunk of an AVI file (large files have several); 0 if unknown."""
    position = 0
    for _ in range(_MOST_BOXES):
        file.seek(position)
        head = file.read(8)
        if position and head[:4] != b"RIFF":  # trailing data after a complete file
            return position
        (length,) = struct.unpack("<I", head[4:])
        if length == 0:  # the recorder was interrupted before it wrote the length
            return 0
        position += 8 + int(length)
        if position >= size:
            return position
    return 0


def _matroska_end(head: bytes) -> int:
    """End of the segment of a Matroska or WebM file; 0 if the file does not state it, as in live recordings."""
    position = head.find(_SEGMENT, 4)
    if position < 0:
        return 0
    start = position + len(_SEGMENT)
    (first,) = struct.unpack_from("B", head, start)
    width = 9 - first.bit_length()  # bytes of the number, given by its first set bit
    if first == 0 or start + width > len(head):
        raise struct.error("cut")
    value = int.from_bytes(head[start : start + width], "big") & ((1 << 7 * width) - 1)
    return 0 if value == (1 << 7 * width) - 1 else start + width + value
