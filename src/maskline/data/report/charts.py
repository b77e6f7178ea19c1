"""Charts: the class histogram as an image, and the report's distributions as columns in percent."""

from __future__ import annotations

import itertools
import math
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from maskline import _plots
from maskline._files import replace_file
from maskline.data.stats import LARGE, MEDIUM, Statistics, by_frequency
from maskline.render import FONT_VARIABLES, SYSTEM_FONTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colours of splits, safe for red-green colour blindness. Other splits cycle through them.
SPLIT_COLOURS = {"train": "#3b76d6", "val": "#e8950c", "test": "#2a9d78", "all": "#3b76d6"}

HEIGHT, SMALLEST_WIDTH, CLASSES_PER_INCH, DPI = 5, 8, 5, 120  # inches; as in PaddleX
MOST_CLASSES = 1500  # in one image, 36,000 pixels wide
FEWEST_SLOTS = 5  # least number of class slots, so that the bars of one or two classes are not too wide
LONGEST_NAME = 24  # characters
MOST_EXACT = 12  # instances per image up to which each number has its own column


# ---- the image


def histogram(statistics: Mapping[str, Statistics], names: Sequence[str], path: Path) -> None:
    """Draw the instances per class as a PNG: a bar per split, classes by descending count in ``train``.

    Only the 1500 classes with the most instances are shown.

    Args:
        statistics: by split.
        names: class names, each once.
        path: the file; its folder is created if missing.

    Raises:
        OutputError: the file can't be written.
    """
    replace_file(path, partial(_draw, statistics, names))


def _draw(statistics: Mapping[str, Statistics], names: Sequence[str], path: Path) -> None:
    order = by_frequency(statistics, names)[:MOST_CLASSES]
    figure = _plots.figure(max(SMALLEST_WIDTH, len(order) / CLASSES_PER_INCH), HEIGHT, "tight", path.parent)
    axes = figure.subplots()
    _bars(axes, statistics, order)
    _name_classes(axes, order, {name: index for index, name in enumerate(names)})
    _dress(axes)
    figure.savefig(path, format="png", dpi=DPI)


def _bars(axes: Axes, statistics: Mapping[str, Statistics], order: Sequence[str]) -> None:
    wide = 0.8 / max(1, len(statistics))
    places = np.arange(len(order))
    for number, (split, numbers) in enumerate(statistics.items()):
        counts = numbers.by_name()
        heights = [counts.get(name, (0, 0))[0] for name in order]
        left = places - 0.4 + (number + 0.5) * wide
        axes.bar(left, heights, wide, label=split, color=split_colour(split, number))
    spare = max(0, FEWEST_SLOTS - len(order)) / 2
    axes.set_xlim(-0.6 - spare, len(order) - 0.4 + spare)


def split_colour(split: str, number: int) -> str:
    """The colour of a split, the ``number``-th of the data set, as ``#rrggbb``."""
    return SPLIT_COLOURS.get(split) or list(SPLIT_COLOURS.values())[number % 3]


def _dress(axes: Axes) -> None:
    axes.set_ylabel("Counts")
    _plots.whole_numbers(axes.yaxis)
    axes.set_ylim(0, max(1, axes.get_ylim()[1]))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.5, alpha=0.4)
    axes.set_axisbelow(True)
    if axes.containers:
        axes.legend(frameon=False)


def _name_classes(axes: Axes, order: Sequence[str], indices: Mapping[str, int]) -> None:
    texts, fonts = zip(*(_text_and_font(name, indices[name]) for name in order), strict=True) if order else ((), ())
    ticks = axes.set_xticks(range(len(order)), texts, rotation=90, parse_math=False)
    for tick, font in zip(ticks, fonts, strict=True):
        if font != _plots.DEFAULT_FONT:
            tick.label1.set_fontproperties(_plots.font(font, tick.label1.get_fontsize()))


def _text_and_font(name: str, index: int) -> tuple[str, str]:
    """A name on one short line and a font that has its characters; as in images, the label without such a font."""
    short = " ".join(name.split())
    if len(short) > LONGEST_NAME:
        short = f"{short[: LONGEST_NAME - 1]}…"
    plain = "".join(c for c in unicodedata.normalize("NFKD", short) if not unicodedata.combining(c))
    named = [os.environ[variable] for variable in FONT_VARIABLES if os.environ.get(variable)]
    for text in (short, plain):
        for font in (*named, _plots.DEFAULT_FONT, *SYSTEM_FONTS):
            if {ord(character) for character in text} <= _plots.characters(font):
                return text, font
    return f"#{index}", _plots.DEFAULT_FONT


