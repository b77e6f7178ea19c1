"""Compressed bodies of requests (Content-Encoding), decompressed as they come."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator

from maskline.serve.refusal import RefusalError

#: How zlib is to be called for each: 16 more than the window is for gzip's frame, the window alone for zlib's, which
#: HTTP calls deflate.
CODINGS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
STEP = 1 << 18  # bytes that are decompressed at a time: a millisecond in which the event loop does nothing else


async def decompressed(chunks: AsyncIterator[bytes], coding: str) -> AsyncIterator[bytes]:
    """What compressed bytes stand for, `STEP` bytes at a time at most, however few they are made from.

    Raises:
        RefusalError: 400, they are damaged, cut short, or followed by others.
    """
    inflater = zlib.decompressobj(CODINGS[coding])
    async for chunk in chunks:
        more = bool(chunk)
        while more:
            if inflater.eof:
                raise _damaged(coding, "bytes follow its end")
            try:
                made = inflater.decompress(chunk, STEP)
            except zlib.error as error:
                raise _damaged(coding, str(error)) from None
            yield made
            await asyncio.sleep(0)
            chunk = inflater.unconsumed_tail or inflater.unused_data
            more = bool(chunk) or (len(made) == STEP and not inflater.eof)
    if not inflater.eof:
        raise _damaged(coding, "it is cut short")


def _damaged(coding: str, reason: str) -> RefusalError:
    return RefusalError(400, f"the body is not whole {coding} data, as Content-Encoding says: {reason}")
