"""From a graph's outputs to instances in the image."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskline.instances import pixel_window
from maskline.preprocess import Frame
from maskline.runtime.graph import Raw
from maskline.runtime.mask_layout import MaskLayout
from maskline.runtime.postprocess import to_instances

FRAME = Frame((90, 200), (64, 64))
SIZE = (64, 64)
FROM_MASKS = MaskLayout(boxes_from_masks=True, beyond_boxes=False)


def raw_of(boxes: Sequence[Sequence[float]], scores: Sequence[float], masks: np.ndarray) -> Raw:
    """Boxes in pixels of the 64x64 input."""
    labels = np.arange(len(boxes)) % 3
    return Raw(np.array(boxes, np.float32), np.array(scores, np.float32), labels, masks.astype(np.float32))


def blobs(n: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((n, 16, 16)).astype(np.float32)
    return np.stack([cv2.GaussianBlur(m, (0, 0), 2) * 10 for m in noise])


def thresholds(value: float) -> np.ndarray:
    return np.full(3, value, np.float32)


def test_boxes_masks_and_labels_stay_together() -> None:
    """B03."""
    boxes = [[0, 0, 32, 32], [10, 10, 10, 20], [16, 8, 200, 60], [-20, -20, -5, -5], [32, 32, 64, 64]]
    raw = raw_of(boxes, [0.9, 0.8, 0.7, 0.65, 0.6], blobs(5))
    found = to_instances(raw, FRAME, SIZE, thresholds(0.5))
    # the second is empty and the fourth outside: both go, with their masks
    assert found.labels.tolist() == [0, 2, 1]
    np.testing.assert_allclose(found.boxes[1], [50, 11.25, 200, 84.375])
    for i, row in enumerate((0, 2, 4)):
        whole = cv2.resize(raw.masks[row], (200, 90), interpolation=cv2.INTER_LINEAR) > 0
        top, bottom, left, right = pixel_window(found.boxes[i], found.size)
        np.testing.assert_array_equal(found.masks[i], whole[top:bottom, left:right])
        np.testing.assert_array_equal(found.full_mask(i)[top:bottom, left:right], found.masks[i])
        assert found.full_mask(i).sum() == found.masks[i].sum()
    assert found.full_masks().shape == (3, 90, 200)


def test_a_score_must_be_above_the_threshold_of_its_class() -> None:
    boxes = [[0, 0, 32, 32]] * 3
    raw = raw_of(boxes, [0.9, 0.5, 0.4], blobs(3))
    assert to_instances(raw, FRAME, SIZE, thresholds(0.5)).labels.tolist() == [0]
    assert to_instances(raw, FRAME, SIZE, np.array([0.95, 0.3, 0.3], np.float32)).labels.tolist() == [1, 2]


def test_rows_without_an_object_are_never_kept() -> None:
    raw = raw_of([[0, 0, 32, 32]] * 2, [0.3, 0.0], blobs(2))
    assert len(to_instances(raw, FRAME, SIZE, thresholds(0.0))) == 1


def test_memory_is_that_of_the_masks_kept() -> None:
    """B67: of 100 masks at full HD, three over the threshold and over a hundredth of the image."""
    boxes = [[10, 10, 16, 16]] * 100
    raw = raw_of(boxes, [0.9] * 3 + [0.1] * 97, np.repeat(blobs(1), 100, axis=0))
    tracemalloc.start()
    found = to_instances(raw, Frame((1080, 1920), (64, 64)), SIZE, thresholds(0.5))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 3 and peak < 2 << 20  # all masks as int32: 829 MB


def test_nothing_found() -> None:
    found = to_instances(raw_of([[0, 0, 32, 32]], [0.3], blobs(1)), FRAME, SIZE, thresholds(0.9))
    assert len(found) == 0 and found.masks == () and found.boxes.shape == (0, 4)
    assert found.full_masks().shape == (0, 90, 200)
    grown = to_instances(raw_of([[0, 0, 32, 32]], [0.3], blobs(1)), FRAME, SIZE, thresholds(0.9), grow_boxes=True)
    assert grown.boxes.shape == (0, 4)


def test_broken_numbers_are_dropped_not_spread() -> None:
    raw = raw_of([[np.nan, 0, 32, 32], [0, 0, 32, 32]], [0.9, 0.8], blobs(2))
    assert to_instances(raw, FRAME, SIZE, thresholds(0.5)).labels.tolist() == [1]


def test_what_lies_outside_the_box_is_reported_and_can_be_kept() -> None:
    mask = np.full((1, 16, 16), -5.0)
    mask[0, 2:14, 2:14] = 5
    raw = raw_of([[8, 8, 32, 56]], [0.9], mask)  # the left half of the mask, 6 of 12 columns
    cut = to_instances(raw, FRAME, SIZE, thresholds(0.5))
    assert cut.outside[0] == pytest.approx(0.5)
    grown = to_instances(raw, FRAME, SIZE, thresholds(0.5), grow_boxes=True)
    whole = cv2.resize(raw.masks[0], (200, 90), interpolation=cv2.INTER_LINEAR) > 0
    assert grown.outside[0] == 0
    np.testing.assert_array_equal(grown.full_mask(0), whole)
    assert grown.masks[0][:, -1].any()  # no further than the mask


def test_a_mask_without_foreground_leaves_its_box_as_it_is() -> None:
    raw = raw_of([[8, 8, 32, 56]], [0.9], np.full((1, 16, 16), -1.0))
    (cut, grown) = (to_instances(raw, FRAME, SIZE, thresholds(0.5), grow_boxes=grow) for grow in (False, True))
    np.testing.assert_array_equal(grown.boxes, cut.boxes)
    assert len(grown) == 1 and not grown.full_mask(0).any()


def test_padding_is_not_part_of_the_image() -> None:
    """An image scaled to 48x64 in the corner of a 64x64 input."""
    frame = Frame((96, 128), (48, 64))
    raw = raw_of([[8, 8, 60, 44]], [0.9], blobs(1))
    found = to_instances(raw, frame, SIZE, thresholds(0.5))
    whole = cv2.resize(raw.masks[0], (128, 128), interpolation=cv2.INTER_LINEAR)[:96] > 0
    top, bottom, left, right = found.window(0)
    np.testing.assert_array_equal(found.masks[0], whole[top:bottom, left:right])


@pytest.mark.parametrize(
    ("box", "window"),
    [
        ([10.4, 20.5, 30.5, 41.5], (20, 42, 10, 30)),  # halves to even
        ([10.1, 20.1, 10.3, 30], (20, 30, 10, 11)),  # too thin: one column
        ([99.8, 49.9, 100, 50], (49, 50, 99, 100)),  # in the corner: still inside
        ([0, 0, 100, 50], (0, 50, 0, 100)),
    ],
)
def test_pixel_window(box: list[float], window: tuple[int, ...]) -> None:
    assert pixel_window(box, (50, 100)) == window


def test_masks_that_mean_something_in_their_boxes_only() -> None:
    """What is beyond the box is not a loss, and boxes don't grow to it; the pixels inside are the same."""
    mask = np.full((1, 16, 16), 5.0)
    raw = raw_of([[8, 8, 32, 56]], [0.9], mask)
    cut = to_instances(raw, FRAME, SIZE, thresholds(0.5))
    for grow in (False, True):
        found = to_instances(
            raw, FRAME, SIZE, thresholds(0.5), grow_boxes=grow, mask_layout=MaskLayout(beyond_boxes=False)
        )
        assert found.outside.tolist() == [0.0] and cut.outside[0] > 0.5
        np.testing.assert_array_equal(found.boxes, cut.boxes)
        np.testing.assert_array_equal(found.masks[0], cut.masks[0])


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 1000),
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    box=st.tuples(*[st.floats(-10, 74, width=32)] * 4),
    kept=st.sampled_from([(64, 64), (48, 64), (64, 40)]),
)
def test_masks_that_are_enlarged_twice(
    seed: int, size: tuple[int, int], box: tuple[float, ...], kept: tuple[int, int]
) -> None:
    """The pixels of PaddleDetection's way over whole images: to the input, cut at the box, to the image."""
    (x1, x2), (y1, y2) = sorted(box[::2]), sorted(box[1::2])
    raw, frame = raw_of([[x1, y1, x2, y2]], [0.9], blobs(1, seed) * 0.1), Frame(size, kept)
    found = to_instances(raw, frame, SIZE, thresholds(0.5), mask_layout=MaskLayout(beyond_boxes=False, via_input=True))
    if not len(found):
        return
    first = cv2.resize(raw.masks[0], (64, 64), interpolation=cv2.INTER_LINEAR)
    at = np.arange(64)
    inside = ((at >= y1) & (at < y2))[:, None] & (at >= x1) & (at < x2)
    second = bilinear(np.where(inside, first, -0.5), frame)
    top, bottom, left, right = found.window(0)
    clear = np.abs(second[top:bottom, left:right]) > 1e-5  # where rounding can't decide
    np.testing.assert_array_equal(found.masks[0][clear], (second > 0)[top:bottom, left:right][clear])
    assert found.outside.tolist() == [0.0]


