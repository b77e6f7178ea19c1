"""Messages between the service and its workers: a JSON object and any number of byte strings, over a pipe.

Eight bytes tell the length of the object and of all that follows it; the object's ``sizes`` tell how that is divided.
A worker handles files from strangers, so nothing that it sends is unpickled.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

AHEAD = 2  # batches that a worker has at once: one that runs, one that is decoded or encoded meanwhile
_LENGTHS = struct.Struct(">II")


class Message(NamedTuple):
    """An object and the byte strings that belong to it."""

    head: dict[str, Any]
    parts: list[bytes]


def pack(head: dict[str, Any], parts: Sequence[bytes] = ()) -> bytes:
    """A message as bytes."""
    text = json.dumps({**head, "sizes": [len(part) for part in parts]}).encode()
    return b"".join((_LENGTHS.pack(len(text), sum(map(len, parts))), text, *parts))


async def receive(stream: asyncio.StreamReader) -> Message | None:
    """The next message; None at the end, also if that comes in the middle of one."""
    try:
        lengths = _LENGTHS.unpack(await stream.readexactly(_LENGTHS.size))
        return _message(lengths[0], await stream.readexactly(sum(lengths)))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def read(stream: BinaryIO) -> Message | None:
    """As `receive`, in a thread that may wait."""
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
