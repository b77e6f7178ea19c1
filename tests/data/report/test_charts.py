"""The class histogram and the distributions: right numbers, and an image whatever the classes are called."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("matplotlib")
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.figure import Figure

from maskline.data.report import charts
from maskline.data.report.charts import crowding_columns, histogram, size_columns
from maskline.data.stats import Statistics
from maskline.errors import OutputError


def numbers(
    split: str, names: Sequence[str], labels: Sequence[int] = (), areas: Sequence[int] = (), per_image: Any = (0,)
) -> Statistics:
    return Statistics(
        split=split,
        images=len(per_image),
        background=0,
        crowds=0,
        names=tuple(names),
        class_images=np.zeros(len(names), np.int64),
        labels=np.asarray(labels, np.int64),
        areas=np.asarray(areas or [1] * len(labels), np.int64),
        per_image=np.asarray(per_image, np.int64),
        image_sizes={},
        run_lengths=0,
        several_parts=0,
    )


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """The figures that were saved."""
    seen: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        seen.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    yield seen


@pytest.mark.parametrize("count", [0, 1, 2, 40, 80, 300])
def test_size_of_the_image(tmp_path: Path, count: int) -> None:
    names = [f"class {number}" for number in range(count)]
    histogram({"train": numbers("train", names, range(count))}, names, tmp_path / "new" / "histogram.png")
    with Image.open(tmp_path / "new" / "histogram.png") as image:
        assert image.format == "PNG"
        assert image.size == (max(8, count / 5) * 120, 5 * 120)


def test_bars_by_train_count(tmp_path: Path, figures: list[Figure]) -> None:
    names = ["rare", "absent", "common", "only in val"]
    train = numbers("train", names, [2, 2, 2, 0])
    val = numbers("val", names, [3, 3, 0])
    histogram({"train": train, "val": val}, names, tmp_path / "h.png")
    (axes,) = figures[0].axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["common", "rare", "only in val", "absent"]
    heights = [[bar.get_height() for bar in container] for container in axes.containers]
    assert heights == [[3, 1, 0, 0], [0, 1, 2, 0]]
    legend = axes.get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["train", "val"]
    assert axes.get_ylabel() == "Counts"
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {90}


def test_splits_may_list_other_classes(tmp_path: Path, figures: list[Figure]) -> None:
    """Which PaddleX could not do."""
    splits = {"train": numbers("train", ["a", "b"], [0, 1, 1]), "val": numbers("val", ["b", "c", "d"], [0, 1])}
    histogram(splits, ["a", "b", "c", "d"], tmp_path / "h.png")
    heights = [[bar.get_height() for bar in container] for container in figures[0].axes[0].containers]
    assert heights == [[2, 1, 0, 0], [1, 0, 1, 0]]


@pytest.mark.parametrize(
    "names",
    [
        ["$\\frac{1}{2}$", "a_b^2", "$", "{x}"],
        ["W" * 500],
        ["猫", "狗"],
        ["\ud800", "\x00", "a\nb", "\u202e", "🐈", " "],
    ],
)
def test_any_name(tmp_path: Path, names: list[str]) -> None:
    """Warnings, as of missing glyphs, are errors in tests."""
    histogram({"train": numbers("train", names, range(len(names)))}, names, tmp_path / "h.png")
    assert (tmp_path / "h.png").stat().st_size > 1000


def test_names_are_not_formulas(tmp_path: Path, figures: list[Figure]) -> None:
    histogram({}, ["$x$", "long " * 20], tmp_path / "h.png")
    first, second = (label.get_text() for label in figures[0].axes[0].get_xticklabels())
    assert first == "$x$"
    assert second.endswith("…")
    assert len(second) <= charts.LONGEST_NAME
    assert not any(label.get_parse_math() for label in figures[0].axes[0].get_xticklabels())


def test_a_font_that_has_the_characters(tmp_path: Path, figures: list[Figure], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "SYSTEM_FONTS", (str(tmp_path / "absent.ttf"), str(_damaged(tmp_path))))
    monkeypatch.delenv("MASKLINE_FONT", raising=False)
    histogram({}, ["dog", "\ue732", "Äpfel"], tmp_path / "h.png")
    monkeypatch.setenv("MASKLINE_FONT", str(_font(tmp_path / "own.ttf", "\ue732")))
    histogram({}, ["dog", "\ue732", "Äpfel"], tmp_path / "h.png")
    without, with_font = (figure.axes[0].get_xticklabels() for figure in figures)
    assert [label.get_text() for label in without] == ["dog", "#1", "Äpfel"]
    assert [label.get_text() for label in with_font] == ["dog", "\ue732", "Äpfel"]
    assert [label.get_fontproperties().get_file() for label in with_font] == [None, str(tmp_path / "own.ttf"), None]
    assert {label.get_fontsize() for label in with_font} == {10}


def _damaged(folder: Path) -> Path:
    (folder / "damaged.ttf").write_bytes(b"no font")
    return folder / "damaged.ttf"


def _font(path: Path, character: str) -> Path:
    """A font of one character, a square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 700), (700, 700), (700, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "own"])
    builder.setupCharacterMap({ord(character): "own"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "own": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (500, 0), "own": (750, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Own", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


def test_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OutputError, match=r"h\.png can't be written"):
        histogram({}, ["a"], tmp_path / "file" / "h.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_too_many_classes_for_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: Any) -> None:
    monkeypatch.setattr(charts, "MOST_CLASSES", 50)
    names = [f"{number}" for number in range(90)]
    histogram({"train": numbers("train", names, [89, 89, 5])}, names, tmp_path / "h.png")
    labels = [label.get_text() for label in figures[0].axes[0].get_xticklabels()]
    assert len(labels) == 50
    assert labels[:3] == ["89", "5", "0"]


def test_nothing_global(tmp_path: Path) -> None:
    """matplotlib is imported only when it is needed, and pyplot never."""
    code = (
        "import sys; from pathlib import Path; from maskline.data.report import charts; "
        "assert 'matplotlib' not in sys.modules; "
        f"charts.histogram({{}}, ['a'], Path({str(tmp_path / 'h.png')!r})); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


DRAW = """
import logging, os, sys, tempfile
from pathlib import Path
from maskline.data.report import charts
tempfile.tempdir = sys.argv[2] if len(sys.argv) > 2 else None
logging.getLogger("matplotlib").setLevel(logging.INFO)
charts.histogram({}, ["a"], Path(sys.argv[1]))
import matplotlib
print(os.environ.get("MPLCONFIGDIR"), logging.getLogger("matplotlib").level, matplotlib.rcParams["lines.linewidth"])
"""


def drawn(*arguments: object, **environment: str) -> list[str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("MPLCONFIGDIR", "XDG_CONFIG_HOME")}
    command = [sys.executable, "-c", DRAW, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=kept | environment)
    assert done.stderr == ""
    return done.stdout.split()


def test_matplotlib_needs_no_home_and_no_temporary_folder(tmp_path: Path) -> None:
    """Only the folder that the histogram goes to has to be one that can be written to."""
    (tmp_path / "home").write_text("")
    assert drawn(tmp_path / "out" / "h.png", "/nowhere", HOME=str(tmp_path / "home")) == ["None", "20", "1.5"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["h.png"]


def test_matplotlib_leaves_nothing_in_the_home(tmp_path: Path) -> None:
    for name in ("home", "temporary"):
        (tmp_path / name).mkdir()
    drawn(tmp_path / "h.png", tmp_path / "temporary", HOME=str(tmp_path / "home"))
    assert not list((tmp_path / "home").iterdir()) and not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize("named", [False, True])
def test_the_folder_that_a_user_has_for_matplotlib_is_used(tmp_path: Path, named: bool) -> None:
    own = tmp_path / ".config" / "matplotlib"
    own.mkdir(parents=True)
    (own / "matplotlibrc").write_text("lines.linewidth: 7\n")
    environment = {"HOME": "/nowhere", "MPLCONFIGDIR": str(own)} if named else {"HOME": str(tmp_path)}
    assert drawn(tmp_path / "h.png", **environment) == [str(own) if named else "None", "20", "7.0"]


# ---- distributions


def test_sizes_are_binned_at_their_limits() -> None:
    found = size_columns({"train": numbers("train", ["a"], [0] * 4, [31**2, 32**2, 33**2, 128**2])})
    assert found is not None
    by_tick = {column.tick: column for column in found.columns if column.tick}
    assert by_tick["32"].counts == {"train": 2}
    assert by_tick["128"].shares == {"train": 25}
    medium = dict(found.marks)["medium"]
    assert medium == pytest.approx(100 * found.columns.index(by_tick["32"]) / len(found.columns))
    assert found.columns[0].label == "8 to 11 px"


def test_no_sizes_without_masks() -> None:
    assert size_columns({}) is None
    assert size_columns({"train": numbers("train", ["a"], [0], [0])}) is None
    assert crowding_columns({}) is None
    assert crowding_columns({"train": numbers("train", ["a"], per_image=())}) is None


def test_crowding_one_by_one_or_in_octaves() -> None:
    few = crowding_columns({"train": numbers("train", ["a"], per_image=[0, 3, 3])})
    many = crowding_columns({"train": numbers("train", ["a"], per_image=[0, 3, 4, 16, 17, 64])})
    assert few is not None
    assert many is not None
    assert few.exact
    assert [column.counts["train"] for column in few.columns] == [1, 0, 0, 2]
    assert [column.tick for column in many.columns] == ["0", "1", "2", "3", "5", "9", "17", "33"]
    assert [column.counts["train"] for column in many.columns] == [1, 0, 0, 2, 0, 1, 1, 1]
    assert many.columns[-1].label == "33 to 64 instances"


@given(
    st.lists(st.integers(0, 10**7), max_size=20),
    st.lists(st.integers(0, 10**4), max_size=20),
    st.lists(st.integers(0, 900), max_size=20),
)
def test_every_value_is_in_one_column(areas: list[int], others: list[int], per_image: list[int]) -> None:
    splits = {
        "train": numbers("train", ["a"], [0] * len(areas), areas, per_image),
        "val": numbers("val", ["a"], [0] * len(others), others, [1]),
    }
    sizes, crowding = size_columns(splits), crowding_columns(splits)
    for found, counts in ((sizes, [sum(n > 0 for n in areas), sum(n > 0 for n in others)]), (crowding, None)):
        for split, expected in zip(splits, counts or [len(per_image), 1], strict=True):
            columns = () if found is None else found.columns
            assert sum(column.counts[split] for column in columns) == expected
            assert sum(column.shares[split] for column in columns) == pytest.approx(100 if expected else 0)
        if found is not None:
            highest = max(max(column.shares.values()) for column in found.columns)
            assert highest <= found.top + 1e-6
            assert found.lines[-1] == found.top
            assert len(found.lines) <= 5
            assert all(0 <= place <= 100 for _, place in found.marks)
