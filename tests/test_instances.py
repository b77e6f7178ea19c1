"""Instances: what they refuse, how some of them are taken, and the forms of their masks; windows."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fixtures.narrow import f32
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from maskline.errors import ParameterError
from maskline.instances import Instances, Window, pixel_window, pixel_windows
from maskline.masks import rle_decode

SIZE = (12, 16)
BOXES = [(1.0, 2.0, 5.0, 6.0), (0.0, 0.0, 16.0, 12.0), (10.2, 3.4, 15.9, 3.5), (15.4, 11.4, 16.0, 12.0)]
PLAIN = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools with NumPy 2


def make(boxes: Any = BOXES, size: tuple[int, int] = SIZE, seed: int = 0) -> Instances:
    """Random masks, with holes and at borders."""
    rng, n = np.random.default_rng(seed), len(boxes)
    array = np.asarray(boxes, np.float32).reshape(-1, 4)
    return Instances(
        array,
        np.linspace(0.9, 0.5, n, dtype=np.float32),
        np.arange(n, dtype=np.int64),
        tuple(rng.integers(0, 2, window.size, np.uint8) for window in pixel_windows(array, size)),
        np.linspace(0, 0.3, n, dtype=np.float32),
        size,
    )


def assert_same(found: Instances, expected: Instances, places: list[int]) -> None:
    """``found`` is made of these places of another."""
    assert isinstance(found, Instances) and len(found) == len(places) and found.size == expected.size
    for name in ("boxes", "scores", "labels", "outside"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name)[places])
        assert getattr(found, name).dtype == getattr(expected, name).dtype
    assert all(mask is expected.masks[place] for mask, place in zip(found.masks, places, strict=True))
    assert [found.window(i) for i in range(len(found))] == [expected.window(place) for place in places]


# Checks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": np.zeros((3, 4), np.float32)}, r"boxes is float32 of shape \(3, 4\): .*\(4, 4\) for 4 masks"),
        ({"boxes": np.asarray(BOXES, np.float64)}, "boxes is float64 .* expected float32"),
        ({"scores": np.ones(3, np.float32)}, r"scores is float32 of shape \(3,\): expected float32 of \(4,\)"),
        ({"scores": np.ones((4, 1), np.float32)}, r"scores is float32 of shape \(4, 1\)"),
        ({"scores": np.ones(4)}, "scores is float64"),
        ({"labels": np.zeros(5, np.int64)}, r"labels is int64 of shape \(5,\)"),
        ({"labels": np.zeros(4, np.int32)}, "labels is int32 .* expected int64"),
        ({"outside": np.zeros(0, np.float32)}, r"outside is float32 of shape \(0,\)"),
        ({"outside": np.zeros(4, np.float16)}, "outside is float16"),
        ({"masks": make().masks[:3]}, r"boxes is .*expected float32 of \(3, 4\) for 3 masks"),
        ({"masks": (*make().masks[:3], np.zeros((2, 2), np.uint8))}, r"mask 3 .*\(2, 2\): expected uint8 of \(1, 1\)"),
        ({"masks": (*make().masks[:3], np.zeros((1, 1), np.bool_))}, "mask 3 is bool"),
        ({"masks": (*make().masks[:3], np.zeros((1, 1, 1), np.uint8))}, "mask 3 is uint8 of shape"),
        ({"size": (12, 15)}, r"box 1 is \[0.0, 0.0, 16.0, 12.0\]: .*12 x 15"),
        ({"size": (0, 16)}, r"size is \(0, 16\)"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message) as caught:
        replace(make(), **change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "box",
    [
        (5, 2, 5, 6), (5, 2, 4, 6), (1, 6, 5, 6), (1, 7, 5, 6), (-0.1, 2, 5, 6), (1, -1, 5, 6), (1, 2, 16.1, 6),
        (1, 2, 5, 12.1), (np.nan, 2, 5, 6), (1, 2, np.inf, 6),
    ],
)  # fmt: skip
def test_a_box_is_ordered_and_inside_the_image(box: tuple[float, ...]) -> None:
    boxes = make().boxes.copy()
    boxes[2] = box
    with pytest.raises(ParameterError, match="box 2 is"):
        replace(make(), boxes=boxes)


@pytest.mark.parametrize("method", ["window", "rle", "polygons", "outlines", "full_mask", "__getitem__"])
def test_an_index_out_of_range_is_named(method: str) -> None:
    with pytest.raises(IndexError, match="index 100 is out of bounds for axis 0 with size 4"):
        getattr(make(), method)(100)


def test_a_mask_fills_the_window_of_its_box() -> None:
    found = make()
    for i, mask in enumerate(found.masks):
        assert found.window(i) == pixel_window(found.boxes[i], SIZE) and found.window(i).size == mask.shape
    assert [found.window(i) for i in range(4)] == [(2, 6, 1, 5), (0, 12, 0, 16), (3, 4, 10, 16), (11, 12, 15, 16)]


def test_nothing_is_fine_too() -> None:
    found = make([])
    assert len(found) == 0 and list(found) == [] and found.full_masks().shape == (0, *SIZE)
    assert_same(found[[]], found, [])


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.floats(-30, 60, width=32)] * 4), max_size=6), st.tuples(*[st.integers(1, 40)] * 2))
def test_windows_of_boxes_are_never_empty_and_inside(boxes: list[tuple[float, ...]], size: tuple[int, int]) -> None:
    """All at once as one by one, in plain Python's arithmetic."""
    height, width = size
    windows = pixel_windows(f32(boxes), size)
    assert len(windows) == len(boxes) and all(type(side) is int for window in windows for side in window)
    for window, box in zip(windows, f32(boxes).tolist(), strict=True):
        x1, y1, x2, y2 = map(round, box)
        top, left = min(max(y1, 0), height - 1), min(max(x1, 0), width - 1)
        assert window == (top, min(max(y2, top + 1), height), left, min(max(x2, left + 1), width))
        assert window == pixel_window(box, size)


