"""Outlines: COCO's own rasteriser gives back every mask from them, pixel for pixel."""

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from maskline.masks import outlines, polygons, rle_decode

masks = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=25), elements=st.integers(0, 1))
PINCHED = "1011011 1100100 1101011 0100001 0011111 0000101 0110001"  # a part hangs by a corner within a hole


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools with NumPy 2
@settings(max_examples=300)
@given(mask=masks)
def test_coco_fills_an_outline_with_the_pixels_it_came_from(mask: np.ndarray) -> None:
    outside = np.pad(mask, 1)
    cv2.floodFill(outside, None, (0, 0), 2)
    filled = outside[1:-1, 1:-1] != 2
    rings = polygons(mask)
    if not rings:
        assert not mask.any()
        return
    np.testing.assert_array_equal(coco.decode(coco.merge(coco.frPyObjects(rings, *mask.shape))), filled)


def test_a_pixel_is_a_square() -> None:
    (ring,) = polygons(np.ones((1, 1), np.uint8), (3, 5))
    assert sorted(zip(ring[::2], ring[1::2], strict=True)) == [(3, 5), (3, 6), (4, 5), (4, 6)]


@settings(max_examples=300)
@given(mask=masks)
@example(mask=np.array([list(map(int, row)) for row in PINCHED.split()], np.uint8))
def test_inside_an_odd_number_of_outlines_is_foreground(mask: np.ndarray) -> None:
    height, width = mask.shape
    inside = np.zeros(mask.shape, np.uint8)
    for rings in outlines(mask):
        for ring in rings:
            inside ^= rle_decode(coco.merge(coco.frPyObjects([ring], height, width))["counts"], mask.shape)
    np.testing.assert_array_equal(inside, mask != 0)
