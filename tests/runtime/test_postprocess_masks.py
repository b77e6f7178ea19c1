"""Masks that lie over their boxes: PaddleX's paste, but only where a mask can be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from fixtures.narrow import f32
from hypothesis import given, settings
from hypothesis import strategies as st

import maskline
from maskline import create_model
from maskline.inputs import read_image
from maskline.instances import Instances, pixel_window
from maskline.preprocess import Frame
from maskline.runtime.device import Device
from maskline.runtime.graph import Graph, Raw
from maskline.runtime.mask_layout import MaskLayout
from maskline.runtime.postprocess import to_instances

OVER_BOX = MaskLayout(over="box", beyond_boxes=False)
CELLS = 28
TIE = 1e-5  # nearer to 0.5 than this, float32 and float64 may decide differently
EXPECTED = Path(__file__).parents[3] / "shared" / "parity" / "expected"
PHOTO = Path(maskline.__file__).with_name("assets") / "fruit.jpg"


def probabilities(n: int, seed: int, shape: tuple[int, int] = (CELLS, CELLS)) -> np.ndarray:
    """(n, h, w) in [0, 1]: from smooth, over steep, to exactly 0 and 1."""
    rng = np.random.default_rng(seed)
    logits = [cv2.GaussianBlur(rng.standard_normal(shape), (0, 0), rng.uniform(0.3, 4)) for _ in range(n)]
    gain = 10 ** rng.uniform(0.5, 3, (n, 1, 1))
    return np.asarray(1 / (1 + np.exp(-np.clip((np.stack(logits) + 0.1) * gain, -80, 80))), np.float32)


def ringed(values: np.ndarray) -> np.ndarray:
    """As a graph writes probabilities (N, h, w): (N, h + 2, w + 2), foreground where positive."""
    return np.pad(values - np.float32(0.5), ((0, 0), (1, 1), (1, 1)), constant_values=-0.5)


def paste(values: np.ndarray, boxes: np.ndarray, size: tuple[int, int], **options: object) -> Instances:
    """Ours, for boxes (N, 4) in pixels of an image that is the network's input."""
    scores = np.linspace(0.9, 0.6, len(boxes), dtype=np.float32)
    raw = Raw(boxes.astype(np.float32), scores, np.zeros(len(boxes), int), ringed(values))
    return to_instances(raw, Frame(size, size), size, np.zeros(1), mask_layout=OVER_BOX, **options)  # type: ignore[arg-type]


