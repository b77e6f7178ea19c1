"""Masks and their run lengths, held against pycocotools; polygons."""

from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from maskline.errors import ParameterError
from maskline.masks import Window, has_holes, place_rle, polygons, rle_decode, rle_encode


def oracle(mask: np.ndarray) -> str:
    return coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()


masks = st.one_of(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 1)),
    hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), fill=st.booleans()),
)


@given(mask=masks)
def test_encode_and_decode_as_pycocotools_do(mask: np.ndarray) -> None:
    counts = rle_encode(mask)
    assert counts == oracle(mask)
    decoded = rle_decode(counts, mask.shape)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, mask)
    np.testing.assert_array_equal(rle_decode(counts.encode(), mask.shape), mask)


@pytest.mark.parametrize(
    ("shape", "counts"),
    [((24, 31), "0Xg0"), ((50, 50), "0T^2"), ((20, 20), "0`<"), ((10, 20), "0X6"), ((4, 3), "0<"), ((4, 0), "0")],
)
def test_vectors_of_full_masks(shape: tuple[int, int], counts: str) -> None:
    assert rle_encode(np.ones(shape, np.uint8)) == counts
    np.testing.assert_array_equal(rle_decode(counts, shape), np.ones(shape, np.uint8))


def test_vector_with_background() -> None:
    mask = np.zeros((3, 4), np.uint8)
    mask[1, 1:3] = 1
    assert rle_encode(mask) == "41202"


@pytest.mark.parametrize("kind", ["noise", "blob", "rows", "columns"])
def test_large_masks(kind: str) -> None:
    mask = np.zeros((1100, 900), np.uint8)
    if kind == "noise":
        mask[:] = np.random.default_rng(0).random(mask.shape) > 0.5
    elif kind == "blob":
        cv2.circle(mask, (400, 500), 350, 1, -1)
    else:
        mask[slice(None, None, 2) if kind == "rows" else slice(None)][:, :: 2 if kind == "columns" else 1] = 1
    assert rle_encode(mask) == oracle(mask)
    np.testing.assert_array_equal(rle_decode(oracle(mask), mask.shape), mask)


def test_encode_takes_views() -> None:
    base = np.random.default_rng(1).integers(0, 2, (30, 40), np.uint8)
    for view in (base[::2, ::3], base.T, base[::-1], base.astype(bool)[3:, :7]):
        assert rle_encode(view) == oracle(view)


@settings(max_examples=200)
@given(mask=masks, around=st.tuples(*[st.integers(0, 9)] * 4))
def test_a_placed_crop_is_the_whole_image(mask: np.ndarray, around: tuple[int, int, int, int]) -> None:
    above, below, before, after = around
    height, width = mask.shape
    full = np.pad(mask, ((above, below), (before, after)))
    window = Window(above, above + height, before, before + width)
    assert place_rle(mask, window, full.shape) == oracle(full)


def test_placing_does_not_build_the_image() -> None:
    mask = np.ones((100, 100), np.uint8)
    tracemalloc.start()
    place_rle(mask, Window(1000, 1100, 2000, 2100), (6000, 8000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000  # the image has 48,000,000 pixels


@pytest.mark.parametrize(
    "window", [Window(0, 2, 0, 2), Window(0, 3, 0, 3), Window(-1, 2, 0, 3), Window(8, 11, 0, 3), Window(0, 3, 8, 11)]
)
def test_a_crop_must_fill_a_window_inside_the_image(window: Window) -> None:
    mask = np.ones((3, 3), np.uint8)
    if window == (0, 3, 0, 3):
        assert place_rle(mask, window, (3, 3)) == "09"
    else:
        with pytest.raises(ParameterError):
            place_rle(mask, window, (10, 10))


@pytest.mark.parametrize(
    "counts", ["", "~", "0P", "00", "5555", "02O", "é", b"\xff0", "o" * 30 + "0", "0é", "41202 ", "\n"]
)
def test_malformed_counts(counts: str | bytes) -> None:
    with pytest.raises(ParameterError):
        rle_decode(counts, (2, 2))


@given(counts=st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12))
def test_any_text_decodes_or_is_refused(counts: str) -> None:
    try:
        mask = rle_decode(counts, (5, 7))
    except ParameterError:
        return
    assert mask.shape == (5, 7) and set(np.unique(mask)) <= {0, 1}


def test_parts_and_holes() -> None:
    mask = np.zeros((20, 40), np.uint8)
    mask[2:12, 3:15] = 1
    mask[5:8, 6:9] = 0
    mask[4:18, 25:35] = 1
    rings = polygons(mask)
    assert len(rings) == 2  # two parts; the hole is lost
    assert has_holes(mask) and not has_holes(mask[:, 20:]) and not has_holes(np.zeros((0, 0), np.uint8))
    assert polygons(np.zeros((5, 5), np.uint8)) == []
    coco.frPyObjects(rings, 20, 40)  # COCO takes them
