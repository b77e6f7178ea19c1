"""Turn any input into a stream of images, in the order given, one at a time."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np
from PIL import Image

from maskline.errors import DownloadError, InputError, InputTypeError, ParameterError
from maskline.inputs import web
from maskline.inputs.arrays import from_array, from_pillow
from maskline.inputs.files import (
    FOLDER_SUFFIXES,
    SUFFIXES,
    VIDEO_SUFFIXES,
    Folder,
    check_suffix,
    kind_meant,
    kind_of,
    not_predicted,
    read_bytes,
    read_head,
    suffix_of,
)
from maskline.inputs.images import decode
from maskline.inputs.input_image import HEAD, Found, InputImage, guarded
from maskline.inputs.pdf import count_pages, read_pdf
from maskline.inputs.tiff import TIFF
from maskline.inputs.unread import not_an_image, why_unread
from maskline.inputs.video import camera_number, count_frames, is_stream, read_camera, read_stream, read_video
from maskline.instances import ByteArray

Source: TypeAlias = Any  # one of the types listed by `iter_images`, which checks it
OnError: TypeAlias = str | Callable[[InputError | DownloadError], object]

KEYS = ("input", "img", "img_path")  # accepted keys of an input dict

_ACCEPTED = (
    "the path of an image, PDF, video or folder, a URL, the number of a camera, a uint8 BGR array, a PIL image, the "
    f"bytes of an image or PDF file, a dict with the key {', '.join(KEYS[:-1])} or {KEYS[-1]}, or a list, tuple or "
    "iterator of these"
)
DEEPEST = 50  # nesting depth of lists
_BYTES = (bytes, bytearray, memoryview)
_NO_KIND = {
    "image": not_an_image(b""),
    "pdf": "not a PDF file: it does not begin with %PDF-",
    "video": "not a video: expected the content of an MP4, QuickTime, AVI, Matroska, WebM, MPEG, ASF, FLV or Ogg file",
    None: "neither an image nor a PDF file nor a video that can be read",
}

logger = logging.getLogger("maskline")


def iter_images(source: Source, *, on_error: OnError = "raise") -> Iterator[InputImage]:
    """Yield the images of ``source`` in order, each read only when needed.

    Args:
        source: one of
            the path of a file (str or Path) whose suffix, in any case, is one of `SUFFIXES`, pdf, or one of
            `VIDEO_SUFFIXES`: an image, the images of a TIFF file, the pages of a PDF file, or the frames of a video;
            the path of a folder: all images and PDF files in it and its subfolders, sorted by full path; hidden ones
            are skipped, and a warning counts other images and videos (`count_left_out`);
            a URL (str): http:// or https://, of any of these files, suffix optional; see `maskline.inputs.web`;
            a camera: its number, or the string ``camera:0``; or the address of a stream, such as ``rtsp://…``;
            a uint8 array: (H, W, 3) BGR, (H, W, 4) BGRA (alpha is dropped), (H, W) or (H, W, 1) grey;
            a PIL image: its pixels as they are (PIL does not apply the EXIF orientation), current frame only;
            bytes: the content of an image or PDF file;
            a dict with exactly one of the keys `KEYS` (others are ignored), whose value is any of these;
            a list, tuple, other sequence or iterator of these, nested to any depth.
        on_error: "raise"; "skip" to log a warning for each input, page or folder that can't be used, or video that ends
            early, and continue; or a function called with each such error, after which iteration continues. The usable
            part of a file is yielded in any case (with "raise": up to the first fault).

    Closing the iterator early releases cameras and closes files.

    A warning names the first image with `InputImage.levels`; a second one gives their total number.

    Raises (at the image concerned, except for the ParameterError about ``on_error``, raised at once):
        InputNotFoundError: no such file or folder.
        InputError: not an image, damaged, too large, an unsupported type, or a folder without images.
        DownloadError: a URL can't be downloaded.
        ParameterError: ``on_error`` is invalid, or an environment variable is.
        MissingDependencyError: this installation can't read PDF files.
    """
    return _iter_images(source, error_handler(on_error))


def error_handler(on_error: OnError) -> Callable[[InputError | DownloadError], object]:
    """Turn the ``on_error`` argument of `iter_images` into a function. Raises ParameterError if it is invalid."""
    known: dict[OnError, Callable[[InputError | DownloadError], object]] = {"raise": _raise, "skip": log_skipped}
    if callable(on_error):
        return on_error
    if on_error not in known:
        raise ParameterError(f"on_error is {on_error!r}: expected 'raise', 'skip' or a function")
    return known[on_error]


def _raise(error: InputError | DownloadError) -> NoReturn:
    raise error


def log_skipped(error: InputError | DownloadError) -> None:
    """Log a warning about an input that is skipped."""
    logger.warning("skipped: %s", error)


def count_images(source: Source) -> int | None:
    """Number of images that `iter_images` yields if all can be read; None if unknown without reading them.

    Unknown for iterators, TIFF files, cameras, streams, and URLs other than images. Only the headers of PDF files and
    videos are read (a video counts the frames its header states); nothing else is opened or checked, and inputs that
    can't be used count as one.
    """
    if isinstance(source, Iterator):
        return None
    try:
        parts = _parts(source)
    except InputError:
        return 1
    if parts is None:
        return _count_single(source)
    try:
        counts = [count_images(part) for part in parts]
    except RecursionError:  # a list that contains itself
        return None
    known = [n for n in counts if n is not None]
    return sum(known) if len(known) == len(counts) else None


def count_left_out(inputs: Iterable[str]) -> Counter[str]:
    """Count the images and videos that `iter_images` skips in the folders among ``inputs``, by suffix."""
    counts: Counter[str] = Counter()
    for name in filter(os.path.isdir, inputs):
        counts += Folder.of(name).left_out
    return counts


def read_image(path: str | os.PathLike[str]) -> ByteArray:
    """Read pixels, (H, W, 3) uint8 BGR; errors as in `read_input_image`."""
    return read_input_image(path).pixels


def read_input_image(path: str | os.PathLike[str]) -> InputImage:
    """Read an image as (H, W, 3) uint8 BGR, as OpenCV does with ``IMREAD_COLOR``, but strictly.

    Alpha is dropped, 16 bits are reduced to the upper 8, grey is repeated over the three channels, and the orientation
    is applied (`maskline.inputs.orientation`). For TIFF: the first page that is an image.

    Raises:
        InputNotFoundError: no such file.
        InputError: a folder, a suffix not in `SUFFIXES`, not an image, damaged or cut short, or over `MAX_PIXELS`.
    """
    name = os.fsdecode(path)
    check_suffix(name, "an image", SUFFIXES)
    found = next(decode(read_bytes(name, repr(name)), repr(name), name))
    if isinstance(found, InputImage):
        return found
    raise found


def _iter_images(source: Source, handle: Callable[[InputError | DownloadError], object]) -> Iterator[InputImage]:
    """`iter_images` without checking ``on_error``."""
    narrow = 0
    with closing(_read(source)) as reading:
        for found in reading:
            if isinstance(found, InputImage):
                if found.levels:
                    narrow += 1
                    _log_levels(found, logging.WARNING if narrow == 1 else logging.INFO)
                yield found
            else:
                handle(found)
    if narrow > 1:
        logger.warning("%d images in total use less than an eighth of their range", narrow)


def _log_levels(image: InputImage, level: int) -> None:
    name = "an image" if image.path is None else repr(image.path)
    page = f", page {image.page}" if image.page else ""
    logger.log(level, "%s%s: %s", name, page, image.levels)


def _read(source: Source, depth: int = 0) -> Generator[Found, None, None]:
    """Images and errors of ``source``, in order."""
    borrowed = isinstance(source, Iterator)  # which may reuse one array
    try:
        if depth > DEEPEST:
            raise InputTypeError(f"lists of inputs are nested {depth} deep: does a list contain itself?")
        parts = _parts(source, log=True)
        if parts is None:
            yield from _read_single(source)
            return
    except (InputError, DownloadError) as error:
        yield error
        return
    for part in parts:
        if isinstance(part, InputError):
            yield part
            continue
        yield from _read(part.copy() if borrowed and isinstance(part, np.ndarray) else part, depth + 1)


def _parts(source: Source, *, log: bool = False) -> Iterable[Source] | None:
    """Parts of a compound source; None for a single one. Raises InputError.

    Args:
        log: warn about files that are skipped in a folder.
    """
    if isinstance(source, Mapping):
        keys = [key for key in KEYS if key in source]
        if len(keys) != 1:
            raise InputError(f"a dict with the keys {list(source)!r}: expected exactly one of {', '.join(KEYS)}")
        return [source[keys[0]]]
    if isinstance(source, (str, os.PathLike)):
        name = os.fsdecode(source)
        if not os.path.isdir(name):  # noqa: PTH112 (Path("") is a folder, and Path can raise)
            return None
        return _files_in(name, log)
    if isinstance(source, _BYTES):
        return None
    if hasattr(source, "read"):
        raise InputTypeError(f"{source!r} is an open file: pass its path, or its bytes as from read()")
    return source if isinstance(source, (Sequence, Iterator)) else None


def _files_in(path: str, log: bool) -> Sequence[str | InputError]:
    """Errors for subfolders that can't be listed, then the inputs. Raises InputError if there are neither."""
    folder = Folder.of(path)
    if not folder.files and folder.unlisted:
        return folder.unlisted
    skipped = not_predicted(folder.left_out) if folder.left_out else ""
    if not folder.files:
        expected = f"expected files with the suffix {', '.join(FOLDER_SUFFIXES)}"
        reason = f"{path!r} has no images: {expected}{'; ' if skipped else ''}{skipped}"
        raise InputError(reason).because("without images")
    if skipped and log:
        logger.warning("%r: %s (name a video by its own path, save an image as JPEG or PNG)", path, skipped)
    return [*folder.unlisted, *folder.files]


