"""PNG files in which a pixel's value says what it belongs to: read as numbers, taken apart into masks, written."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskline._files import replace_file
from maskline.data.formats.pngs import Numbers, masks_of, read_png
from maskline.errors import InputError

VOID, VOID_16 = 255, 65535  # in files of 8 and 16 bits
MOST = 65_535  # instances in one image; more are a photo, not a map


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    """What a file holds.

    Attributes:
        values: (H, W); of RGB files `colour_numbers`.
        void: the value of pixels that belong to nothing and should not count.
        coloured: it was an RGB file.
    """

    values: Numbers
    void: int
    coloured: bool


def read_map(path: Path) -> Map:
    """Read a file: indices of a palette, grey of up to 16 bits, or RGB (alpha is dropped).

    Raises:
        InputError: no whole PNG file, of another kind, or of more than `MAX_PIXELS`.
    """
    mode, values = read_png(path)
    if mode in ("RGB", "RGBA"):
        return Map(colour_numbers(values), VOID, True)
    if mode in ("1", "L", "P", "LA", "PA"):
        return Map((values if values.ndim == 2 else values[..., 0]).astype(np.int32), VOID, False)
    if mode.startswith("I"):
        return Map(values.astype(np.int32), VOID_16, False)
    raise InputError(f"pixels of the kind {mode}: expected a palette, grey, or RGB")


_SPREAD = np.asarray([sum((value >> (7 - bit) & 1) << 3 * bit for bit in range(8)) for value in range(256)], np.int32)


def colour_numbers(colours: npt.NDArray[np.integer[Any]]) -> Numbers:
    """The number that VOC's palette would have for each colour: one to one, over all 24 bits.

    Args:
        colours: (..., 3) or more channels, 0 to 255, red first.
    """
    bits: Numbers = _SPREAD[colours[..., :3]] << np.arange(3, dtype=np.int32)
    numbers: Numbers = np.bitwise_or.reduce(bits, axis=-1)
    return numbers


def palette() -> npt.NDArray[np.uint8]:
    """VOC's colours: (256, 3). The bits of a value go to red, green and blue in turn, the lowest to the highest."""
    values, colours = np.arange(256), np.zeros((256, 3), np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= ((values >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return colours


def save_map(values: npt.NDArray[np.uint8] | npt.NDArray[np.uint16], path: Path) -> None:
    """Write (H, W) as a PNG file: 8 bits with VOC's palette, 16 in grey. Raises OutputError."""
    image = Image.fromarray(values)
    if values.dtype == np.uint8:
        image.putpalette(palette().tobytes())
    replace_file(path, lambda temporary: image.save(temporary, format="PNG"))


def instances(objects: Map, classes: Map, ignored: Collection[int]) -> Iterator[tuple[int, str, int | None]]:
    """Take a map of instances apart, in time that goes with its pixels, however many instances there are.

    Args:
        classes: of the same size.
        ignored: values of it that stand for no class.

    Returns:
        In the order of their values: value, mask as compressed run lengths, and the most frequent value among its
        pixels in ``classes`` (of several the lowest; None if all are ignored).

    Raises:
        InputError: more than `MOST` values.
    """
    kept = (objects.values != 0) & (objects.values != objects.void)
    numbers, owners = np.unique(objects.values[kept], return_inverse=True)
    if len(numbers) > MOST:
        raise InputError(f"{len(numbers)} values: expected one for each instance (is it a photo?)")
    found = _most_frequent(owners, classes.values[kept], ignored)
    for place, (number, rle) in enumerate(masks_of(objects.values, kept)):
        yield number, rle, found.get(place)


def _most_frequent(owners: npt.NDArray[np.intp], values: Numbers, ignored: Collection[int]) -> dict[int, int]:
    """The value that each owner has most often, but for those ignored; of several the lowest."""
    counted = ~np.isin(values, np.asarray([*ignored], np.int32))
    kinds, kind = np.unique(values[counted], return_inverse=True)
    pairs, counts = np.unique(owners[counted] * max(len(kinds), 1) + kind, return_counts=True)
    owner, kind = np.divmod(pairs, max(len(kinds), 1))
    order = np.lexsort((-kind, counts, owner))  # the last of each owner is its most frequent
    return dict(zip(owner[order].tolist(), kinds[kind[order]].tolist(), strict=True))
