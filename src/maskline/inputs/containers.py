"""Whether a video file is cut short, from the lengths its container writes down; nothing is decoded.

Decoders take the end of a cut file for its end.
"""

from __future__ import annotations

import re
import struct
from typing import BinaryIO

_SEGMENT = b"\x18\x53\x80\x67"  # of Matroska and WebM: holds all but the head
_BOX_KIND = re.compile(rb"[ -~]{4}")
_HEAD = 256  # bytes
_MOST_BOXES = 100_000  # of MP4, at the top


def is_cut_short(file: BinaryIO, size: int) -> bool:
    """Whether something in the file would lie past its end, which is at ``size`` bytes.

    Formats whose containers have no lengths (MPEG streams, FLV, Ogg, ASF) are never found cut.
    """
    head = file.read(_HEAD)
    try:
        if head[:4] == b"RIFF":
            return _riff_end(file, size) > size
        if head[:4] == b"\x1a\x45\xdf\xa3":
            return _matroska_end(head) > size
        return head[4:8].isalpha() and _box_end(file, size) > size
    except struct.error:  # the head itself is cut
        return True


def _box_end(file: BinaryIO, size: int) -> int:
    """Where the last box at the top of an MP4 or QuickTime file ends; 0 where that can't be told."""
    position = 0
    for _ in range(_MOST_BOXES):
        if position + 8 > size:  # a few bytes after the last box
            return position
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        if length == 1:
            (length,) = struct.unpack(">Q", file.read(8))
        if length < 8 or not _BOX_KIND.fullmatch(kind):  # 0: to the end of the file; others make no sense
            return 0
        position += int(length)
    return 0


def _riff_end(file: BinaryIO, size: int) -> int:
    """Where the last chunk at the top of an AVI file ends: large ones have several. 0 where that can't be told."""
    position = 0
    for _ in range(_MOST_BOXES):
        file.seek(position)
        head = file.read(8)
        if position and head[:4] != b"RIFF":  # whatever follows a complete file
            return position
        (length,) = struct.unpack("<I", head[4:])
        if length == 0:  # the recorder never came to write it
            return 0
        position += 8 + int(length)
        if position >= size:
            return position
    return 0


def _matroska_end(head: bytes) -> int:
    """Where the segment of a Matroska or WebM file ends; 0 where that is not written down, as in recordings."""
    position = head.find(_SEGMENT, 4)
    if position < 0:
        return 0
    start = position + len(_SEGMENT)
    (first,) = struct.unpack_from("B", head, start)
    width = 9 - first.bit_length()  # bytes of the number; its first bit set tells
    if first == 0 or start + width > len(head):
        raise struct.error("cut")
    value = int.from_bytes(head[start : start + width], "big") & ((1 << 7 * width) - 1)
    return 0 if value == (1 << 7 * width) - 1 else start + width + value