def _read_single(source: Source) -> Iterator[Found]:
    """Images of a source that has no parts. Raises InputError, DownloadError."""
    if isinstance(source, str):
        return _read_text(source)
    if isinstance(source, os.PathLike):
        return _read_named(os.fsdecode(source))
    if isinstance(source, np.ndarray):
        return iter([InputImage(from_array(source))])
    if isinstance(source, Image.Image):
        return iter([guarded(from_pillow, source, "the PIL image")])
    if isinstance(source, _BYTES):
        return _read_content(bytes(source))
    if (number := _camera(source)) is not None:
        return read_camera(number)
    raise InputTypeError(f"an input of type {type(source).__name__}: expected {_ACCEPTED}")


def _camera(source: Source) -> int | None:
    """Camera number of a number or string; None if it is not a camera. Raises InputError."""
    if isinstance(source, str):
        return camera_number(source)
    if not isinstance(source, (int, np.integer)) or isinstance(source, bool):
        return None
    if source < 0:
        raise InputError(f"camera {source}: expected its number, 0 or above")
    return int(source)


def _read_text(text: str) -> Iterator[Found]:
    if web.is_url(text):
        file = web.download(text)
        return _read_file(str(file), repr(text), None)
    if is_stream(text):
        return read_stream(text)
    number = _camera(text)
    return _read_named(text) if number is None else read_camera(number)


