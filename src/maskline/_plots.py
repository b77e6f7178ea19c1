"""matplotlib, which draws the charts. It is imported only here, and leaves no files in the user's home."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

DEFAULT_FONT = ""  # stands for matplotlib's own
_FOLDER = "MPLCONFIGDIR"  # names matplotlib's folder


def figure(width: float, height: float, layout: Literal["constrained", "tight"], folder: Path) -> Figure:
    """A new figure, unknown to pyplot.

    Args:
        width: in inches.
        height: in inches.
        layout: how matplotlib makes room for labels.
        folder: where the figure will be saved.

    Raises:
        OSError: matplotlib needs a folder that it can write to, and ``folder`` is not one either.
    """
    _load(folder)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def whole_numbers(axis: Axis) -> None:
    """Put ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def font(path: str, size: float | str) -> FontProperties:
    """The font of a file, of a size in points or by matplotlib's names for sizes."""
    from matplotlib.font_manager import FontProperties

    return FontProperties(fname=path, size=size)


@lru_cache(maxsize=64)
def characters(font: str) -> frozenset[int]:
    """Code points of the characters in a font file, or in `DEFAULT_FONT`; none if the file is missing or damaged."""
    from matplotlib.font_manager import FontProperties, findfont
    from matplotlib.ft2font import FT2Font

    path = findfont(FontProperties()) if font == DEFAULT_FONT else font
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()


def _load(folder: Path) -> None:
    """Import matplotlib, which scans the system's fonts meanwhile and comments on the folder it gets."""
    if "matplotlib" in sys.modules:
        return
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with _settings_folder(folder):
            import matplotlib.font_manager  # noqa: F401
    finally:
        logger.setLevel(level)


@contextmanager
def _settings_folder(folder: Path) -> Iterator[None]:
    """Give matplotlib a temporary folder for its settings and caches, unless the user has one for it."""
    if os.environ.get(_FOLDER) or any(os.access(own, os.W_OK) for own in _own_folders()):
        yield
        return
    with _temporary(folder) as temporary:
        os.environ[_FOLDER] = temporary
        try:
            yield
        finally:
            del os.environ[_FOLDER]


def _own_folders() -> Iterator[Path]:
    """Where matplotlib has its settings if the user works with it, by platform."""
    try:
        home = Path.home()
    except RuntimeError:  # a user without a name
        return
    yield Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config", "matplotlib")
    yield Path(os.environ.get("LOCALAPPDATA") or home, "matplotlib")
    yield home / ".matplotlib"


def _temporary(folder: Path) -> TemporaryDirectory[str]:
    """A temporary folder, in ``folder`` where the system has none."""
    try:
        return TemporaryDirectory(prefix="maskline-")
    except OSError:
        return TemporaryDirectory(prefix=".maskline-", dir=folder)
