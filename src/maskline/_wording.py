"""Words of messages: numbers with their nouns, and values cut to a length that can be read."""

from __future__ import annotations

import re
from typing import Any

LONGEST_VALUE = 60  # characters
LONGEST_END = 90  # characters, of what is left of a long word at either end
_LONG_WORD = re.compile(r"\S{200,}")


def shortened(text: str) -> str:
    """A message with the middle of very long words left out, such as that of a path: the ends tell more."""
    return _LONG_WORD.sub(lambda found: f"{found[0][:LONGEST_END]}...{found[0][-LONGEST_END:]}", text)


def short(value: Any) -> str:
    """A value as it may stand in a message."""
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: ``1 image``, ``2 images``; or with another plural than that in s: ``2 are``."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"
