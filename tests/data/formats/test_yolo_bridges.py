"""Bridges between parts of a mask: YOLO has one polygon for an instance."""

import numpy as np
from fixtures.yolo import turned
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maskline.data.formats.yolo.bridges import apart, boundary, bridged
from maskline.data.shapes import to_rle
from maskline.masks import Window, place_rle, rle_encode

MASKS = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.integers(0, 1))


# ---- bridges


@settings(max_examples=300, deadline=None)
@given(mask=MASKS.filter(np.any), top=st.integers(0, 3), left=st.integers(0, 3))
def test_any_mask_is_one_polygon_and_comes_apart_again(mask: np.ndarray, top: int, left: int) -> None:
    height, width = mask.shape
    size, window = (height + 5, width + 4), Window(top, top + height, left, left + width)
    whole = place_rle(mask, window, size)
    rings = boundary(mask, window)
    ring = bridged(rings)
    assert to_rle((ring,), size) == whole
    shape = apart(ring, size)
    assert to_rle(shape, size) == whole
    if not isinstance(shape, str):  # no holes: the rings themselves, whatever vertex they begin with
        assert sorted(map(turned, shape)) == sorted(map(turned, rings))


def test_bridges_are_short() -> None:
    mask = np.zeros((10, 100), np.uint8)
    for left in (60, 20, 0, 40, 80):
        mask[2:8, left : left + 18] = 1
    ring = bridged(boundary(mask, Window(0, 10, 0, 100)))
    steps = np.abs(np.diff(ring, axis=0)).sum(axis=1)
    assert sorted(steps[steps < 6].tolist()) == [2] * 8  # each gap of 2 there and back, though parts lie 20 apart


def test_a_spike_is_not_a_bridge_to_anything() -> None:
    ring = np.asarray([(0, 0), (4, 0), (4, 4), (9, 9), (4, 4), (0, 4)], np.float64)
    np.testing.assert_array_equal(apart(ring, (10, 10)), [[(0, 0), (4, 0), (4, 4), (0, 4)]])


def test_thousands_of_parts_in_reasonable_time() -> None:
    mask = np.zeros((200, 200), np.uint8)
    mask[::3, ::3] = 1
    ring = bridged(boundary(mask, Window(0, 200, 0, 200)))
    assert to_rle(apart(ring, (200, 200)), (200, 200)) == rle_encode(mask)
