"""Read PNG files of masks, and of instance or segment ids."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskline.errors import InputError
from maskline.inputs import MAX_PIXELS
from maskline.inputs.input_image import DAMAGE
from maskline.masks import runs_rle

Numbers: TypeAlias = npt.NDArray[np.int32]


def read_png(source: Path | io.BytesIO, *, alpha: bool = False) -> tuple[str, npt.NDArray[Any]]:
    """Pillow's mode of a PNG file, and its pixels: (H, W) or (H, W, channels).

    Args:
        alpha: convert palette images with transparent colors to RGBA.

    Raises:
        InputError: not a complete PNG file, or one of more than `MAX_PIXELS`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about sizes below our own limit, and odd EXIF
            with Image.open(source, formats=("PNG",)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise InputError(f"{image.width} x {image.height} pixels: expected at most {MAX_PIXELS}")
                shown = image.convert("RGBA") if alpha and "transparency" in image.info else image
                return shown.mode, np.asarray(shown)
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(f"no readable PNG file ({' '.join(str(error).split())})") from None


def mask_of(data: bytes) -> npt.NDArray[np.bool_]:
    """Mask of a PNG, (H, W) bool: pixels that are not transparent, or without alpha those that are not 0.

    Raises:
        InputError: as `read_png`.
    """
    mode, values = read_png(io.BytesIO(data), alpha=True)
    if mode.endswith("A"):
        return np.asarray(values[..., -1] != 0)
    return np.asarray(values != 0 if values.ndim == 2 else values.any(axis=2))


def masks_of(values: Numbers, kept: npt.NDArray[np.bool_]) -> Iterator[tuple[int, str]]:
    """The mask of each value in a map, in time linear in its pixels, whatever the number of values.

    Args:
        values: (H, W).
        kept: (H, W); other pixels are ignored.

    Returns:
        In ascending order: the value, and its mask as compressed RLE.
    """
    down = values.T.ravel()  # column by column, as in RLE
    pixels = np.flatnonzero(kept.T.ravel())
    pixels = pixels[np.argsort(down[pixels], kind="stable")]
    numbers, starts = np.unique(down[pixels], return_index=True)
    for number, part in zip(numbers.tolist(), np.split(pixels, starts[1:]), strict=False):
        yield number, _rle(part, down.size)


def _rle(pixels: npt.NDArray[np.intp], total: int) -> str:
    """Compressed RLE from sorted pixel indices in column order, in an image of ``total`` pixels."""
    gaps = np.flatnonzero(np.diff(pixels) > 1)
    edges = np.stack([pixels[np.append(0, gaps + 1)], pixels[np.append(gaps, -1)] + 1], axis=1).ravel()
    runs = np.diff(edges, prepend=0, append=total)
    return runs_rle(runs if runs[-1] else runs[:-1])
