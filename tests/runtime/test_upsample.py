"""Upsampling a window gives the pixels that upsampling everything gives."""

from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskline.instances import Window
from maskline.runtime.upsample import positive_window, upsample_window


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
    window = Window(min(top, height - 1), min(bottom, height), min(left, width - 1), min(right, width))
    top, bottom, left, right = window
    whole = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
    ours = upsample_window(values, window, step)
    assert ours.dtype == np.uint8 and ours.shape == (bottom - top, right - left)
    clear = np.abs(whole) > 1e-5 * np.abs(values).max()  # where OpenCV's own rounding can't decide
    assert ((ours == (whole > 0)[top:bottom, left:right]) | ~clear[top:bottom, left:right]).all()
    # and to the last bit the same as our own whole
    np.testing.assert_array_equal(
        ours, upsample_window(values, Window.whole((height, width)), step)[top:bottom, left:right]
    )


@pytest.mark.parametrize("size", [(480, 640), (1080, 1920), (427, 640), (3000, 4000)])
def test_equal_to_opencv_to_the_pixel_at_real_sizes(size: tuple[int, int]) -> None:
    height, width = size
    values = grid_of(height, (160, 160), blur=6)
    whole = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR) > 0
    window = Window(height // 5, height // 2, width // 4, width // 2)
    ours = upsample_window(values, window, (160 / height, 160 / width))
    np.testing.assert_array_equal(ours, whole[window.slices])


def test_nothing_positive_and_all_positive() -> None:
    window = Window(0, 30, 0, 50)
    assert not upsample_window(np.full((8, 8), -1, np.float32), window, (8 / 30, 8 / 50)).any()
    assert upsample_window(np.full((8, 8), 1, np.float32), window, (8 / 30, 8 / 50)).all()
    assert positive_window(np.full((8, 8), -1, np.float32), (30, 50), (8 / 30, 8 / 50)) == (0, 0, 0, 0)


@given(seed=st.integers(0, 1000), shift=st.floats(-4, 1))
def test_positive_window_holds_every_positive_pixel(seed: int, shift: float) -> None:
    values = grid_of(seed, (20, 20), blur=2) + np.float32(shift)
    whole = upsample_window(values, Window(0, 90, 0, 70), (20 / 90, 20 / 70))
    top, bottom, left, right = positive_window(values, (90, 70), (20 / 90, 20 / 70))
    inside = whole[top:bottom, left:right].sum()
    assert inside == whole.sum()


def interpolated(
    grid: np.ndarray, size: tuple[int, int], step: tuple[float, float], origin: tuple[float, float]
) -> np.ndarray:
    """The grid at every pixel's centre, axis by axis and in float64."""

    def along(values: np.ndarray, pixels: int, step: float, origin: float) -> np.ndarray:
        place = (np.arange(pixels) + 0.5 - origin) * step - 0.5  # np.interp goes on with the border's values
        return np.stack([np.interp(place, np.arange(len(line)), line) for line in values.T], axis=1)

    rows = along(grid.astype(np.float64), size[0], step[0], origin[0])
    return along(rows.T, size[1], step[1], origin[1]).T


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 10_000),
    grid=st.tuples(st.integers(2, 30), st.integers(2, 30)),
    size=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    step=st.tuples(st.floats(0.02, 20), st.floats(0.02, 20)),
    origin=st.tuples(st.floats(-150, 150), st.floats(-150, 150)),
)
def test_a_grid_may_lie_anywhere(
    seed: int, grid: tuple[int, int], size: tuple[int, int], step: tuple[float, float], origin: tuple[float, float]
) -> None:
    values = grid_of(seed, grid, blur=1)
    exact = interpolated(values, size, step, origin)
    ours = upsample_window(values, Window.whole(size), step, origin)
    assert ((ours == (exact > 0)) | (np.abs(exact) < 1e-5 * np.abs(values).max())).all()
    # a window of it is the same, to the last bit
    top, left = size[0] // 3, size[1] // 2
    part = upsample_window(values, Window(top, size[0], left, size[1]), step, origin)
    np.testing.assert_array_equal(part, ours[top:, left:])


@given(seed=st.integers(0, 1000), shift=st.tuples(st.integers(-500, 500), st.integers(-500, 500)))
def test_moving_grid_and_window_together_changes_nothing(seed: int, shift: tuple[int, int]) -> None:
    values, step, (y, x) = grid_of(seed, (20, 20), blur=2), (20 / 90, 20 / 70), shift
    there = upsample_window(values, Window(y + 10, y + 80, x + 5, x + 60), step, (y, x))
    np.testing.assert_array_equal(there, upsample_window(values, Window(10, 80, 5, 60), step))


@pytest.mark.parametrize("step", [1e6, 1e20, 1e46])
@pytest.mark.parametrize("origin", [-3.0, 4.5 - 1e-5, 50.0])
def test_cells_far_smaller_than_pixels(step: float, origin: float) -> None:
    """Numbers larger than any integer do no harm (a warning would fail the test): border values go on."""
    values = np.full((4, 4), 1, np.float32)
    values[0], values[:, 0] = -1, -1
    inside = np.arange(9) + 0.5 > origin
    mask = upsample_window(values, Window(0, 9, 0, 9), (step, step), (origin, origin))
    np.testing.assert_array_equal(mask, inside[:, None] & inside)


def test_memory_follows_the_window_not_the_image() -> None:
    values, step = grid_of(0, (160, 160)), (160 / 3000, 160 / 4000)
    tracemalloc.start()
    upsample_window(values, Window(1000, 1200, 1000, 1300), step)  # 60,000 pixels of 12,000,000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 60_000
