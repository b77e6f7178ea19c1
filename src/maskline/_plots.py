"""Charts with matplotlib, which is imported only here and leaves no files in the user's home."""

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

DEFAULT_FONT = ""  # matplotlib's own
_FOLDER = "MPLCONFIGDIR"  # environment variable for matplotlib's folder


def figure(width: float, height: float, layout: Literal["constrained", "tight"], folder: Path) -> Figure:
    """Create a figure without pyplot.

    Args:
        width: in inches.
        height: in inches.
        layout: matplotlib's layout engine.
        folder: where the figure will be saved.

    Raises:
        OSError: matplotlib needs a writable folder, and ``folder`` is not writable either.
    """
    _load(folder)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def whole_numbers(axis: Axis) -> None:
    """Put ticks at integers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def font(path: str, size: float | str) -> FontProperties:
    """Load a font file; ``size`` in points or as a matplotlib size name."""
    from matplotlib.font_manager import FontProperties

    return FontProperties(fname=path, size=size)


@lru_cache(maxsize=64)
def characters(font: str) -> frozenset[int]:
    """Code points covered by a font file or by `DEFAULT_FONT`; empty if the file is missing or damaged."""
    from matplotlib.font_manager import FontProperties, findfont
    from matplotlib.ft2font import FT2Font

    path = findfont(FontProperties()) if font == DEFAULT_FONT else font
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()


def _load(folder: Path) -> None:
    """Import matplotlib quietly: it scans the system's fonts and logs remarks about its folder."""
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
    """Give matplotlib a temporary folder for settings and caches, unless the user has one."""
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
    """Folders of matplotlib's settings by platform, present if the user works with it."""
    try:
        home = Path.home()
    except RuntimeError:  # a user without an entry in the password database
        return
    yield Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config", "matplotlib")
    yield Path(os.environ.get("LOCALAPPDATA") or home, "matplotlib")
    yield home / ".matplotlib"


def _temporary(folder: Path) -> TemporaryDirectory[str]:
    """A temporary folder, inside ``folder`` if the system provides none."""
    try:
        return TemporaryDirectory(prefix="maskline-")
    except OSError:
        return TemporaryDirectory(prefix=".maskline-", dir=folder)