def bilinear(values: np.ndarray, frame: Frame) -> np.ndarray:
    """An input's values at the centres of the image's pixels, in float64; beyond the border the border's go on."""
    for axis in (0, 1):
        place = (np.arange(frame.size[axis]) + 0.5) / frame.scale[axis] - 0.5
        columns = np.moveaxis(values, axis, 0).T.astype(np.float64)
        lines = np.stack([np.interp(place, np.arange(values.shape[axis]), line) for line in columns], axis=1)
        values = np.moveaxis(lines, 0, axis)
    return values


@pytest.mark.parametrize("grow", [False, True])
def test_boxes_that_are_their_masks_own(grow: bool) -> None:
    """Cut to the pixels of the mask; one that has none goes, with its box."""
    masks = blobs(3)
    masks[1] = -1
    raw = raw_of([[0, 0, 64, 64]] * 3, [0.9, 0.8, 0.7], masks)
    found = to_instances(raw, FRAME, SIZE, thresholds(0.5), mask_layout=FROM_MASKS, grow_boxes=grow)
    assert found.labels.tolist() == [0, 2] and found.outside.tolist() == [0, 0]
    for i, row in enumerate((0, 2)):
        whole = cv2.resize(masks[row], (200, 90), interpolation=cv2.INTER_LINEAR) > 0
        np.testing.assert_array_equal(found.full_mask(i), whole)
        assert found.window(i) == pixel_window(found.boxes[i], found.size)
        mask = found.masks[i]
        assert mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any()


