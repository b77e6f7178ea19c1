"""Words of messages: numbers with their nouns, and values cut to a length that can be read."""

from __future__ import annotations

from typing import Any

LONGEST_VALUE = 60  # characters


def short(value: Any) -> str:
    """A value as it may stand in a message."""
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: ``1 image``, ``2 images``; or with another plural than that in s: ``2 are``."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"
