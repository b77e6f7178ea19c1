"""Upsampling a window gives the pixels that upsampling everything gives."""

from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskline.upsample import positive_window, upsample_window


def grid_of(seed: int, shape: tuple[int, int] = (40, 40), blur: float = 3) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return np.ascontiguousarray(cv2.GaussianBlur(noise, (0, 0), blur) * 20)


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 10_000),
    grid=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    corners=st.tuples(*[st.floats(0, 1)] * 4),
    shift=st.floats(-3, 3),
)
def test_a_window_is_cut_from_the_whole(
    seed: int, grid: tuple[int, int], size: tuple[int, int], corners: tuple[float, ...], shift: float
) -> None:
    values = grid_of(seed, grid, blur=1) + np.float32(shift)
    height, width = size
    step = grid[0] / height, grid[1] / width
    top, bottom = sorted(round(c * height) for c in corners[:2])
    left, right = sorted(round(c * width) for c in corners[2:])
    bottom, right = max(bottom, top + 1), max(right, left + 1)
    window = (min(top, height - 1), min(bottom, height), min(left, width - 1), min(right, width))
    top, bottom, left, right = window
    whole = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
    ours = upsample_window(values, window, step)
    assert ours.dtype == np.uint8 and ours.shape == (bottom - top, right - left)
    clear = np.abs(whole) > 1e-5 * np.abs(values).max()  # where OpenCV's own rounding can't decide
    assert ((ours == (whole > 0)[top:bottom, left:right]) | ~clear[top:bottom, left:right]).all()
    # and to the last bit the same as our own whole
    np.testing.assert_array_equal(ours, upsample_window(values, (0, height, 0, width), step)[top:bottom, left:right])


@pytest.mark.parametrize("size", [(480, 640), (1080, 1920), (427, 640), (3000, 4000)])
def test_equal_to_opencv_to_the_pixel_at_real_sizes(size: tuple[int, int]) -> None:
    height, width = size
    values = grid_of(height, (160, 160), blur=6)
    whole = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR) > 0
    window = (height // 5, height // 2, width // 4, width // 2)
    ours = upsample_window(values, window, (160 / height, 160 / width))
    np.testing.assert_array_equal(ours, whole[window[0] : window[1], window[2] : window[3]])


def test_nothing_positive_and_all_positive() -> None:
    window = (0, 30, 0, 50)
    assert not upsample_window(np.full((8, 8), -1, np.float32), window, (8 / 30, 8 / 50)).any()
    assert upsample_window(np.full((8, 8), 1, np.float32), window, (8 / 30, 8 / 50)).all()
    assert positive_window(np.full((8, 8), -1, np.float32), (30, 50), (8 / 30, 8 / 50)) == (0, 0, 0, 0)


@given(seed=st.integers(0, 1000), shift=st.floats(-4, 1))
def test_positive_window_holds_every_positive_pixel(seed: int, shift: float) -> None:
    values = grid_of(seed, (20, 20), blur=2) + np.float32(shift)
    whole = upsample_window(values, (0, 90, 0, 70), (20 / 90, 20 / 70))
    top, bottom, left, right = positive_window(values, (90, 70), (20 / 90, 20 / 70))
    inside = whole[top:bottom, left:right].sum()
    assert inside == whole.sum()


def test_memory_follows_the_window_not_the_image() -> None:
    values, step = grid_of(0, (160, 160)), (160 / 3000, 160 / 4000)
    tracemalloc.start()
    upsample_window(values, (1000, 1200, 1000, 1300), step)  # 60,000 pixels of 12,000,000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 60_000