def reference(values: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """One mask's probability at every pixel of the image (H, W): PaddleX's formula, in float64.

    A pixel takes from each cell what the hat around the cell's centre has there, so that zeros lie all around.
    """

    def hats(pixels: int, low: float, high: float, cells: int) -> np.ndarray:
        normal = (np.arange(pixels) + 0.5 - low) / (high - low) * 2 - 1
        place = ((normal + 1) * cells - 1) / 2
        return np.maximum(1 - np.abs(place[:, None] - np.arange(cells)), 0)

    x1, y1, x2, y2 = box.astype(np.float64)
    return hats(size[0], y1, y2, values.shape[0]) @ values.astype(np.float64) @ hats(size[1], x1, x2, values.shape[1]).T


def sampled(values: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The same of all masks, (N, H, W), with the operator and in the float32 that PaddleX uses."""
    x1, y1, x2, y2 = torch.from_numpy(boxes).split(1, dim=1)
    y = (torch.arange(size[0]) + 0.5 - y1) / (y2 - y1) * 2 - 1  # (N, H)
    x = (torch.arange(size[1]) + 0.5 - x1) / (x2 - x1) * 2 - 1  # (N, W)
    shape = (len(boxes), *size)
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=3)
    found = F.grid_sample(torch.from_numpy(values)[:, None], grid, padding_mode="zeros", align_corners=False)
    return np.asarray(found[:, 0].numpy())


def assert_pasted(found: Instances, index: int, expected: np.ndarray) -> None:
    """All pixels of the image as expected, but for ties."""
    clear = np.abs(expected - 0.5) > TIE
    np.testing.assert_array_equal(found.full_mask(index)[clear], (expected >= 0.5)[clear])


def boxes_in(size: tuple[int, int], corners: np.ndarray) -> np.ndarray:
    """(N, 4) float32, ordered, from corners (N, 4) in shares of the image."""
    spread = corners.astype(np.float32) * f32([size[1], size[0], size[1], size[0]])
    return np.concatenate([np.minimum(spread[:, :2], spread[:, 2:]), np.maximum(spread[:, :2], spread[:, 2:])], axis=1)


@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 10_000),
    cells=st.tuples(st.integers(1, 30), st.integers(1, 30)) | st.just((CELLS, CELLS)),
    size=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    corners=st.tuples(*[st.floats(-0.25, 1.25, width=32)] * 4),
    halves=st.booleans(),
)
def test_each_pixel_of_the_image_is_that_of_paddlex(
    seed: int, cells: tuple[int, int], size: tuple[int, int], corners: tuple[float, ...], halves: bool
) -> None:
    """Also beyond the box's pixels, where nothing is lost; and of a box that goes beyond the image, where it is cut."""
    values, boxes = probabilities(1, seed, cells), boxes_in(size, np.array([corners]))
    if halves:  # corners where rounding to pixels has a choice
        boxes = np.rint(boxes) + np.float32(0.5)
    found = paste(values, boxes, size)
    cut = np.clip(boxes, 0, f32([size[1], size[0]] * 2))
    if (cut[:, 2:] <= cut[:, :2]).any():
        assert len(found) == 0
        return
    np.testing.assert_array_equal(found.boxes, cut)
    assert_pasted(found, 0, reference(values[0], boxes[0], size))


@pytest.mark.parametrize("size", [(480, 640), (427, 640), (1080, 1920), (33, 2000), (7, 5)])
def test_equal_to_grid_sample_over_the_whole_image(size: tuple[int, int]) -> None:
    n = 6
    values, rng = probabilities(n, size[0]), np.random.default_rng(size[1])
    boxes = np.clip(boxes_in(size, rng.uniform(-0.1, 1.1, (4 * n, 4))), 0, f32([size[1], size[0]] * 2))
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)][:n]
    found, expected = paste(values, boxes, size), sampled(values, boxes, size)
    np.testing.assert_array_equal(found.boxes, boxes)
    for i in range(n):
        assert_pasted(found, i, expected[i])
        assert np.mean(np.abs(expected[i] - 0.5) <= TIE) < 1e-3
        np.testing.assert_allclose(expected[i], reference(values[i], boxes[i], size), atol=TIE)


def test_boxes_come_from_the_network_input() -> None:
    """Scaled to the image, pasted and cut; how large the input is doesn't matter."""
    frame, boxes = Frame((427, 640), (800, 1199)), f32([[-30, 100.7, 500.3, 700], [900, 20, 1300.5, 900]])
    values = probabilities(2, 0)
    raw = Raw(boxes, f32([0.9, 0.8]), np.zeros(2, int), ringed(values))
    found = to_instances(raw, frame, (800, 1199), np.zeros(1, np.float32), mask_layout=OVER_BOX)
    np.testing.assert_allclose(found.boxes, [[0, 53.7486, 267.05, 373.625], [480.4, 10.675, 640, 427]], atol=1e-3)
    for i in range(2):
        scaled = boxes[i] * f32([640 / 1199, 427 / 800] * 2)
        assert_pasted(found, i, reference(values[i], scaled, frame.size))
    other = to_instances(raw, frame, (832, 1216), np.zeros(1, np.float32), mask_layout=OVER_BOX)
    for one, two in zip(found.masks, other.masks, strict=True):
        np.testing.assert_array_equal(one, two)


def test_boxes_never_grow_and_nothing_is_outside() -> None:
    values, boxes = np.ones((1, CELLS, CELLS), np.float32), f32([[10.2, 5.7, 31.4, 20.1]])
    for grow in (False, True):
        found = paste(values, boxes, (40, 50), grow_boxes=grow)
        np.testing.assert_array_equal(found.boxes, boxes)
        assert found.outside.tolist() == [0.0] and found.outside.dtype == np.float32
        assert found.masks[0].all() and found.full_mask(0).sum() == (20 - 6) * (31 - 10)


def test_a_box_beyond_the_image_on_all_sides() -> None:
    size = (90, 130)
    whole, faint = f32([[0, 0, 130, 90]]), np.full((1, CELLS, CELLS), 0.6, np.float32)
    found = paste(faint, whole * 3 - f32([100, 100, 0, 0]), size)  # cut at the image on all sides
    np.testing.assert_array_equal(found.boxes, whole)
    assert found.masks[0].all()  # the mask is cut too, not squeezed into what is left of its box
    # at the border of a box, half a cell and less inside, PaddleX has faded towards its zeros
    edge = paste(faint, whole, size).masks[0]
    assert not edge[0].any() and edge[1:-1, 2:-2].all()


