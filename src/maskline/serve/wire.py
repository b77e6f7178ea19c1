"""Messages between the service and its workers, over a pipe: a JSON object followed by byte strings.

A header of eight bytes has the lengths of the object and of everything after it; the object's ``sizes`` has the lengths
of the byte strings. Workers handle untrusted files, so nothing they send is unpickled.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

AHEAD = 2  # batches per worker: one is running while another is decoded or encoded
_LENGTHS = struct.Struct(">II")


class Message(NamedTuple):
    """A JSON object and its byte strings."""

    head: dict[str, Any]
    parts: list[bytes]


def pack(head: dict[str, Any], parts: Sequence[bytes] = ()) -> bytes:
    """Serialize a message."""
    text = json.dumps({**head, "sizes": [len(part) for part in parts]}).encode()
    return b"".join((_LENGTHS.pack(len(text), sum(map(len, parts))), text, *parts))


async def receive(stream: asyncio.StreamReader) -> Message | None:
    """Receive the next message; None at the end of the stream, even in the middle of a message."""
    try:
        lengths = _LENGTHS.unpack(await stream.readexactly(_LENGTHS.size))
        return _message(lengths[0], await stream.readexactly(sum(lengths)))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def read(stream: BinaryIO) -> Message | None:
    """Blocking version of `receive`."""
    start = stream.read(_LENGTHS.size)
    if len(start) < _LENGTHS.size:
        return None
    lengths = _LENGTHS.unpack(start)
    data = stream.read(sum(lengths))
    return _message(lengths[0], data) if len(data) == sum(lengths) else None


def _message(length: int, data: bytes) -> Message:
    head, parts, start = json.loads(data[:length]), [], length
    for size in head["sizes"]:
        parts.append(data[start : start + size])
        start += size
    return Message(head, parts)