# Some of them


@pytest.mark.parametrize(
    ("index", "places"),
    [
        (0, [0]), (3, [3]), (-1, [3]), (np.int64(2), [2]),
        (slice(None), [0, 1, 2, 3]), (slice(1, 3), [1, 2]), (slice(None, None, -1), [3, 2, 1, 0]), (slice(9, 12), []),
        ([2, 0], [2, 0]), ([], []), (np.array([1, 1, -1]), [1, 1, 3]), (np.zeros(0, np.int64), []),
        ([True, False, True, False], [0, 2]), (np.array([False] * 4), []), (np.array([True] * 4), [0, 1, 2, 3]),
    ],
)  # fmt: skip
def test_some_are_instances_again(index: Any, places: list[int]) -> None:
    """An int gives one, as supervision's Detections have it."""
    found = make()
    assert_same(found[index], found, places)


def test_a_filter_by_score_and_class() -> None:
    found = make()
    assert_same(found[(found.scores > 0.6) & (found.labels != 0)], found, [1, 2])


@pytest.mark.parametrize(
    "index",
    [
        4, -5, [0, 4], [True, False], np.ones(5, np.bool_), 1.0, "scores", np.array([0.5]), None, [[0, 1]],
        np.ones((4, 4), np.bool_), True,
    ],
)  # fmt: skip
def test_what_selects_nothing_sensible_is_an_index_error(index: Any) -> None:
    with pytest.raises(IndexError):
        make()[index]


def test_iteration_gives_one_at_a_time() -> None:
    found = make()
    ones = list(found)
    assert len(ones) == 4
    for i, one in enumerate(ones):
        assert_same(one, found, [i])


@settings(deadline=None)
@given(st.data())
def test_taking_twice_is_taking_once(data: st.DataObject) -> None:
    found = make()
    first = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=6))
    second = data.draw(st.lists(st.integers(0, len(first) - 1), max_size=6))
    assert_same(found[first][second], found, [first[place] for place in second])


