"""Drawing of instances on their image: masks, outlines, boxes, labels.

A class has the same colour in every image. The cost depends on the instances rather than the image: an instance touches
only its own window, strip by strip, and a label is drawn separately and pasted.
"""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from maskline.errors import ParameterError
from maskline.instances import ByteArray, Instances, IntArray, Window

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

    Colour = tuple[int, int, int]

# fmt: off
#: RGB. A class has the colour at its index modulo 20.
PALETTE = tuple(
    (value >> 16, value >> 8 & 255, value & 255)
    for value in (
        0xFF0000, 0xCCFF00, 0x00FF66, 0x0066FF, 0xCC00FF, 0xFF4D00, 0x80FF00, 0x00FFB2, 0x001AFF, 0xFF00E5,
        0xFF9900, 0x33FF00, 0x00FFFF, 0x3300FF, 0xFF0099, 0xFFE500, 0x00FF1A, 0x00B2FF, 0x8000FF, 0xFF004D,
    )
)
# fmt: on
WHITE, DARK = (255, 255, 255), (0x14, 0x0E, 0x35)
WHITE_BELOW = 112  # luminance of the background, 0 to 255, below which text is white
SMALLEST_TEXT = 12  # pixels
SMALL = 4  # lines of text; boxes with shorter sides get smaller labels
MOST_HIDDEN = 0.15  # fraction of objects' boxes that a label may cover before another spot is tried
SMALLEST_OUTLINED = 12  # pixels of a window's shorter side; below, an outline would hide the mask
ROWS_AT_ONCE = 256  # bounds the memory per instance

BUNDLED = ""  # path that stands for Pillow's own font
#: Environment variables that name font files, preferred for the characters they have.
FONT_VARIABLES = ("MASKLINE_FONT", "PADDLE_PDX_LOCAL_FONT_FILE_PATH")
#: Tried in order for characters that the bundled font, which is ASCII, lacks. Those with Chinese come first.
SYSTEM_FONTS = (
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/google-noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/google-noto-sans-cjk-fonts/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",
    "/usr/share/fonts/wqy-microhei/wqy-microhei.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc",
    "/usr/share/fonts/truetype/droid/DroidSansFallbackFull.ttf",
    "/System/Library/Fonts/PingFang.ttc",
    "/System/Library/Fonts/Hiragino Sans GB.ttc",
    "/System/Library/Fonts/STHeiti Light.ttc",
    "/Library/Fonts/Arial Unicode.ttf",
    "/System/Library/Fonts/Supplemental/Arial Unicode.ttf",
    "C:/Windows/Fonts/msyh.ttc",
    "C:/Windows/Fonts/simhei.ttf",
    "C:/Windows/Fonts/arial.ttf",
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/dejavu-sans-fonts/DejaVuSans.ttf",
    "/usr/share/fonts/TTF/DejaVuSans.ttf",
)

logger = logging.getLogger("maskline")
_warned_of_fonts = False  # that none has all characters


