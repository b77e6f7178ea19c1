"""Videos, cameras and network streams, read by OpenCV one frame at a time."""

from __future__ import annotations

import logging
import math
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from maskline._wording import counted
from maskline.errors import InputError
from maskline.fetching.http import redacted
from maskline.inputs.arrays import from_array
from maskline.inputs.containers import is_cut_short
from maskline.inputs.files import suffix_of
from maskline.inputs.input_image import Found, InputImage, check_size, fault

STREAM_TIMEOUT = 15.0  # seconds without data, when connecting and between frames, after which a stream has ended

_STREAM = re.compile(r"(rtsps?|rtmps?|udp|srt)://", re.IGNORECASE)
_CAMERA = re.compile(r"camera:([0-9]{1,4})", re.IGNORECASE)
_TRIES = 3  # consecutive frames that fail to decode, after which a video has ended
_MISSING = 0.1  # fraction of the stated frames that may be missing
_EXACT = ("mp4", "m4v", "mov", "3gp", "avi")  # containers that state the number of frames; for others it is an estimate

logger = logging.getLogger("maskline")


def camera_number(text: str) -> int | None:
    """N of ``camera:N``; None for any other string."""
    match = _CAMERA.fullmatch(text)
    return int(match[1]) if match else None


def is_stream(text: str) -> bool:
    """Whether a string is the address of a network stream, such as rtsp://."""
    return _STREAM.match(text) is not None


def read_video(file: Path, name: str, path: str) -> Iterator[Found]:
    """Yield the frames of a video file, with its rotation applied.

    If it is cut short or damaged, the frames up to that point are followed by an error; the decoder may have filled in
    part of the last one.

    Args:
        name: for messages.
        path: `InputImage.path` of the frames.
    """
    number = -1
    try:
        with _opened(lambda: _open_file(file)) as capture:
            promised = _promised(capture)
            for image in _frames(capture, path):
                number = image.page or 0
                yield image
        problem = _problem_at_end(file, number + 1, promised)
    except _NotOpenedError:
        problem = "cut short" if _is_cut(file) else "damaged, or a variant of its format that OpenCV can't decode here"
    if problem:
        yield InputError(f"{name}: {problem}").because("damaged")


def count_frames(file: Path) -> int | None:
    """Number of frames stated by the header of a video; None if not stated, 1 if the file can't be opened."""
    try:
        with _opened(lambda: _open_file(file)) as capture:
            return _promised(capture)
    except _NotOpenedError:
        return 1


def read_camera(number: int) -> Iterator[Found]:
    """Yield the frames of a local camera, endlessly; closing the iterator releases it."""
    try:
        with _opened(lambda: cv2.VideoCapture(number)) as capture:
            yield from _frames(capture, f"camera_{number}")
    except _NotOpenedError:
        yield InputError(f"camera {number} can't be opened: it is missing, or another program uses it")
        return
    yield InputError(f"camera {number} stopped sending frames: was it unplugged?")


def read_stream(address: str) -> Iterator[Found]:
    """Yield the frames of a network stream until it ends; closing the iterator releases it."""
    shown = redacted(address)
    wait = int(1000 * STREAM_TIMEOUT)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, wait, cv2.CAP_PROP_READ_TIMEOUT_MSEC, wait]
    given = False
    try:
        with _opened(lambda: cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)) as capture:
            for image in _frames(capture, shown):
                given = True
                yield image
    except _NotOpenedError:
        yield InputError(f"{shown!r} can't be opened: no response, or a stream that OpenCV can't decode here")
        return
    if given:
        logger.warning("%s stopped sending frames", shown)  # a regular end and a lost connection look the same
    else:
        yield InputError(f"{shown!r} sends no frames")


class _NotOpenedError(Exception):
    """OpenCV can't open it."""


class _Quiet:
    """Silence OpenCV and FFmpeg on stderr: we report errors ourselves.

    Their log level is global, so the first thread to enter sets it and the last one restores it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = self._level = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read once, with the first video
                self._level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                cv2.utils.logging.setLogLevel(self._level)


_quiet = _Quiet()


@contextmanager
def _opened(start: Callable[[], cv2.VideoCapture]) -> Iterator[cv2.VideoCapture]:
    """Open a capture and release it at the end. Raises _NotOpenedError."""
    try:
        with _quiet:
            capture = start()
    except (cv2.error, ValueError) as error:  # ValueError: a non-Unicode name
        raise _NotOpenedError from error
    try:
        if not capture.isOpened():
            raise _NotOpenedError
        yield capture
    finally:
        capture.release()


def _open_file(file: Path) -> cv2.VideoCapture:
    """Open with FFmpeg: other backends treat some names as patterns. It treats relative names as addresses."""
    return cv2.VideoCapture(str(file.absolute()), cv2.CAP_FFMPEG)


def _frames(capture: cv2.VideoCapture, path: str) -> Iterator[InputImage]:
    """Yield the frames that can be decoded, numbered from 0. Raises InputError if they are too large."""
    sides = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
    try:
        check_size(*(int(capture.get(side)) or 1 for side in sides))
    except InputError as error:
        raise fault(repr(path), error) from None
    rate = capture.get(cv2.CAP_PROP_FPS)
    fps = float(rate) if 0 < rate < 10_000 else 0.0
    number = failed = 0
    while failed < _TRIES:
        with _quiet:
            done, pixels = capture.read()
        if not done:
            failed += 1
            continue
        failed = 0
        yield InputImage(from_array(np.asarray(pixels)), path, number, fps)
        number += 1


def _promised(capture: cv2.VideoCapture) -> int | None:
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(count) if math.isfinite(count) and 0 < count < 1e9 else None


def _problem_at_end(file: Path, given: int, promised: int | None) -> str:
    """Describe what is wrong with a video that yielded ``given`` frames; empty if nothing is known to be."""
    if _is_cut(file):
        return f"cut short after {counted(given, 'frame')}"
    if not given:
        return "no frame of the video can be decoded"
    if promised and given < (1 - _MISSING) * promised:
        problem = f"only {given} of {counted(promised, 'frame')} could be read"
        if suffix_of(file.name) in _EXACT:
            return f"damaged: {problem}"
        logger.warning("%s: %s", file, problem)
    return ""


def _is_cut(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return is_cut_short(opened, file.stat().st_size)
    except OSError:  # removed meanwhile
        return False
