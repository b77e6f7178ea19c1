"""From what a user gives to a stream of images, strictly in the order given, one at a time."""

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

Source: TypeAlias = Any  # one of the kinds `expand` lists; checked there
OnError: TypeAlias = str | Callable[[InputError | DownloadError], object]

KEYS = ("input", "img", "img_path")  # of a dict that holds an input

_ACCEPTED = (
    "the path of an image, PDF, video or folder, a URL, the number of a camera, a uint8 BGR array, a PIL image, the "
    f"bytes of an image or PDF file, a dict with the key {', '.join(KEYS[:-1])} or {KEYS[-1]}, or a list, tuple or "
    "iterator of these"
)
DEEPEST = 50  # lists in lists
_BYTES = (bytes, bytearray, memoryview)
_NO_KIND = {
    "image": not_an_image(b""),
    "pdf": "not a PDF file: it has no %PDF- at its beginning",
    "video": "not a video: expected the content of an MP4, QuickTime, AVI, Matroska, WebM, MPEG, ASF, FLV or Ogg file",
    None: "neither an image nor a PDF file nor a video that can be read",
}

logger = logging.getLogger("maskline")


def expand(source: Source, *, on_error: OnError = "raise") -> Iterator[InputImage]:
    """The images of ``source``, in order; each is read only when it is asked for.

    Args:
        source: one of
            the path of a file (str or Path) whose suffix, in any case, is one of `SUFFIXES`, pdf, or one of
            `VIDEO_SUFFIXES`: an image, the images of a TIFF file, the pages of a PDF file, or the frames of a video;
            the path of a folder: all images and PDF files in it and below, sorted by full path, character by character;
            hidden ones are skipped, and a warning counts other images and videos (`left_out`);
            a URL (str): http:// or https://, of any of these files, also without suffix; see `maskline.inputs.web`;
            a camera: its number, or the text ``camera:0``; or the address of a stream, such as ``rtsp://…``;
            an array of uint8: (H, W, 3) BGR, (H, W, 4) BGRA (alpha is dropped), (H, W) or (H, W, 1) grey;
            a PIL image, its grid as it is (PIL does not apply the EXIF orientation), its current frame only;
            bytes: the content of an image or PDF file;
            a dict with exactly one of the keys `KEYS` (others are ignored), whose value is any of these;
            a list, tuple, other sequence or iterator of these, to any depth.
        on_error: "raise"; or "skip": log a warning for each input, page, folder or end of a video that can't be used,
            and go on; or a function that gets each such error, after which it goes on too. What can be used of a file
            comes in any case, up to the first fault or all of it.

    Close the iterator to stop before its end: a camera is released, a file closed then.

    A warning names the first image with `InputImage.levels`; a second one says how many there were in all.

    Raises (at the image concerned, but the ParameterError about ``on_error`` at once):
        InputNotFoundError: no such file or folder.
        InputError: not an image, damaged, too large, of a kind not accepted, or a folder without images.
        DownloadError: a URL can't be had.
        ParameterError: ``on_error`` is something else, or an environment variable makes no sense.
        MissingDependencyError: PDF files can't be read in this installation.
    """
    return _expand(source, on_fault(on_error))


def on_fault(on_error: OnError) -> Callable[[InputError | DownloadError], object]:
    """What is done with an input that can't be used. Raises ParameterError if ``on_error`` is none of `expand`'s."""
    known: dict[OnError, Callable[[InputError | DownloadError], object]] = {"raise": _raise, "skip": log_skipped}
    if callable(on_error):
        return on_error
    if on_error not in known:
        raise ParameterError(f"on_error is {on_error!r}: expected 'raise', 'skip' or a function")
    return known[on_error]


def _raise(error: InputError | DownloadError) -> NoReturn:
    raise error


def log_skipped(error: InputError | DownloadError) -> None:
    """Log what is done about an input that can't be used and is left out."""
    logger.warning("skipped: %s", error)