@pytest.mark.parametrize("grow", [False, True])
@pytest.mark.parametrize(
    "layout",
    [
        MaskLayout(),
        MaskLayout(beyond_boxes=False),
        MaskLayout(beyond_boxes=False, via_input=True),
        MaskLayout(over="box", beyond_boxes=False),
    ],
)
def test_boxes_may_come_from_masks_of_any_layout(layout: MaskLayout, grow: bool) -> None:
    """The same pixels as with predicted boxes, in boxes that are theirs."""
    raw = raw_of([[8, 8, 32, 56], [20, 4, 60, 40], [0, 0, 9, 9]], [0.9, 0.8, 0.7], blobs(3))
    raw.masks[2] = -1
    predicted = to_instances(raw, FRAME, SIZE, thresholds(0.5), grow_boxes=grow, mask_layout=layout)
    own = replace(layout, boxes_from_masks=True)
    found = to_instances(raw, FRAME, SIZE, thresholds(0.5), grow_boxes=grow, mask_layout=own)
    assert found.labels.tolist() == [0, 1] and predicted.labels.tolist()[:2] == [0, 1]
    np.testing.assert_array_equal(found.outside, predicted.outside[:2])
    for i in range(2):
        np.testing.assert_array_equal(found.full_mask(i), predicted.full_mask(i))
        mask = found.masks[i]
        assert mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any()


def test_no_box_at_all_may_be_a_masks_own() -> None:
    raw = raw_of([[0, 0, 64, 64]] * 2, [0.9, 0.8], np.full((2, 16, 16), -1.0))
    found = to_instances(raw, FRAME, SIZE, thresholds(0.5), mask_layout=FROM_MASKS)
    assert len(found) == 0 and found.boxes.shape == (0, 4)
