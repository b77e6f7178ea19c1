"""Input files: the type a suffix announces, the type the first bytes show, and reading."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from maskline._files import visible_files
from maskline._wording import counted
from maskline.errors import InputError, InputNotFoundError
from maskline.inputs.images import is_image
from maskline.inputs.input_image import HEAD
from maskline.inputs.unread import UNREAD_SUFFIXES, unread_image, why_unread

SUFFIXES = (
    *("bmp", "dib", "jpeg", "jpg", "jpe", "jfif", "png", "webp", "avif", "pbm", "pgm", "ppm", "pnm", "sr", "ras"),
    *("tiff", "tif"),
)
VIDEO_SUFFIXES = (
    *("mp4", "m4v", "mov", "3gp", "avi", "mkv", "webm", "wmv", "asf", "flv"),
    *("mpg", "mpeg", "ts", "mts", "m2ts", "ogv"),
)
#: Suffixes read from a folder. No videos: one among photos would outweigh all of them.
FOLDER_SUFFIXES = (*SUFFIXES, "pdf")

Kind: TypeAlias = Literal["image", "pdf", "video"]

_NOT_FOUND = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
# Common companions of images, often one per image: never opened.
_TEXT_SUFFIXES = ("txt", "json", "jsonl", "xml", "csv", "tsv", "yaml", "yml", "md", "html", "py", "log")
_VIDEO = re.compile(
    rb"....(ftyp|moov|mdat|free|skip|wide|pnot)"  # MP4, QuickTime
    rb"|RIFF....AVI |\x1a\x45\xdf\xa3|FLV\x01|OggS|\x30\x26\xb2\x75\x8e\x66\xcf\x11|\0\0\x01[\xb3\xba]"
    rb"|\x47.{187}\x47.{187}\x47|.{4}\x47.{191}\x47.{191}\x47",  # MPEG transport streams, 188 or 192 bytes per packet
    re.DOTALL,
)


def suffix_of(name: str) -> str:
    """File name suffix in lower case, without the dot; empty if there is none."""
    return name.rpartition(".")[2].lower() if "." in name else ""


def kind_of(head: bytes) -> Kind | None:
    """Type of a file from its first bytes; None if it is not an input."""
    if is_image(head):
        return "image"
    if b"%PDF-" in head[:HEAD]:
        return "pdf"
    return "video" if _VIDEO.match(head) and unread_image(head) is None else None  # some images use MP4's container


def kind_meant(suffix: str) -> Kind | None:
    """Type of file that a suffix announces; None if it is not an input."""
    if suffix == "pdf":
        return "pdf"
    return "image" if suffix in SUFFIXES else "video" if suffix in VIDEO_SUFFIXES else None


def read_head(path: str, name: str) -> bytes:
    """Read the first bytes of a file, at least one; ``name`` is for messages. Raises InputNotFoundError, InputError."""
    return _read(path, name, HEAD)


def read_bytes(path: str, name: str) -> bytes:
    """Read a file; ``name`` is for messages. Raises InputNotFoundError, InputError."""
    return _read(path, name, -1)


def _read(path: str, name: str, size: int) -> bytes:
    with _read_errors(name):
        _check_regular(path, name)
        with Path(path).open("rb") as file:
            data = file.read(size)
    if not data:
        raise InputError(f"{name} is empty (0 bytes)").because("empty")
    return data


def check_suffix(path: str, kinds: str, suffixes: tuple[str, ...]) -> None:
    """Raise InputError unless the suffix of a file is among ``suffixes``; InputNotFoundError if the file is missing."""
    if suffix_of(path) in suffixes:
        return
    head = read_head(path, repr(path))
    kind = kind_of(head)
    if kind is None and (reason := why_unread(head, suffix_of(path))):
        raise InputError(f"{path!r} is {reason}").because("not supported")
    rename = "; its content is an image: rename it" if kind == "image" else ""
    raise InputError(
        f"{path!r} has an unsupported suffix: expected {kinds} with the suffix {', '.join(suffixes)}{rename}"
    ).because("not supported")


def _check_regular(path: str, name: str) -> None:
    """Raise InputError or OSError unless ``path`` is a regular file."""
    mode = os.stat(path).st_mode  # noqa: PTH116 (Path("") is a folder)
    if stat.S_ISDIR(mode):
        raise InputError(f"{name} is a folder: expected a file")
    if not stat.S_ISREG(mode):
        raise InputError(f"{name} is a device or pipe: expected a file (a camera is given by its number)")


@contextmanager
def _read_errors(name: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        if isinstance(error, OSError) and error.errno in _NOT_FOUND:
            raise InputNotFoundError(f"{name}: no such file or folder") from error
        message = f"{name} could not be read: {getattr(error, 'strerror', error)}"
        raise InputError(message).because("not accessible") from error


class Folder(NamedTuple):
    """Inputs in a folder and its subfolders. Links are followed; hidden files and folders are skipped.

    Attributes:
        files: paths of image and PDF files, sorted.
        left_out: number of other image and video files, by suffix.
        unlisted: one error per folder that can't be listed.
    """

    files: list[str]
    left_out: Counter[str]
    unlisted: list[InputError]

    @classmethod
    def of(cls, path: str) -> Folder:
        """List a folder."""
        folder = cls([], Counter(), [])
        for name in visible_files(Path(path), on_error=lambda error: folder.unlisted.append(_unlisted(error))):
            file = os.path.join(path, *name.split("/"))  # noqa: PTH118 (the path as given: Path would change it)
            suffix = suffix_of(name.rpartition("/")[2])
            if suffix in FOLDER_SUFFIXES:
                folder.files.append(file)
            elif _is_left_out(file, suffix):
                folder.left_out[f".{suffix}" if suffix else "without a suffix"] += 1
        folder.files.sort()
        return folder


def _unlisted(error: OSError) -> InputError:
    return InputError(f"folder {error.filename!r} can't be listed: {error.strerror}").because("not accessible")


def _is_left_out(path: str, suffix: str) -> bool:
    """Whether a file skipped in a folder is an image or a video, by its suffix or content."""
    if suffix in VIDEO_SUFFIXES or suffix in UNREAD_SUFFIXES:
        return True
    if suffix in _TEXT_SUFFIXES:
        return False
    try:
        head = read_head(path, path)
    except InputError:
        return False
    return (kind_of(head) or unread_image(head)) is not None


def not_predicted(left_out: Counter[str]) -> str:
    """``3 files were not predicted: 2 .heic, 1 .mp4``; by suffix."""
    return f"{counted(left_out.total(), 'file was', 'files were')} not predicted: {_each(left_out)}"


def not_read(reasons: Counter[str]) -> str:
    """``3 inputs could not be read: 2 damaged, 1 empty``; by the errors' ``reason``."""
    return f"{counted(reasons.total(), 'input')} could not be read: {_each(reasons)}"


def _each(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counts.items(), key=lambda item: (-item[1], item)))