def test_none_one_and_beyond() -> None:
    values = probabilities(3, 3)
    for options in ({}, {"grow_boxes": True}):
        nothing = paste(values[:0], np.zeros((0, 4), np.float32), (30, 40), **options)
        assert len(nothing) == 0 and nothing.masks == () and nothing.boxes.shape == (0, 4)
        assert nothing.outside.shape == (0,) and nothing.full_masks().shape == (0, 30, 40)
    boxes = f32([[-20, -20, -5, -5], [4, 3, 30, 22], [41, 0, 60, 20]])
    found = paste(values, boxes, (30, 40))
    assert len(found) == 1  # and it has its own mask
    assert_pasted(found, 0, reference(values[1], boxes[1], (30, 40)))


@pytest.mark.parametrize("side", [1e-3, 1e-6, 1e-20, 1e-45])
@pytest.mark.parametrize("corner", [0.0, 10.4999, 10.5, 10.2, 39.0])
def test_the_thinnest_boxes_are_safe(side: float, corner: float) -> None:
    """No overflow, no division by zero, no warning; foreground where a pixel's centre is inside."""
    low = np.float32(corner)
    high = max(low + np.float32(side), np.nextafter(low, np.float32(np.inf)))
    values = np.full((2, CELLS, CELLS), 0.999, np.float32)  # 1 would tie where a centre is on the border
    boxes = f32([[low, 2, high, 20], [low, low, high, high]])
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        found = paste(values, boxes, (40, 40))
    assert len(found) == 2
    for i in range(2):
        assert_pasted(found, i, reference(values[i], found.boxes[i], (40, 40)))
    inside = low < 10.5 < high
    assert found.masks[0].any() == inside == found.masks[1].any()


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 50, width=32)] * 4), min_size=1, max_size=8), st.integers(0, 100))
def test_any_box_gives_finite_boxes_and_masks_of_its_window(corners: list[tuple[float, ...]], seed: int) -> None:
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        found = paste(probabilities(len(corners), seed), f32(corners), (40, 50))
    for i, mask in enumerate(found.masks):
        top, bottom, left, right = found.window(i)
        assert mask.shape == (bottom - top, right - left) and mask.dtype == np.uint8
    assert np.isfinite(found.boxes).all()


@pytest.fixture
def over_boxes(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A model whose record says that its masks lie over its boxes."""
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    model = onnx.load(folder / "inference.onnx")
    record = json.loads(model.metadata_props[0].value) | {"mask_layout": OVER_BOX.to_dict()}
    model.metadata_props[0].value = json.dumps(record)
    onnx.save(model, folder / "inference.onnx")
    return folder


def test_the_predictor_pastes_as_the_record_says_also_in_batches(over_boxes: Path) -> None:
    photo = read_image(PHOTO)
    images = [photo, photo[:200, :300].copy(), cv2.resize(photo, (97, 53)), photo[::-1].copy()]
    model = create_model(model_dir=over_boxes, threshold=0.3)
    graph = Graph(over_boxes / "inference.onnx", Device("cpu"))
    together = list(model.predict(images, batch_size=3))
    assert any(result.instances.masks for result in together)
    for image, result in zip(images, together, strict=True):
        pixels, frame = graph.record.preprocess.apply(image)
        thresholds = np.full(3, 0.3, np.float32)
        raw = graph.run(pixels[None]).image(0)
        alone = to_instances(raw, frame, (pixels.shape[0], pixels.shape[1]), thresholds, mask_layout=OVER_BOX)
        np.testing.assert_array_equal(result.instances.boxes, alone.boxes)
        for one, other in zip(result.instances.masks, alone.masks, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(not EXPECTED.exists(), reason="PaddleX's numbers are not in the project")
@pytest.mark.parametrize("name", ["MaskRCNN-ResNet50-FPN", "MaskRCNN-ResNet50", "Cascade-MaskRCNN-ResNet50-FPN"])
def test_paddlex_pastes_nothing_beyond_a_boxs_pixels(name: str) -> None:
    """Which is what allows to look only there."""
    record = np.load(EXPECTED / f"{name}_seed0_aligned.npz")
    boxes, rows = record["img480x640/out/boxes"][:, 2:], record["img480x640/out/mask_rows"]
    masks = np.unpackbits(record["img480x640/out/mask_bits"], axis=1).reshape(len(rows), 480, 640)
    assert masks.any()
    for row, mask in zip(rows, masks, strict=True):
        top, bottom, left, right = pixel_window(boxes[row], (480, 640))
        assert mask.sum() == mask[top:bottom, left:right].sum()
