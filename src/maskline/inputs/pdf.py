"""PDF pages, rendered one at a time by PDFium, which is not thread-safe: one lock guards all calls."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maskline.errors import InputError, MissingDependencyError, ParameterError
from maskline.inputs.input_image import MAX_PIXELS, Found, InputImage, fault
from maskline.instances import ByteArray

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument

SCALE = 2.0  # pixels per point (1/72 inch): 144 dpi
LEAST_SCALE = 0.1  # lower limit when a page is shrunk to fit into `MAX_PIXELS`
_SCALE_NAMES = ("MASKLINE_PDF_SCALE", "PADDLE_PDX_PDF_RENDER_SCALE")  # the first one set wins
_LEAST_SCALE_NAMES = ("MASKLINE_PDF_MIN_SCALE", "PADDLE_PDX_PDF_MIN_RENDER_SCALE")
_END = b"%%EOF"
_END_BYTES = 1024  # the end marker must be within the last ones of the file

_lock = threading.RLock()  # reentrant: the garbage collector may close documents at any time
logger = logging.getLogger("maskline")


def read_pdf(source: Path | bytes, name: str, path: str | None) -> Iterator[Found]:
    """Render the pages of a PDF file one at a time, with form fields; an error in place of each page that fails.

    Args:
        source: the file or its content.
        name: for messages.
        path: `InputImage.path` of the pages.

    Raises:
        ParameterError: an environment variable does not hold a valid scale.
        MissingDependencyError: pypdfium2 is not installed.
    """
    scale, least = _scale(_SCALE_NAMES, SCALE), _scale(_LEAST_SCALE_NAMES, LEAST_SCALE)
    try:
        with _opened(source) as document:
            if _END not in _last_bytes(source):  # PDFium reads what it can of such files
                logger.warning("%s has no end marker (%s): it may be cut short", name, _END.decode())
            with _lock:
                count = len(document)
            for number in range(count):
                yield _page(document, number, scale, least, name, path)
    except (InputError, OSError, ValueError) as error:  # removed meanwhile; a name that is not Unicode
        yield fault(name, error)


def count_pages(source: Path) -> int:
    """Number of pages of a PDF file; 1 if it can't be read."""
    try:
        with _opened(source) as document, _lock:
            return len(document)
    except (InputError, MissingDependencyError, OSError):
        return 1


def _last_bytes(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[-_END_BYTES:]
    with source.open("rb") as file:
        file.seek(max(source.stat().st_size - _END_BYTES, 0))
        return file.read()


@contextmanager
def _opened(source: Path | bytes) -> Iterator[PdfDocument]:
    try:
        from pypdfium2 import PdfDocument, PdfiumError
    except ImportError as error:
        raise MissingDependencyError("PDF files need pypdfium2: pip install pypdfium2") from error

    with _lock:
        try:
            document = PdfDocument(source)
            _with_forms(document)
        except PdfiumError as error:
            if "password" in str(error).lower():
                raise InputError("it is encrypted: save a copy without a password and use that").because(
                    "not supported"
                ) from error
            raise InputError("the PDF file is damaged, cut short or has no pages").because("damaged") from error
    try:
        yield document
    finally:
        with _lock:
            document.close()


def _with_forms(document: PdfDocument) -> None:
    try:
        document.init_forms()
    except BaseException:
        document.close()
        raise


def _scale(names: tuple[str, ...], default: float) -> float:
    """Scale from the first environment variable that is set, else the default. Raises ParameterError."""
    for name in names:
        if given := os.environ.get(name, "").strip():
            try:
                scale = float(given)
            except ValueError:
                scale = math.nan
            if not 0 < scale <= 100:
                raise ParameterError(
                    f"{name} is {given!r}: expected pixels per point, above 0 and at most 100 (2 is 144 dpi)"
                )
            return scale
    return default


def _page(document: PdfDocument, number: int, scale: float, least: float, name: str, path: str | None) -> Found:
    from pypdfium2 import PdfiumError

    try:
        with _lock:
            return InputImage(_render(document, number, scale, least), path, number)
    except (PdfiumError, InputError, ValueError, OSError) as error:
        reason = error if isinstance(error, InputError) else InputError(f"damaged ({error})").because("damaged")
        return fault(f"{name}, page {number}", reason)


def _render(document: PdfDocument, number: int, scale: float, least: float) -> ByteArray:
    """Render a page on white, (H, W, 3) BGR. Raises InputError, and what pypdfium2 raises."""
    page = document[number]
    try:
        width, height = page.get_size()
        fitting = _fitting_scale(width, height, scale, least)
        if fitting < scale:
            logger.info(
                "page %d is %g x %g points: rendered at scale %.3g, not %g", number, width, height, fitting, scale
            )
        bitmap = page.render(scale=fitting)
        try:
            return np.array(bitmap.to_numpy()[..., :3], np.uint8, order="C")
        finally:
            bitmap.close()
    finally:
        page.close()


def _fitting_scale(width: float, height: float, scale: float, least: float) -> float:
    """Largest scale up to ``scale`` at which a page, its size in points, has at most `MAX_PIXELS`.

    Raises:
        InputError: the page is empty, or the result would be below ``least``.
    """
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise InputError(f"{width:g} x {height:g} points: the page is empty").because("empty")
    while math.ceil(width * scale) * math.ceil(height * scale) > MAX_PIXELS:
        scale *= min(math.sqrt(MAX_PIXELS / (width * height)) / scale, 0.9999)  # 0.9999: rounding up may exceed it
        if scale < least:
            raise InputError(
                f"{width:g} x {height:g} points: over {MAX_PIXELS} pixels even at the minimum scale, {least:g}"
            )
    return scale
