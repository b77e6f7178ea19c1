"""Writing files so that they are never there in half."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from pathlib import Path

from maskline.errors import OutputError


def replace_file(path: Path, write: Callable[[Path], object]) -> Path:
    """Have a file written under a temporary name beside ``path``, then give it that name.

    Args:
        path: the file; its folder is made where missing.
        write: writes the file it is given, which does not exist yet.

    Returns:
        ``path``.

    Raises:
        OutputError: it can't be written; what was there before is left.
    """
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.replace(path)
    except (OSError, ValueError) as error:  # Pillow raises ValueError for what a format can't hold
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{path} can't be written: {reason}") from error
    finally:
        with contextlib.suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)
    return path
