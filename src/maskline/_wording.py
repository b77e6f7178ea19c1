"""Helpers for messages: counts with their nouns, and shortened values."""

from __future__ import annotations

import re
from typing import Any

LONGEST_VALUE = 60  # characters
LONGEST_END = 90  # characters kept at either end of a long word
_LONG_WORD = re.compile(r"\S{200,}")


def shortened(text: str) -> str:
    """Drop the middle of very long words in a message, such as paths: the ends are more informative."""
    return _LONG_WORD.sub(lambda found: f"{found[0][:LONGEST_END]}...{found[0][-LONGEST_END:]}", text)


def short(value: Any) -> str:
    """Shortened ``repr`` of a value, for messages."""
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def counted(number: int, noun: str, plural: str = "") -> str:
    """A count with its noun: ``1 image``, ``2 images``; ``plural`` for irregular ones."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def sentence(text: str) -> str:
    """The text with a capital at its beginning."""
    return text[:1].upper() + text[1:]
