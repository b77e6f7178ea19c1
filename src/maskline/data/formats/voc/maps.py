"""Read, separate and write label maps: PNG files in which a pixel's value is its instance or class."""

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

VOID, VOID_16 = 255, 65535  # in 8-bit and 16-bit files
MAX_INSTANCES = 65_535  # values in one image; with more it is a photo, not a map


@dataclass(frozen=True, slots=True, eq=False)
class LabelMap:
    """A label map.

    Attributes:
        values: (H, W); for RGB files `colour_numbers`.
        void: the value of pixels to ignore.
        coloured: the file was RGB.
    """

    values: Numbers
    void: int
    coloured: bool


def read_map(path: Path) -> LabelMap:
    """Read a file: indices of a palette, grey of up to 16 bits, or RGB (alpha is dropped).

    Raises:
        InputError: not a complete PNG file, an unsupported mode, or more than `MAX_PIXELS`.
    """
    mode, values = read_png(path)
    if mode in ("RGB", "RGBA"):
        return LabelMap(colour_numbers(values), VOID, True)
    if mode in ("1", "L", "P", "LA", "PA"):
        return LabelMap((values if values.ndim == 2 else values[..., 0]).astype(np.int32), VOID, False)
    if mode.startswith("I"):
        return LabelMap(values.astype(np.int32), VOID_16, False)
    raise InputError(f"pixels of the mode {mode}: expected a palette, grey, or RGB")


_SPREAD = np.asarray([sum((value >> (7 - bit) & 1) << 3 * bit for bit in range(8)) for value in range(256)], np.int32)


def colour_numbers(colours: npt.NDArray[np.integer[Any]]) -> Numbers:
    """The index of each colour in VOC's palette, extended to all 24-bit colours.

    Args:
        colours: (..., 3) or more channels, 0 to 255, red first.
    """
    bits: Numbers = _SPREAD[colours[..., :3]] << np.arange(3, dtype=np.int32)
    numbers: Numbers = np.bitwise_or.reduce(bits, axis=-1)
    return numbers


def palette() -> npt.NDArray[np.uint8]:
    """VOC's palette, (256, 3) RGB: bits of the index go to R, G and B in turn, the lowest to the most significant."""
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


def separate_instances(
    objects: LabelMap, classes: LabelMap, ignored: Collection[int]
) -> Iterator[tuple[int, str, int | None]]:
    """Separate the instances of a map, in time linear in its pixels, whatever the number of instances.

    Args:
        classes: map of the same size.
        ignored: values of ``classes`` that are not classes.

    Returns:
        In ascending order of values: value, mask as compressed RLE, and the most frequent value among its pixels in
        ``classes`` (the lowest of equally frequent ones; None if all are ignored).

    Raises:
        InputError: more than `MAX_INSTANCES` values.
    """
    kept = (objects.values != 0) & (objects.values != objects.void)
    numbers, owners = np.unique(objects.values[kept], return_inverse=True)
    if len(numbers) > MAX_INSTANCES:
        raise InputError(f"{len(numbers)} values: expected one for each instance (is it a photo?)")
    found = _most_frequent(owners, classes.values[kept], ignored)
    for place, (number, rle) in enumerate(masks_of(objects.values, kept)):
        yield number, rle, found.get(place)


def _most_frequent(owners: npt.NDArray[np.intp], values: Numbers, ignored: Collection[int]) -> dict[int, int]:
    """The most frequent value of each owner, without ignored ones; the lowest of equally frequent ones."""
    counted = ~np.isin(values, np.asarray([*ignored], np.int32))
    kinds, kind = np.unique(values[counted], return_inverse=True)
    pairs, counts = np.unique(owners[counted] * max(len(kinds), 1) + kind, return_counts=True)
    owner, kind = np.divmod(pairs, max(len(kinds), 1))
    order = np.lexsort((-kind, counts, owner))  # the last of each owner is its most frequent
    return dict(zip(owner[order].tolist(), kinds[kind[order]].tolist(), strict=True))
