"""Inputs from the web: each URL has a folder of its own in the cache, and is asked for again every time."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urldefrag, urlsplit

from maskline.errors import InputError
from maskline.fetching.download import fetch, home, offline
from maskline.inputs.files import VIDEO_SUFFIXES, suffix_of

_URL = re.compile(r"https?://", re.IGNORECASE)
_NAME_LENGTH = 50  # characters; names of files may have 255 bytes, and downloads add to them
_ATTEMPTS = 3


class Limits(NamedTuple):
    """What a download may take: bytes, and seconds in all."""

    size: int
    deadline: float


FOLDER = "predict_input"  # of the cache
KEPT_DAYS = 30
_tidied: set[Path] = set()
TIMEOUT = 15.0  # seconds of silence, when connecting and between bytes
LIMITS = Limits(200 << 20, 300.0)  # of images and PDF files
VIDEO_LIMITS = Limits(4 << 30, 3600.0)  # of a URL whose path has the suffix of a video


def is_url(text: str) -> bool:
    """Whether a text is a URL that can be downloaded. A file may well be called ``http_local.png``."""
    return _URL.match(text) is not None


def file_name(url: str) -> str:
    """What the path of a URL ends in, fit to be the name of a file: ``dog.jpg`` of ``https://a.b/x/dog.jpg?size=2``."""
    parts = urlsplit(url)
    last = unquote(parts.path).rstrip("/").rpartition("/")[2] or parts.hostname or ""
    name = re.sub(r"[^\w.()+-]+", "_", last).strip("._")
    stem, dot, suffix = name.rpartition(".")
    if not dot or len(suffix) > 10:
        return name[:_NAME_LENGTH] or "input"
    return f"{stem[: _NAME_LENGTH - len(suffix) - 1]}.{suffix}"


def place(url: str, folder: str) -> Path:
    """Where the copy of a URL is kept: below this folder of the cache, in one of its own, under a readable name."""
    digest = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return home() / folder / digest / file_name(url)


def download(url: str) -> Path:
    """The file at ``url``, in ``predict_input`` of the cache folder.

    The copy there is used if the server says that it still has the same version, or, with a warning, if
    ``MASKLINE_OFFLINE`` forbids to ask. Copies of more than `KEPT_DAYS` days are removed, once a process; anybody may
    remove any.

    Raises:
        DownloadError: it can't be had, or exceeds the limits above.
        InputError: no URL.
    """
    url = urldefrag(url).url
    try:
        host, _ = urlsplit(url).hostname, urlsplit(url).port
    except ValueError:  # brackets that do not hold an address, a port that is not a number
        host = None
    if not host:
        raise InputError(f"{url!r} is not a URL: expected http:// or https://, a host and a path")
    target = place(url, FOLDER)
    if target.parents[1] not in _tidied and not offline():
        _tidied.add(target.parents[1])
        _remove_old(target.parents[1], target.parent)
    limits = VIDEO_LIMITS if suffix_of(urlsplit(url).path) in VIDEO_SUFFIXES else LIMITS
    return fetch(
        url,
        target,
        progress=False,  # a second bar would spoil that of the whole work
        attempts=_ATTEMPTS,
        timeout=TIMEOUT,
        deadline=limits.deadline,
        max_bytes=limits.size,
        refresh=True,
        advice="download it yourself and give the path of the file",
    )


def _remove_old(folder: Path, wanted: Path) -> None:
    """Remove copies that nobody has fetched anew for `KEPT_DAYS` days, but not the one that is ``wanted``."""
    oldest = time.time() - KEPT_DAYS * 24 * 3600
    for copy in folder.iterdir() if folder.is_dir() else ():
        try:
            if copy != wanted and copy.is_dir() and copy.stat().st_mtime < oldest:
                shutil.rmtree(copy)
        except OSError:  # another process has it open, or has been quicker
            continue
