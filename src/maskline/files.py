"""Files: listed without hidden ones, never written by halves, and YAML read with one line for what is wrong."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from maskline.errors import OutputError, ParameterError


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or a shadow that macOS leaves in archives (``._x``, ``__MACOSX``)."""
    return name.startswith(".") or name == "__MACOSX"


def visible_files(folder: Path, *, on_error: Callable[[OSError], object] | None = None) -> Iterator[str]:
    """Paths of all files below a folder, relative to it, with forward slashes; folder by folder, sorted by name.

    Links are followed. Hidden files and folders are skipped, and a folder that links lead to twice is listed once.

    Args:
        folder: where to start.
        on_error: gets the error of each folder that can't be listed; None skips those folders.
    """
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=on_error):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        inner = os.path.relpath(here, folder).replace(os.sep, "/")
        prefix = "" if inner == "." else f"{inner}/"
        yield from (prefix + name for name in sorted(names) if not is_hidden(name))


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


def replace_files(folder: Path, files: Sequence[Path]) -> None:
    """Copy files into a folder, all or none: what can't be had room for is known before the first gets its name.

    Args:
        folder: made where missing.
        files: in the order in which they appear.

    Raises:
        OutputError: they can't be written; what was there before is left.
    """
    temporary = [folder / f".{secrets.token_hex(8)}.tmp" for _ in files]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, copy in zip(files, temporary, strict=True):
            shutil.copyfile(file, copy)
        for file, copy in zip(files, temporary, strict=True):
            copy.replace(folder / file.name)
    except OSError as error:
        raise OutputError(f"{folder} can't be written to: {error.strerror or error}") from error
    finally:
        for copy in temporary:
            with contextlib.suppress(OSError):
                copy.unlink(missing_ok=True)


def read_text(path: Path) -> str:
    """A text file in UTF-8, or in GB 18030 (GBK), as Chinese editions of Windows write it.

    Raises:
        UnicodeDecodeError: it is neither.
        OSError: it can't be read.
    """
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("gb18030")


def read_yaml(path: Path) -> Any:
    """What a YAML file holds. Raises ParameterError if it is no YAML or no text."""
    import yaml

    try:
        return yaml.safe_load(read_text(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # bytes that are no text, dates, depth
        raise ParameterError(f"{path} is not readable YAML ({' '.join(str(error).split())})") from None