# ---- columns of the report


@dataclass(frozen=True, slots=True)
class Column:
    """One bin of a distribution.

    Attributes:
        label: its range of values, in words.
        tick: the first value, or empty if it does not fit.
        counts: by split.
        shares: by split, in percent of the split's total.
    """

    label: str
    tick: str
    counts: dict[str, int]
    shares: dict[str, float]


@dataclass(frozen=True, slots=True)
class Columns:
    """A distribution by split.

    Attributes:
        columns: from left to right.
        top: upper end of the y axis, in percent.
        lines: grid lines, in percent.
        marks: names and positions, in percent of the width, of limits on the x axis.
        exact: whether each column is a single value, given by its tick; else the tick is the start of its range.
    """

    columns: tuple[Column, ...]
    top: float
    lines: tuple[float, ...]
    marks: tuple[tuple[str, float], ...] = ()
    exact: bool = False


def size_columns(statistics: Mapping[str, Statistics]) -> Columns | None:
    """Instances by the square root of their area, in half octaves of pixels; None without masks."""
    sides = {split: np.sqrt(numbers.areas[numbers.areas > 0]) for split, numbers in statistics.items()}
    everything = np.concatenate([*sides.values(), np.zeros(0)])
    if not len(everything):
        return None
    low = min(3, math.floor(math.log2(everything.min())))
    high = max(8, math.floor(math.log2(everything.max())) + 1)
    edges = 2 ** (np.arange(2 * low, 2 * high + 1) / 2)
    labels = [f"{_pixels(a)} to {_pixels(b)} px" for a, b in itertools.pairwise(edges)]
    ticks = [f"{round(edge)}" if place % 2 == 0 else "" for place, edge in enumerate(edges[:-1])]
    limits = (("medium", math.sqrt(MEDIUM)), ("large", math.sqrt(LARGE)))
    marks = tuple((name, 100 * (math.log2(limit) - low) / (high - low)) for name, limit in limits)
    counts = {split: np.histogram(values, edges)[0] for split, values in sides.items()}
    return _columns(labels, ticks, counts, marks)


def crowding_columns(statistics: Mapping[str, Statistics]) -> Columns | None:
    """Images by their number of instances: exact for small numbers, else in octaves; None without images."""
    most = max((int(numbers.per_image.max(initial=0)) for numbers in statistics.values()), default=0)
    if not any(numbers.images for numbers in statistics.values()):
        return None
    exact = most <= MOST_EXACT
    edges = list(range(most + 2)) if exact else [0, 1, 2, *(2**n + 1 for n in range(1, most.bit_length() + 1))]
    while len(edges) > 3 and edges[-2] > most:
        edges.pop()
    labels = [f"{a}" if b == a + 1 else f"{a} to {b - 1}" for a, b in itertools.pairwise(edges)]
    counts = {split: np.histogram(numbers.per_image, edges)[0] for split, numbers in statistics.items()}
    return _columns([f"{label} instances" for label in labels], [f"{edge}" for edge in edges[:-1]], counts, exact=exact)


def _columns(
    labels: Sequence[str],
    ticks: Sequence[str],
    counts: Mapping[str, npt.NDArray[np.integer]],
    marks: tuple[tuple[str, float], ...] = (),
    exact: bool = False,
) -> Columns:
    shares = {split: _percent(values) for split, values in counts.items()}
    columns = tuple(
        Column(
            labels[place],
            ticks[place],
            {split: int(values[place]) for split, values in counts.items()},
            {split: float(values[place]) for split, values in shares.items()},
        )
        for place in range(len(labels))
    )
    top, lines = _scale(max(float(values.max(initial=0)) for values in shares.values()))
    return Columns(columns, top, lines, marks, exact)


def _percent(counts: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    return np.asarray(100 * counts / max(1, int(counts.sum())), np.float64)


def _scale(highest: float) -> tuple[float, tuple[float, ...]]:
    """Upper end of a percent axis, and up to four round values for its grid lines."""
    step = next((step for step in (1, 2, 5, 10, 20) if step * 4 >= highest), 25)
    count = max(1, math.ceil(highest / step - 1e-6))
    return float(step * count), tuple(float(step * number) for number in range(1, count + 1))


def _pixels(length: float) -> str:
    return f"{length:.0f}" if length >= 10 else f"{length:.1f}".removesuffix(".0")
