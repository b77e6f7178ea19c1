"""Valid Unicode and valid JSON from any content of a data set."""

from __future__ import annotations

import json
import math
from typing import Any

MAX_DEPTH = 64  # levels of nesting that are kept


def is_valid_unicode(text: str) -> bool:
    """Whether a string is valid Unicode. JSON, and file names that are not UTF-8, may contain lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def escape_surrogates(text: str) -> str:
    """The string with lone surrogates escaped, such as ``\\ud800``."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a value is valid JSON: without NaN and infinity, and not nested deeper than `MAX_DEPTH`."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        value = list(value.values())
    return not isinstance(value, (list, tuple)) or (
        depth < MAX_DEPTH and all(is_plain(part, depth + 1) for part in value)
    )


def plain(value: Any, depth: int = 0) -> Any:
    """The value with None in place of all parts that `is_plain` rejects."""
    if isinstance(value, (dict, list, tuple)):
        if depth == MAX_DEPTH:
            return None
        if isinstance(value, dict):
            return {key: plain(part, depth + 1) for key, part in value.items()}
        return [plain(part, depth + 1) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def dump_json(value: Any, indent: int | None = None) -> str:
    """Serialise a value, with null for invalid parts. Lone surrogates remain; `encode_json` escapes them."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except ValueError:
        return json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=indent)


def encode_json(document: str) -> bytes:
    """Encode a JSON document as UTF-8, with lone surrogates as escapes."""
    return document.encode("utf-8", "backslashreplace")