def test_they_survive_pickling_and_are_equal_to_themselves_only() -> None:
    found = make()
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.full_masks(), found.full_masks())
    assert again.window(2) == found.window(2) and isinstance(again.window(2), Window)
    assert found == found and found != again


# Forms of their masks


@st.composite
def placed(draw: st.DrawFn) -> Instances:
    """One mask anywhere in an image, often at its borders, perhaps empty."""
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    bottom, right = draw(st.integers(top + 1, height)), draw(st.integers(left + 1, width))
    mask = draw(arrays.arrays(np.uint8, (bottom - top, right - left), elements=st.integers(0, 1)))
    box, one = f32([[left, top, right, bottom]]), np.ones(1, np.float32)
    return Instances(box, one, np.zeros(1, np.int64), (mask,), one, (height, width))


@PLAIN
@settings(deadline=None, max_examples=300)
@given(placed())
def test_masks_are_cocos(found: Instances) -> None:
    """RLE, character for character; polygons, but for their holes, pixel for pixel."""
    full, (height, width) = found.full_mask(0), found.size
    top, bottom, left, right = found.window(0)
    assert full.shape == found.size and full.dtype == np.bool_ and full.sum() == found.masks[0].sum()
    np.testing.assert_array_equal(full[top:bottom, left:right], found.masks[0] != 0)
    np.testing.assert_array_equal(found.full_masks(), full[None])
    assert found.rle(0) == str(coco.encode(np.asfortranarray(full.view(np.uint8)))["counts"], "ascii")
    np.testing.assert_array_equal(rle_decode(found.rle(0), found.size), full)
    outer, holes = found.outlines(0)
    assert found.polygons(0) == outer and bool(outer) == full.any()
    drawn = np.zeros(found.size, np.int64)
    for ring in (*outer, *holes):
        drawn += coco.decode(coco.frPyObjects([ring], height, width))[..., 0]
    np.testing.assert_array_equal(drawn % 2 == 1, full)


def test_an_empty_mask_has_no_ring_and_one_run() -> None:
    found = replace(make([(2, 2, 5, 5)]), masks=(np.zeros((3, 3), np.uint8),))
    assert found.polygons(0) == [] and found.outlines(0) == ([], []) and not found.full_mask(0).any()
    assert not rle_decode(found.rle(0), SIZE).any() and found.rle(0) == make_empty_rle()


def make_empty_rle() -> str:
    """What pycocotools makes of a mask without pixels."""
    return str(coco.encode(np.zeros(SIZE, np.uint8, order="F"))["counts"], "ascii")


def test_the_last_may_be_counted_from_behind() -> None:
    found = make()
    assert found.rle(-1) == found.rle(3) and found.polygons(-1) == found.polygons(3)
    assert found.window(-1) == found.window(3)


# Windows


def test_a_window_in_its_parts() -> None:
    window = Window(top=2, bottom=6, left=1, right=4)
    assert (window.height, window.width) == window.size == (4, 3)
    assert window.origin == (1, 2) and window.box_xyxy == (1, 2, 4, 6)
    assert window.rows == (2, 6) and window.columns == (1, 4)
    top, bottom, left, right = window
    image = np.arange(12 * 16).reshape(12, 16)
    np.testing.assert_array_equal(image[window.slices], image[top:bottom, left:right])
    assert Window.whole((12, 16)) == (0, 12, 0, 16) and not window.is_empty
    assert Window(2, 2, 0, 5).is_empty and Window(0, 5, 4, 3).is_empty


windows = st.tuples(*[st.integers(-5, 12)] * 4).map(lambda w: Window(*w))


@given(windows, windows)
def test_an_intersection_holds_what_both_hold(a: Window, b: Window) -> None:
    def pixels(window: Window) -> set[tuple[int, int]]:
        return {(y, x) for y in range(window.top, window.bottom) for x in range(window.left, window.right)}

    shared = a.intersection(b)
    assert pixels(shared) == pixels(a) & pixels(b) and shared.is_empty == (not pixels(shared))
    moved = a.relative_to(b)
    assert pixels(moved) == {(y - b.top, x - b.left) for y, x in pixels(a)}