def _read_named(name: str) -> Iterator[Found]:
    check_suffix(name, "an image, PDF or video", (*SUFFIXES, "pdf", *VIDEO_SUFFIXES))
    return _read_file(name, repr(name), suffix_of(name))


def _read_file(file: str, name: str, suffix: str | None) -> Iterator[Found]:
    """Images of a file, read according to its content; ``suffix``, if any, is for the error message."""
    head = read_head(file, name)
    kind = kind_of(head)
    if kind == "pdf":
        return read_pdf(Path(file), name, file)
    if kind == "video":
        return read_video(Path(file), name, file)
    if kind is None:
        reason = why_unread(head)
        expected = _NO_KIND[kind_meant(suffix) if suffix else None]
        raise InputError(f"{name} is {reason}" if reason else f"{name}: {expected}").because("not supported")
    return decode(read_bytes(file, name), name, file)


def _read_content(data: bytes) -> Iterator[Found]:
    kind = kind_of(data[:HEAD])
    if kind == "pdf":
        return read_pdf(data, "the PDF file given as bytes", None)
    if kind == "video":
        raise InputError("a video given as bytes: save it to a file and pass its path")
    return decode(data, "the image given as bytes", None)


def _count_single(source: Source) -> int | None:
    if isinstance(source, _BYTES):
        return None if bytes(source[:4]) in TIFF or kind_of(bytes(source[:HEAD])) == "pdf" else 1
    if isinstance(source, (int, np.integer)):
        return None
    return _count_named(os.fsdecode(source)) if isinstance(source, (str, os.PathLike)) else 1


def _count_named(name: str) -> int | None:
    suffix = suffix_of(name.partition("?")[0] if web.is_url(name) else name)
    if is_stream(name) or _camera(name) is not None or suffix in ("tif", "tiff"):
        return None
    if web.is_url(name):
        return 1 if suffix in SUFFIXES else None
    kind = kind_meant(suffix) if os.path.isfile(name) else None  # noqa: PTH113 (Path can raise)
    if kind == "pdf":
        return count_pages(Path(name))
    return count_frames(Path(name)) if kind == "video" else 1
