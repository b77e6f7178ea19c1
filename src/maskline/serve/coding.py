"""Streaming decompression of request bodies (Content-Encoding)."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator

from maskline.serve.refusal import RefusalError

#: zlib's ``wbits`` by coding: window size plus 16 for the gzip format, window size alone for the zlib format, which
#: HTTP calls deflate.
CODINGS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
STEP = 1 << 18  # bytes decompressed at a time, which blocks the event loop for about a millisecond


async def decompressed(chunks: AsyncIterator[bytes], coding: str) -> AsyncIterator[bytes]:
    """Decompress a stream, in chunks of at most `STEP` bytes whatever the compression ratio.

    Raises:
        RefusalError: 400, the data is damaged, cut short, or followed by other data.
    """
    inflater = zlib.decompressobj(CODINGS[coding])
    async for chunk in chunks:
        more = bool(chunk)
        while more:
            if inflater.eof:
                raise _damaged(coding, "data follows its end")
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
    return RefusalError(400, f"the body is not valid {coding} data, as stated by Content-Encoding: {reason}")
