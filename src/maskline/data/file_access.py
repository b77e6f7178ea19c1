"""Access to files that a data set names: checked paths, and text in any usual encoding."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from maskline._files import decode_text
from maskline.errors import DatasetError

LFS_POINTER = "version https://git-lfs"  # first bytes of the files that stand for others in a repository


def relative_name(name: str) -> str | None:
    """A file name with forward slashes and without ``.``; None if it leads out of its folder or is not a file name."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.name or "\0" in name or re.match(r"[A-Za-z]:", name):
        return None
    return str(path)


def is_file(path: Path) -> bool:
    """Whether a file exists; never raises, however odd or long its name is."""
    return os.path.isfile(path)  # noqa: PTH113 (Path.is_file raises if a name is too long)


def read_text_file(path: Path) -> str:
    """Read a text file as `decode_text` does, with a replacement character for what can't be decoded.

    Raises DatasetError if it can't be read or is a pointer of Git LFS.
    """
    try:
        text = decode_text(path.read_bytes(), errors="replace")
    except OSError as error:
        raise DatasetError(f"{path} can't be read: {error.strerror}") from error
    if text.startswith(LFS_POINTER):
        raise DatasetError(f"{path} is a pointer of Git LFS: run git lfs pull")
    return text