def draw(
    image: ByteArray,
    instances: Instances,
    names: Sequence[str],
    *,
    alpha: float = 0.7,
    contour: bool = True,
    labels: bool = True,
    scores: bool = True,
) -> ByteArray:
    """Draw instances: masks, then boxes, then labels, the best score on top.

    Only labels extend beyond the windows of the instances. A label is placed above, inside, below or next to its box,
    where it hides little of this and other objects; a label that would cover that of a better instance is omitted.

    Args:
        image: (H, W, 3) uint8 **BGR**; not modified.
        instances: instances of this image.
        names: class names, indexed by the labels.
        alpha: opacity of the masks, in [0, 1].
        contour: also outline the masks, in white or dark, except the smallest.
        labels: draw class names.
        scores: draw scores after the names.

    Returns:
        (H, W, 3) uint8 **RGB**.

    Raises:
        ParameterError: image and instances differ in size, or alpha is not in [0, 1].
    """
    import cv2

    if image.shape != (*instances.size, 3):
        raise ParameterError(f"image has shape {image.shape}: expected {(*instances.size, 3)}, as its instances")
    if not 0 <= alpha <= 1:
        raise ParameterError(f"alpha is {alpha}: expected a number from 0 to 1")
    height, width = instances.size
    canvas = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
    line = max(1, int(max(width, height) * 0.002))
    worst_first = range(len(instances) - 1, -1, -1)
    for i in worst_first:
        colour = _colour(instances.labels[i])
        window = instances.window(i)
        _tint(canvas[window.slices], instances.masks[i], colour, alpha)
        if contour and min(window.size) >= SMALLEST_OUTLINED:
            _outline(canvas[window.slices], instances.masks[i], _ink(colour), max(1, line // 2))
    for i in worst_first:
        _frame(canvas[instances.window(i).slices], _colour(instances.labels[i]), line)
    if labels:
        _write_labels(canvas, instances, names, scores)
    return canvas


def text_size(width: int, height: int) -> int:
    """Text height in pixels: proportional to the width, but legible, and not too large for panoramas."""
    return max(SMALLEST_TEXT, min(int(0.018 * width) + 2, height // 12))


def _colour(label: int) -> Colour:
    return PALETTE[int(label) % len(PALETTE)]


def _ink(colour: Colour) -> Colour:
    """Text colour that is legible on a background colour."""
    red, green, blue = colour
    return WHITE if 0.299 * red + 0.587 * green + 0.114 * blue < WHITE_BELOW else DARK


def _tint(window: ByteArray, mask: ByteArray, colour: Colour, alpha: float) -> None:
    """Blend a colour into the mask's pixels, in place."""
    import cv2

    table = _blend_table(colour, alpha)
    for row in range(0, len(mask), ROWS_AT_ONCE):
        part = window[row : row + ROWS_AT_ONCE]
        cv2.copyTo(cv2.LUT(part, table), mask[row : row + ROWS_AT_ONCE], part)


@lru_cache(maxsize=64)
def _blend_table(colour: Colour, alpha: float) -> ByteArray:
    """(1, 256, 3) uint8: blended value for each value of each channel, rounded half to even."""
    old = np.arange(256)[:, None]
    blended = (1 - alpha) * old + alpha * np.asarray(colour)
    return cast("ByteArray", np.rint(blended.round(9)).astype(np.uint8)[None])


def _outline(window: ByteArray, mask: ByteArray, colour: Colour, thickness: int) -> None:
    """Draw the mask's contour in place, clipped to the window."""
    import cv2

    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(window, contours, -1, colour, thickness)


def _frame(window: ByteArray, colour: Colour, line: int) -> None:
    """Draw the window's border, inside it, in place."""
    window[:line] = window[-line:] = colour
    window[:, :line] = window[:, -line:] = colour


def _write_labels(canvas: ByteArray, instances: Instances, names: Sequence[str], scores: bool) -> None:
    """Draw labels where they cover no better instance's label and little of any object, in place.

    A label for which there is no such spot is omitted.
    """
    windows = np.array([instances.window(i) for i in range(len(instances))], np.int64).reshape(-1, 4)
    taken = np.zeros_like(windows)  # spots of the labels so far
    for i, label in enumerate(instances.labels.tolist()):
        window = instances.window(i)
        score = f"{instances.scores[i]:.2f}" if scores else ""
        made = _Label.of(names[label], label, score, _label_text_size(window, instances.size), instances.size[1])
        high, wide = min(made.height, instances.size[0]), made.width
        spot = _best_spot(_spots(window, (high, wide), instances.size), windows, taken[:i])
        if spot is not None:
            taken[i] = spot
            canvas[Window(*spot.tolist()).slices] = made.tile(_colour(label))[:high]


def _label_text_size(window: Window, size: tuple[int, int]) -> int:
    """Text height in pixels: `text_size` of the image, or half of that on small objects, but legible."""
    full = text_size(size[1], size[0])
    return full if max(window.size) >= SMALL * full else max(SMALLEST_TEXT, full // 2)


def _spots(window: Window, tile: tuple[int, int], size: tuple[int, int]) -> IntArray:
    """Candidate positions of a label in the image, (S, 4) ``top bottom left right``, best first.

    Above its box, inside, below or next to it, aligned with one of its corners.

    Args:
        window: of the instance.
        tile, size: ``(height, width)`` of the label and of the image, which the label fits.
    """
    (top, bottom, left, right), (high, wide), (height, width) = window, tile, size
    x, x_right = min(left, width - wide), min(max(right - wide, 0), width - wide)
    y = min(top, height - high)
    # fmt: off
    corners = [
        (top - high, x), (y, x), (top - high, x_right), (y, x_right),
        (bottom, x), (bottom, x_right), (y, right), (y, left - wide),
    ]
    # fmt: on
    fitting = [(v, v + high, h, h + wide) for v, h in corners if 0 <= v <= height - high and 0 <= h <= width - wide]
    return np.array(fitting, np.int64)


def _best_spot(spots: IntArray, windows: IntArray, taken: IntArray) -> IntArray | None:
    """The first free spot that hides little of all windows together, else the free spot that hides least."""
    spots = spots[~_shared(spots, taken).any(axis=1)]
    if not len(spots):
        return None
    top, bottom, left, right = windows.T
    area = (bottom - top) * (right - left)
    hidden = (_shared(spots, windows) / area).sum(axis=1)
    good = np.flatnonzero(hidden <= MOST_HIDDEN)
    return cast("IntArray", spots[good[0] if len(good) else hidden.argmin()])


def _shared(ours: IntArray, theirs: IntArray) -> IntArray:
    """Intersection areas (M, N), in pixels, of rectangles (M, 4) and (N, 4), ``top bottom left right``."""
    top, bottom, left, right = ours.T[..., None]
    other_top, other_bottom, other_left, other_right = theirs.T
    rows = np.minimum(bottom, other_bottom) - np.maximum(top, other_top)
    columns = np.minimum(right, other_right) - np.maximum(left, other_left)
    return cast("IntArray", rows.clip(0) * columns.clip(0))


class _Label(NamedTuple):
    """A label such as ``name 0.87``, not drawn yet."""

    text: str
    font: FreeTypeFont
    pad: int  # pixels left and right of the text; half of it above and below
    width: int
    height: int

    @classmethod
    def of(cls, name: str, label: int, score: str, size: int, room: int) -> _Label:
        """Lay out a label with text of ``size`` pixels, at most ``room`` pixels wide."""
        text, font = _text_and_font(" ".join(name.split()), label, size)
        pad = max(2, size // 6)
        text, length = _fitted(text, score, font, room - 2 * pad)
        return cls(text, font, pad, min(round(length) + 2 * pad, room), sum(font.getmetrics()) + pad)

    def tile(self, colour: Colour) -> ByteArray:
        """Draw the label, (height, width, 3) uint8 RGB, on the colour of its class."""
        from PIL import Image, ImageDraw

        tile = Image.new("RGB", (self.width, self.height), colour)
        pen = ImageDraw.Draw(tile)
        border = (0, 0, self.width - 1, self.height - 1)  # separates it from others of its class
        pen.rectangle(border, outline=_ink(colour))
        pen.text((self.pad, self.pad // 2), self.text, fill=_ink(colour), font=self.font)
        return np.asarray(tile)


def _fitted(name: str, score: str, font: FreeTypeFont, room: int) -> tuple[str, float]:
    """Join name and score; return the line and its length in pixels. Long names end in an ellipsis to fit ``room``."""
    text, kept = f"{name} {score}".strip(), len(name)
    while (length := font.getlength(text)) > room and kept:
        kept -= 1
        text = f"{name[:kept]}… {score}".rstrip()
    return text, length


def _text_and_font(text: str, label: int, size: int) -> tuple[str, FreeTypeFont]:
    """Text with a font for all its characters; failing that, without accents, or else the number of the class."""
    for candidate in (text, _without_accents(text)):
        for path in _font_paths():
            if all(_has_glyph(path, character) for character in candidate if not character.isspace()):
                return candidate, _usable_font(path, size)
    _warn_missing_font()
    return f"#{label}", _usable_font(BUNDLED, size)


def _without_accents(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def _font_paths() -> tuple[str, ...]:
    """In order of preference: fonts named by the user, Pillow's own, the system's."""
    named = (os.environ[name] for name in FONT_VARIABLES if os.environ.get(name))
    return (*named, BUNDLED, *SYSTEM_FONTS)


@lru_cache(maxsize=8192)
def _has_glyph(path: str, character: str) -> bool:
    """Whether a font is usable and has this character, rather than drawing its placeholder glyph."""
    font = _font(path, 20)
    return font is not None and _shape(font, character) != _shape(font, "\uffff")


def _shape(font: FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(cast("Any", mask))


def _usable_font(path: str, size: int) -> FreeTypeFont:
    return cast("FreeTypeFont", _font(path, size))


@lru_cache(maxsize=64)
def _font(path: str, size: int) -> FreeTypeFont | None:
    """Load a font of ``size`` pixels; None if the file is missing or damaged."""
    from PIL import ImageFont

    if path == BUNDLED:
        return cast("FreeTypeFont", ImageFont.load_default(size))
    if not Path(path).is_file():
        return None
    try:
        return ImageFont.truetype(path, size)
    except OSError as error:
        logger.warning("font %s can't be used: %s", path, error)
        return None


def _warn_missing_font() -> None:
    """Warn once per process."""
    global _warned_of_fonts
    if not _warned_of_fonts:
        _warned_of_fonts = True
        logger.warning(
            "no font has all characters of some class names: shown as #number; set MASKLINE_FONT to a font file"
        )
