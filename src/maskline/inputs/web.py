"""Inputs from the web: cached, one folder per URL, and revalidated on each use."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urldefrag, urlsplit

from maskline.errors import InputError
from maskline.fetching.download import cache_dir, download_file, is_offline
from maskline.inputs.files import VIDEO_SUFFIXES, suffix_of

_URL = re.compile(r"https?://", re.IGNORECASE)
_NAME_LENGTH = 50  # characters; file names may have 255 bytes, and downloads append to them
_ATTEMPTS = 3


class Limits(NamedTuple):
    """Limits of a download: bytes, and total seconds."""

    size: int
    deadline: float


FOLDER = "predict_input"  # in the cache folder
KEPT_DAYS = 30
_tidied: set[Path] = set()
TIMEOUT = 15.0  # seconds without data, when connecting and between bytes
LIMITS = Limits(200 << 20, 300.0)  # for images and PDF files
VIDEO_LIMITS = Limits(4 << 30, 3600.0)  # for URLs whose path has a video suffix


def is_url(text: str) -> bool:
    """Whether a string is an http(s) URL; a file may well be named ``http_local.png``."""
    return _URL.match(text) is not None


def file_name(url: str) -> str:
    """Derive a safe file name from the path of a URL: ``dog.jpg`` from ``https://a.b/x/dog.jpg?size=2``."""
    parts = urlsplit(url)
    last = unquote(parts.path).rstrip("/").rpartition("/")[2] or parts.hostname or ""
    name = re.sub(r"[^\w.()+-]+", "_", last).strip("._")
    stem, dot, suffix = name.rpartition(".")
    if not dot or len(suffix) > 10:
        return name[:_NAME_LENGTH] or "input"
    return f"{stem[: _NAME_LENGTH - len(suffix) - 1]}.{suffix}"


def place(url: str, folder: str) -> Path:
    """Path of the cached copy of a URL: a subfolder per URL, and a readable name."""
    digest = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return cache_dir() / folder / digest / file_name(url)


def download(url: str) -> Path:
    """Download ``url`` into ``predict_input`` of the cache folder.

    The cached copy is used if the server has no newer version, or, with a warning, if ``MASKLINE_OFFLINE`` is set.
    Copies older than `KEPT_DAYS` days are removed once per process; any copy may be deleted at any time.

    Raises:
        DownloadError: the download fails or exceeds the limits above.
        InputError: not a valid URL.
    """
    url = urldefrag(url).url
    try:
        host, _ = urlsplit(url).hostname, urlsplit(url).port
    except ValueError:  # brackets without an address, a port that is not a number
        host = None
    if not host:
        raise InputError(f"{url!r} is not a valid URL: expected http:// or https://, a host and a path")
    target = place(url, FOLDER)
    if target.parents[1] not in _tidied and not is_offline():
        _tidied.add(target.parents[1])
        _remove_old(target.parents[1], target.parent)
    limits = VIDEO_LIMITS if suffix_of(urlsplit(url).path) in VIDEO_SUFFIXES else LIMITS
    return download_file(
        url,
        target,
        progress=False,  # the caller may already show a bar
        attempts=_ATTEMPTS,
        timeout=TIMEOUT,
        deadline=limits.deadline,
        max_bytes=limits.size,
        refresh=True,
        advice="download it yourself and pass the path of the file",
    )


def _remove_old(folder: Path, keep: Path) -> None:
    """Remove copies not downloaded again for `KEPT_DAYS` days, except ``keep``."""
    oldest = time.time() - KEPT_DAYS * 24 * 3600
    for copy in folder.iterdir() if folder.is_dir() else ():
        try:
            if copy != keep and copy.is_dir() and copy.stat().st_mtime < oldest:
                shutil.rmtree(copy)
        except OSError:  # another process has it open, or removed it first
            continue
