"""Files: which are meant as inputs (their suffix tells), what they hold (their first bytes tell), and reading them."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

from maskline.errors import InputError, InputNotFoundError
from maskline.inputs.images import is_image

SUFFIXES = ("bmp", "dib", "jpeg", "jpg", "png", "webp", "pbm", "pgm", "ppm", "pnm", "sr", "ras", "tiff", "tif")
#: Images of other kinds, which are not read.
UNREAD_SUFFIXES = (
    *("heic", "heif", "hif", "gif", "jp2", "j2k", "jpx", "jxl", "svg", "psd", "xcf", "exr", "hdr", "tga", "dcm", "czi"),
    *("svs", "ndpi", "mrxs", "nef", "cr2", "cr3", "arw", "dng", "orf", "rw2", "raf"),
)
VIDEO_SUFFIXES = (
    *("mp4", "m4v", "mov", "3gp", "avi", "mkv", "webm", "wmv", "asf", "flv"),
    *("mpg", "mpeg", "ts", "mts", "m2ts", "ogv"),
)
#: What is taken from a folder. No videos: a film among photos would give more results than all of them together.
FOLDER_SUFFIXES = (*SUFFIXES, "pdf")

Kind: TypeAlias = Literal["image", "pdf", "video"]

_HEAD = 1024  # bytes that tell what a file holds; %PDF- may come as late as that
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)  # so that no such file can be there
# Image formats in the container of MP4. They are not read, and must not pass for films.
_IMAGE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"crx ")
_VIDEO = re.compile(
    rb"....(ftyp|moov|mdat|free|skip|wide|pnot)"  # MP4, QuickTime
    rb"|RIFF....AVI |\x1a\x45\xdf\xa3|FLV\x01|OggS|\x30\x26\xb2\x75\x8e\x66\xcf\x11|\0\0\x01[\xb3\xba]"
    rb"|\x47.{187}\x47.{187}\x47|.{4}\x47.{191}\x47.{191}\x47",  # MPEG transport streams, of 188 or 192 bytes a packet
    re.DOTALL,
)


def suffix_of(name: str) -> str:
    """What follows the last full stop, in lower case; nothing if there is none."""
    return name.rpartition(".")[2].lower() if "." in name else ""


def kind_of(head: bytes) -> Kind | None:
    """What a file holds that begins with ``head``; None for anything that is no input."""
    if is_image(head):
        return "image"
    if b"%PDF-" in head[:_HEAD]:
        return "pdf"
    return "video" if _VIDEO.match(head) and head[8:12] not in _IMAGE_BRANDS else None


def kind_meant(suffix: str) -> Kind | None:
    """What a suffix says that a file is; None for one that is no input's."""
    if suffix == "pdf":
        return "pdf"
    return "image" if suffix in SUFFIXES else "video" if suffix in VIDEO_SUFFIXES else None


def read_head(path: str, name: str) -> bytes:
    """The first bytes of a file, at least one; ``name`` is for messages. Raises InputNotFoundError, InputError."""
    return _read(path, name, _HEAD)


def read_bytes(path: str, name: str) -> bytes:
    """The content of a file; ``name`` is for messages. Raises InputNotFoundError, InputError."""
    return _read(path, name, -1)


def _read(path: str, name: str, size: int) -> bytes:
    with _read_errors(name):
        _check_regular(path, name)
        with Path(path).open("rb") as file:
            data = file.read(size)
    if not data:
        raise InputError(f"{name} is empty (0 bytes)")
    return data


def check_suffix(path: str, kinds: str, suffixes: tuple[str, ...]) -> None:
    """Raise InputError, or InputNotFoundError where there is no such file, if its suffix is not among these."""
    if suffix_of(path) in suffixes:
        return
    with _read_errors(repr(path)):
        _check_regular(path, repr(path))
    raise InputError(f"{path!r} is a file of another kind: expected {kinds} with the suffix {', '.join(suffixes)}")


def _check_regular(path: str, name: str) -> None:
    """Raise InputError, or OSError, if this is no ordinary file."""
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
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        if isinstance(error, OSError) and error.errno in _NOT_THERE:
            raise InputNotFoundError(f"{name}: no such file or folder") from error
        raise InputError(f"{name} could not be read: {getattr(error, 'strerror', error)}") from error


def files_in(folder: str) -> list[str]:
    """The image and PDF files in ``folder`` and below, sorted by path. Raises InputError if there are none.

    Links to files count, links to folders are not followed.
    """
    found: list[str] = []
    folders = [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif suffix_of(entry.name) in FOLDER_SUFFIXES and entry.is_file():
                        found.append(entry.path)
        except OSError as error:
            raise InputError(f"{error.filename!r} could not be listed: {error.strerror}") from error
    if not found:
        raise InputError(f"{folder!r} holds no image: expected files with the suffix {', '.join(FOLDER_SUFFIXES)}")
    return sorted(found)
