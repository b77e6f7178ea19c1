"""Texts that any file can hold: names that are Unicode, and JSON that is JSON, whatever a data set held."""

from __future__ import annotations

import json
import math
from typing import Any

MAX_DEPTH = 64  # values inside each other that are kept


def is_valid_unicode(text: str) -> bool:
    """Whether a text is Unicode: JSON, and file names that are not UTF-8, may bring half a character (a surrogate)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def escape_surrogates(text: str) -> str:
    """The same text, with ``\\ud800`` for half a character."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def is_plain(value: Any, depth: int = 0) -> bool:
    """Whether JSON has a word for a value: it has none for NaN and infinities. Too deep a value counts as none."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        value = list(value.values())
    return not isinstance(value, (list, tuple)) or (
        depth < MAX_DEPTH and all(is_plain(part, depth + 1) for part in value)
    )


def plain(value: Any, depth: int = 0) -> Any:
    """A value with None for everything in it that `is_plain` refuses."""
    if isinstance(value, (dict, list, tuple)):
        if depth == MAX_DEPTH:
            return None
        if isinstance(value, dict):
            return {key: plain(part, depth + 1) for key, part in value.items()}
        return [plain(part, depth + 1) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def dump_json(value: Any, indent: int | None = None) -> str:
    """JSON, with null for what it has no word for. May hold half a character, which `encode_json` writes as its escape."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except ValueError:
        return json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=indent)


def encode_json(document: str) -> bytes:
    """A JSON document as UTF-8; half a character is legal in it as an escape."""
    return document.encode("utf-8", "backslashreplace")
