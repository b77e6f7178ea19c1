"""Polygon, mask and run lengths stand for the same pixels, whichever way one goes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from maskline.data import shapes
from maskline.masks import Window, place_rle, rle_decode, rle_encode, rle_window

masks = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda size: arrays.arrays(np.uint8, size, elements=st.integers(0, 1))
)
points = st.tuples(st.floats(-60, 80, width=32), st.floats(-60, 80, width=32))
rings = st.lists(points, min_size=3, max_size=12).map(lambda p: np.asarray(p, np.float64))


@given(masks)
def test_a_mask_survives_the_way_to_polygons_or_run_lengths_and_back(mask: np.ndarray) -> None:
    window = Window.whole(mask.shape)
    segmentation = shapes.from_mask(mask, window, mask.shape)
    np.testing.assert_array_equal(rle_decode(shapes.to_rle(segmentation, mask.shape), mask.shape), mask)
    found = shapes.crop(segmentation, mask.shape)
    assert (found is None) == (not mask.any())


@given(masks, st.integers(0, 9), st.integers(0, 9))
def test_the_window_holds_the_mask_tightly(mask: np.ndarray, down: int, right: int) -> None:
    size = (mask.shape[0] + 11, mask.shape[1] + 11)
    placed = np.zeros(size, np.uint8)
    placed[down : down + mask.shape[0], right : right + mask.shape[1]] = mask
    found = rle_window(rle_encode(placed), size)
    if found is None:
        assert not mask.any()
        return
    crop, (top, bottom, left, end) = found
    assert all(edge.any() for edge in (crop[0], crop[-1], crop[:, 0], crop[:, -1])) and crop.flags.c_contiguous
    whole = np.zeros(size, np.uint8)
    whole[top:bottom, left:end] = crop
    np.testing.assert_array_equal(whole, placed)


@given(rings)
@example(np.asarray([[-50, -50], [70, -50], [70, 70], [-50, 70]], np.float64))
@settings(max_examples=300)
def test_cutting_at_the_border_changes_nothing_but_roundings(ring: np.ndarray) -> None:
    size = (16, 20)
    moved = coco.merge(coco.frPyObjects([(ring + 100).ravel().tolist()], 256, 256))  # so large that nothing is cut
    whole = rle_decode(moved["counts"], (256, 256))[100:116, 100:120]
    cut = rle_decode(shapes.to_rle((ring,), size), size)
    outline = shapely.LinearRing(ring)
    for y, x in np.argwhere(whole != cut):  # COCO rounds to a fifth of a pixel, and a cut edge is rounded again
        assert outline.distance(shapely.Point(x + 0.5, y + 0.5)) < 1


def test_a_polygon_far_outside_costs_nothing_and_gives_nothing() -> None:
    far = np.asarray([[1e12, 1e12], [2e12, 1e12], [1e12, 2e12]])
    assert shapes.to_rle((far,), (10, 10)) == place_rle(np.zeros((0, 0), np.uint8), Window(0, 0, 0, 0), (10, 10))
    around = np.asarray([[-1e15, -1e15], [1e15, -1e15], [1e15, 1e15], [-1e15, 1e15]])
    assert shapes.area((around,), (10, 10)) == 100


def test_a_rectangle_covers_what_its_corners_say() -> None:
    square = (np.asarray([[5.0, 5.0], [30, 5], [30, 30], [5, 30]]),)
    assert shapes.area(square, (40, 40)) == 625
    mask, window = shapes.crop(square, (40, 40)) or pytest.fail("empty")
    assert window == (5, 30, 5, 30) and mask.all()


def test_parts_are_joined_not_cut_from_each_other() -> None:
    a, b = np.asarray([[0.0, 0], [6, 0], [6, 6], [0, 6]]), np.asarray([[3.0, 3], [9, 3], [9, 9], [3, 9]])
    assert shapes.area((a, b), (12, 12)) == 36 + 36 - 9


def test_holes_go_to_run_lengths() -> None:
    mask = np.ones((7, 7), np.uint8)
    mask[2:4, 2:4] = 0
    assert isinstance(shapes.from_mask(mask, Window(0, 7, 0, 7), (7, 7)), str)
    assert not isinstance(shapes.from_mask(np.ones((3, 3), np.uint8), Window(2, 5, 2, 5), (7, 7)), str)


def test_agrees_with_filling_by_opencv_but_for_the_border() -> None:
    ring = np.asarray([[10.0, 10], [50, 14], [44, 52], [20, 40]])
    mine = rle_decode(shapes.to_rle((ring,), (64, 64)), (64, 64))
    other = cv2.fillPoly(np.zeros((64, 64), np.uint8), [ring.astype(np.int32)], 1)
    kernel = np.ones((3, 3), np.uint8)
    larger, smaller = (np.asarray(change(other, kernel), np.uint8) for change in (cv2.dilate, cv2.erode))
    assert not (mine & ~larger).any() and not (smaller & ~mine).any()
