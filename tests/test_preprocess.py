"""From an image to a network's input and back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from maskline.errors import ModelError
from maskline.preprocess import Preprocess, pad_to

RCNN = Preprocess(800, 1333, keep_ratio=True, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), pad_stride=32)


def image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_stretched_to_the_input_and_turned_to_rgb() -> None:
    bgr = image(60, 80)
    pixels, frame = Preprocess(640, 640).apply(bgr)
    expected = cv2.resize(bgr[..., ::-1].copy(), (640, 640), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(pixels, expected)
    assert frame.size == (60, 80) and frame.resized == (640, 640) and frame.scale == (60 / 640, 80 / 640)


@pytest.mark.parametrize(
    ("size", "resized", "padded"),
    [
        ((60, 80), (800, 1067), (800, 1088)),
        ((100, 60), (1333, 800), (1344, 800)),
        ((480, 640), (800, 1067), (800, 1088)),
    ],
)
def test_ratio_kept_and_padded(size: tuple[int, int], resized: tuple[int, int], padded: tuple[int, int]) -> None:
    """The figures PaddleX gives for these sizes."""
    pixels, frame = RCNN.apply(image(*size))
    assert frame.resized == resized and pixels.shape[:2] == padded
    assert not pixels[resized[0] :].any() and not pixels[:, resized[1] :].any()


def test_float_resize_normalises_first() -> None:
    import dataclasses

    bgr = image(60, 80)
    solo = dataclasses.replace(RCNN, float_resize=True, interpolation="linear")
    pixels, _ = solo.apply(bgr)
    assert pixels.dtype == np.float32
    normal = (bgr[..., ::-1] / 255 - np.array(solo.mean)) / np.array(solo.std)
    expected = cv2.resize(normal.astype(np.float32), (1067, 800), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(pixels[:800, :1067], expected, atol=1e-4)


def test_extreme_shapes_keep_at_least_a_pixel() -> None:
    pixels, frame = RCNN.apply(image(2, 4000))
    assert frame.resized == (1, 1333) and pixels.shape == (32, 1344, 3)


def test_record_round_trip() -> None:
    assert Preprocess.from_dict(RCNN.to_dict()) == RCNN
    with pytest.raises(ModelError, match="expected the keys"):
        Preprocess.from_dict({"height": 3})


def test_pad_to_leaves_a_fitting_image_alone() -> None:
    pixels = image(8, 8)
    assert pad_to(pixels, 8, 8) is pixels