def count(source: Source) -> int | None:
    """How many images `expand` gives if all can be read; None where only reading would tell.

    That is so for iterators, TIFF files, cameras, streams, and URLs but those of images. Of PDF files and videos the
    head is read; the number for a video is what that tells. Nothing else is opened, and nothing is checked: what can't
    be used counts as one.
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
        counts = [count(part) for part in parts]
    except RecursionError:  # a list that holds itself
        return None
    known = [n for n in counts if n is not None]
    return sum(known) if len(known) == len(counts) else None


def left_out(inputs: Iterable[str]) -> Counter[str]:
    """How many images and videos `expand` leaves out of the folders among some inputs, by suffix."""
    counts: Counter[str] = Counter()
    for name in filter(os.path.isdir, inputs):
        counts += Folder.of(name).left_out
    return counts


def read_image(path: str | os.PathLike[str]) -> ByteArray:
    """The pixels of `read_input_image`. Raises what it raises."""
    return read_input_image(path).pixels


def read_input_image(path: str | os.PathLike[str]) -> InputImage:
    """The image at ``path`` as (H, W, 3) uint8 BGR: what OpenCV's colour flag gives, or an error.

    Alpha is dropped, 16 bits become the upper 8, grey becomes three equal channels, and the orientation is applied, see
    `maskline.inputs.orientation`. Of a TIFF file the first page that is an image.

    Raises:
        InputNotFoundError: no such file.
        InputError: a folder, another suffix than `SUFFIXES`, not an image, damaged or cut short, or over `MAX_PIXELS`.
    """
    name = os.fsdecode(path)
    check_suffix(name, "an image", SUFFIXES)
    found = next(decode(read_bytes(name, repr(name)), repr(name), name))
    if isinstance(found, InputImage):
        return found
    raise found


def _expand(source: Source, handle: Callable[[InputError | DownloadError], object]) -> Iterator[InputImage]:
    """`expand` without its check."""
    narrow = 0
    with closing(_read(source)) as reading:
        for found in reading:
            if isinstance(found, InputImage):
                if found.levels:
                    narrow += 1
                    _tell_levels(found, logging.WARNING if narrow == 1 else logging.INFO)
                yield found
            else:
                handle(found)
    if narrow > 1:
        logger.warning("%d images in all use less than an eighth of their range", narrow)


def _tell_levels(image: InputImage, level: int) -> None:
    name = "an image" if image.path is None else repr(image.path)
    page = f", page {image.page}" if image.page else ""
    logger.log(level, "%s%s: %s", name, page, image.levels)


def _read(source: Source, depth: int = 0) -> Generator[Found, None, None]:
    """What there is in ``source``, in order, faults included."""
    borrowed = isinstance(source, Iterator)  # which may fill one array again and again
    try:
        if depth > DEEPEST:
            raise InputTypeError(f"inputs in lists in lists, {depth} deep: does a list hold itself?")
        parts = _parts(source, tell=True)
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


def _parts(source: Source, *, tell: bool = False) -> Iterable[Source] | None:
    """What a compound source is made of, or None if it is a single one. Raises InputError.

    Args:
        tell: log what is left out of a folder.
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
        return _files_in(name, tell)
    if isinstance(source, _BYTES):
        return None
    if hasattr(source, "read"):
        raise InputTypeError(f"{source!r} is an open file: give its path, or its bytes as from read()")
    return source if isinstance(source, (Sequence, Iterator)) else None


def _files_in(path: str, tell: bool) -> Sequence[str | InputError]:
    """Errors for sub-folders that can't be listed, then the inputs. Raises InputError if there is neither."""
    folder = Folder.of(path)
    if not folder.files and folder.unlisted:
        return folder.unlisted
    told = not_predicted(folder.left_out) if folder.left_out else ""
    if not folder.files:
        expected = f"expected files with the suffix {', '.join(FOLDER_SUFFIXES)}"
        raise InputError(f"{path!r} holds no image: {expected}{'; ' if told else ''}{told}").because("without images")
    if told and tell:
        logger.warning("%r: %s (give a video by its own path, save an image as JPEG or PNG)", path, told)
    return [*folder.unlisted, *folder.files]


def _read_single(source: Source) -> Iterator[Found]:
    """The images of what is not made of parts. Raises InputError, DownloadError."""
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
    """The number of the camera that a number or text means; None if it means none. Raises InputError."""
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
    """The images of a file, by what it holds; ``suffix``, if any, says what it was meant to be."""
    head = read_head(file, name)
    kind = kind_of(head)
    if kind == "pdf":
        return read_pdf(Path(file), name, file)
    if kind == "video":
        return read_video(Path(file), name, file)
    if kind is None:
        told = why_unread(head)
        expected = _NO_KIND[kind_meant(suffix) if suffix else None]
        raise InputError(f"{name} is {told}" if told else f"{name}: {expected}").because("not supported")
    return decode(read_bytes(file, name), name, file)


def _read_content(data: bytes) -> Iterator[Found]:
    kind = kind_of(data[:HEAD])
    if kind == "pdf":
        return read_pdf(data, "the PDF file given as bytes", None)
    if kind == "video":
        raise InputError("a video given as bytes: save it to a file and give its path")
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
