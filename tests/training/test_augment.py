"""Images and masks stay together whatever is drawn, and every augmentation does what its source says."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from maskline.data.dataset import Annotation, Category, Dataset, ImageRecord
from maskline.data.shapes import crop
from maskline.errors import InputError, ParameterError
from maskline.instances import Window
from maskline.preprocess import Preprocess
from maskline.training import augment as augmentations
from maskline.training.augment import FILL, Augment, cropped, distortion, expanded, framed, jittered, pasted
from maskline.training.samples import (
    Original,
    Patch,
    TrainingSample,
    View,
    apply_view,
    paste,
    read_original,
    view_mask,
    window_boxes,
)

OFF = Augment(flip=0)
SQUARE = Preprocess(96, 96, interpolation="linear")
GEOMETRY = Augment(expand=0.4, crop=0.5, flip=0.5, flip_vertical=0.5, rotate90=0.7)


def ring(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    """An ellipse with a dent, so that no flip or turn leaves it as it is."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    size = 1 - 0.3 * (np.abs(angle - 0.7) < 0.5)
    return np.stack([x + rx * size * np.cos(angle), y + ry * size * np.sin(angle)], axis=1)


def original(size: tuple[int, int] = (120, 160), count: int = 3) -> Original:
    """White objects apart from each other on black."""
    shapes = [ring(30 + 50 * i, 35 + 25 * i, 18, 14 + 5 * i) for i in range(count)]
    masks = tuple(Patch(*found) for shape in shapes if (found := crop((shape,), size)) is not None)
    image = np.zeros((*size, 3), np.uint8)
    for pixels, (top, bottom, left, right) in masks:
        image[top:bottom, left:right][pixels != 0] = 255
    return Original(image, np.arange(len(masks)), masks)


def full(mask: Patch, size: tuple[int, ...]) -> np.ndarray:
    canvas = np.zeros(size[:2], bool)
    canvas[mask.window.slices] = mask.pixels
    return canvas


def all_masks(sample: TrainingSample) -> np.ndarray:
    return np.asarray(np.array([full(mask, sample.image.shape) for mask in sample.masks]).any(axis=0))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ---- one resample


@pytest.mark.parametrize("size", [(120, 160), (37, 200), (96, 96)])
@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(96, 96),
        Preprocess(96, 128, interpolation="area"),
        Preprocess(80, 133, keep_ratio=True),
        Preprocess(80, 133, keep_ratio=True, interpolation="linear", mean=(0.5, 0.4, 0.3), float_resize=True),
    ],
)
def test_without_augmentation_an_image_is_what_the_model_will_get(
    preprocess: Preprocess, size: tuple[int, int]
) -> None:
    image = rng().integers(0, 256, (*size, 3), np.uint8)
    sample = OFF.sample(Original(image, np.zeros(0, np.int64), ()), preprocess, rng())
    expected = preprocess.apply(image)[0]
    assert sample.image.dtype == expected.dtype
    np.testing.assert_array_equal(sample.image, expected)


@pytest.mark.parametrize("output", [(120, 160), (300, 310), (90, 64), (31, 45)])
def test_masks_are_those_of_the_scaled_polygons(output: tuple[int, int]) -> None:
    size = 120, 160
    shape = ring(70, 60, 50, 40)
    found = crop((shape,), size)
    assert found is not None
    seen = view_mask(Patch(*found), framed(Window(0, 120, 0, 160), size, output))
    exact = crop((shape * (output[1] / size[1], output[0] / size[0]),), output)
    assert seen is not None
    assert exact is not None
    ours, truth = full(seen, output), full(Patch(*exact), output)
    reach = ceil(max(output[0] / size[0], output[1] / size[1], 1) / 2)  # half a pixel, of the image or the output
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    assert (truth <= cv2.dilate(ours.view(np.uint8), kernel)).all()
    assert (ours <= cv2.dilate(truth.view(np.uint8), kernel)).all()
    assert iou(ours, truth) > 1 - 2 * 0.5 / min(40 * output[0] / size[0], 40)  # half a pixel off, all round
    assert abs(int(ours.sum()) - int(truth.sum())) < 0.04 * truth.sum()


@pytest.mark.parametrize("seed", range(40))
def test_masks_lie_on_their_objects(seed: int) -> None:
    augment = replace(GEOMETRY, jitter=(0.3, 2.0) if seed % 2 else None)
    preprocess = Preprocess(200, 260, keep_ratio=seed % 4 < 2, interpolation="linear")
    sample = augment.sample(original(), preprocess, rng(seed))
    white = np.asarray((sample.image > 127).all(axis=2))
    assert len(sample.masks)
    if len(sample.masks) == 3:
        assert iou(all_masks(sample), white) > 0.93
    for mask in sample.masks:
        covered = full(mask, sample.image.shape)
        inner = cv2.erode(covered.view(np.uint8), np.ones((3, 3), np.uint8), borderValue=1).view(bool)
        assert white[inner].all()


def test_boxes_are_those_of_the_masks() -> None:
    sample = GEOMETRY.sample(original(), SQUARE, rng(1))
    assert len(sample.masks)
    for mask, box in zip(sample.masks, window_boxes(sample.masks), strict=True):
        rows, columns = np.nonzero(full(mask, (96, 96)))
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize(("flip", "flip_vertical"), [(False, False), (True, False), (False, True), (True, True)])
def test_flips_and_turns_are_exact(flip: bool, flip_vertical: bool, turns: int) -> None:
    given = original(count=1)
    view = View(Window(0, 120, 0, 160), Window(0, 120, 0, 160), (120, 160), flip, flip_vertical, turns)
    sample = apply_view(given, view, SQUARE, FILL)
    expected = full(given.masks[0], (120, 160))
    expected = expected[:: -1 if flip_vertical else 1, :: -1 if flip else 1]
    expected = np.rot90(expected, turns)
    np.testing.assert_array_equal(full(sample.masks[0], sample.image.shape), expected)
    np.testing.assert_array_equal(sample.image[..., 0] == 255, expected)


@pytest.mark.parametrize("output", [(120, 160), (480, 500), (50, 30), (7, 5)])
def test_a_mask_over_everything_stays_so(output: tuple[int, int]) -> None:
    mask = Patch(np.ones((120, 160), np.uint8), Window(0, 120, 0, 160))
    seen = view_mask(mask, framed(Window(0, 120, 0, 160), (120, 160), output))
    assert seen is not None
    assert seen.window == (0, output[0], 0, output[1])
    assert seen.pixels.all()


def test_what_a_pixel_covers_decides_where_it_covers_many() -> None:
    pixels = np.ones((100, 100), np.uint8)
    pixels[:, 2::5] = 0  # where the centres of the output's pixels lie
    seen = view_mask(Patch(pixels, Window(0, 100, 0, 100)), framed(Window(0, 100, 0, 100), (100, 100), (20, 20)))
    assert seen is not None
    assert seen.pixels.all()
    seen = view_mask(Patch(1 - pixels, Window(0, 100, 0, 100)), framed(Window(0, 100, 0, 100), (100, 100), (20, 20)))
    assert seen is None


def test_what_hardly_shows_is_dropped() -> None:
    size = 100, 100
    mask = Patch(np.ones((40, 40), np.uint8), Window(30, 70, 30, 70))
    assert view_mask(mask, framed(Window(0, 100, 66, 100), size, size)) is not None  # 4 of 40 columns
    assert view_mask(mask, framed(Window(0, 100, 67, 100), size, size)) is None
    assert view_mask(mask, framed(Window(0, 100, 80, 100), size, size)) is None
    assert view_mask(mask, framed(Window(0, 100, 0, 100), size, (2, 2))) is None  # a pixel or none is left
    tiny = Patch(np.ones((1, 1), np.uint8), Window(5, 6, 5, 6))
    assert view_mask(tiny, framed(Window(0, 100, 0, 100), size, size)) is None


def test_labels_go_with_their_masks() -> None:
    given = original()
    sample = apply_view(given, framed(Window(0, 120, 100, 160), given.size, (120, 60)), SQUARE, FILL)
    assert sample.labels.tolist() == [2]
    assert iou(all_masks(sample), full(given.masks[2], given.size)[:, 100:]) == 1


# ---- what is drawn


def test_an_image_on_a_canvas() -> None:
    area = Window(0, 30, 0, 40)
    found = [expanded(area, rng(i)) for i in range(200)]
    for top, bottom, left, right in found:
        assert top <= 0 < 30 <= bottom
        assert left <= 0 < 40 <= right
        assert bottom - top <= 120
        assert right - left <= 160
    assert max(bottom - top for top, bottom, _, _ in found) > 110
    sample = apply_view(original(), framed(Window(-120, 120, -160, 160), (120, 160), (96, 96)), SQUARE, FILL)
    assert (sample.image[:48] == FILL).all()
    assert (sample.image[:, :48] == FILL).all()
    assert iou(all_masks(sample), (sample.image == 255).all(axis=2)) > 0.75


def test_the_canvas_of_a_normalised_image_is_normalised() -> None:
    preprocess = replace(SQUARE, mean=(0.485, 0.456, 0.406), std=(0.2, 0.2, 0.2), float_resize=True)
    sample = apply_view(original(), framed(Window(-120, 120, 0, 160), (120, 160), (96, 96)), preprocess, FILL)
    expected = (np.array(FILL) / 255 - preprocess.mean) / 0.2
    np.testing.assert_allclose(sample.image[0, 0], expected, atol=1e-5)


def test_crops_lie_inside_and_hold_the_centre_of_an_object() -> None:
    area, objects = Window(-20, 100, -10, 150), np.array([[10, 10, 30, 40], [100, 60, 140, 90]], np.float32)
    centres = (objects[:, :2] + objects[:, 2:]) / 2
    found = [cropped(area, objects, rng(i)) for i in range(300)]
    whole = sum(window == area for window in found)
    assert 15 < whole < 250  # a seventh at least: no crop is one of the seven choices
    for top, bottom, left, right in found:
        assert -20 <= top < bottom <= 100
        assert -10 <= left < right <= 150
        assert ((centres >= (left, top)) & (centres < (right, bottom))).all(axis=1).any()
    sides = [(bottom - top) / 120 for top, bottom, _, _ in found]
    assert min(sides) < 0.4


def test_crops_reach_the_overlap_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentations, "CROP_OVERLAPS", (0.7,))
    box = np.array([[20, 20, 80, 80]], np.float32)
    area = Window(0, 100, 0, 100)
    for window in (cropped(area, box, rng(i)) for i in range(50)):
        if window != area:
            top, bottom, left, right = window
            inside = (min(bottom, 80) - max(top, 20)) * (min(right, 80) - max(left, 20))
            assert inside / ((bottom - top) * (right - left) + 3600 - inside) >= 0.7


def test_images_without_objects_are_not_cropped() -> None:
    nothing = Original(np.zeros((50, 60, 3), np.uint8), np.zeros(0, np.int64), ())
    assert Augment(crop=1, flip=0).view(nothing, SQUARE, rng()).source == (0, 50, 0, 60)


@pytest.mark.parametrize("scale", [0.25, 0.5, 1.0, 2.0, 4.0])
def test_jitter_scales_and_keeps_the_shape(scale: float) -> None:
    for seed in range(20):
        top, bottom, left, right = jittered(Window(0, 120, 0, 160), (96, 96), scale, rng(seed))
        assert bottom - top == right - left == round(160 / scale)  # the long side fits at 1
        assert min(0, 120 - (bottom - top)) <= top <= max(0, 120 - (bottom - top))
        assert min(0, 160 - (right - left)) <= left <= max(0, 160 - (right - left))


def test_jitter_keeps_the_size_of_the_input_whatever_the_ratio() -> None:
    augment = Augment(jitter=(0.1, 2), rotate90=0.5)
    shapes = {augment.sample(original(), Preprocess(64, 96, keep_ratio=True), rng(i)).image.shape for i in range(20)}
    assert shapes == {(64, 96, 3)}


def test_one_of_the_sizes() -> None:
    augment = Augment(sizes=(64, 96, 96))
    drawn = [augment.resized(SQUARE, rng(i)) for i in range(60)]
    assert {(p.height, p.width) for p in drawn} == {(64, 64), (96, 96)}
    assert sum(p.height == 96 for p in drawn) > 30
    assert Augment().resized(SQUARE, rng()) is SQUARE
    keeps = [augment.resized(Preprocess(80, 133, keep_ratio=True), rng(i)) for i in range(20)]
    assert {(p.height, p.width) for p in keeps} == {(64, 133), (96, 133)}
    square = Augment(jitter=(0.1, 2), sizes=(64,)).resized(Preprocess(80, 133, keep_ratio=True), rng())
    assert (square.height, square.width) == (64, 64)


@pytest.mark.parametrize(
    "wrong",
    [
        {"flip": 1.5},
        {"crop": -0.1},
        {"distort": True},
        {"jitter": (0.0, 1.0)},
        {"jitter": (2.0, 1.0)},
        {"jitter": (1.0,)},
        {"sizes": (100,)},
        {"sizes": (640, 0)},
    ],
)
def test_invalid_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ParameterError, match=f"^{next(iter(wrong))} is "):
        Augment(**wrong)  # type: ignore[arg-type]


# ---- colours


class Scripted:
    """Draws these of brightness, contrast, saturation, hue (0 to 3), and these values of them."""

    def __init__(self, values: dict[int, float]) -> None:
        self.values, self.step = values, -1

    def random(self) -> float:
        self.step += 1
        return 0.0 if self.step in self.values else 1.0

    def uniform(self, low: float, high: float) -> float:
        assert low <= self.values[self.step] <= high
        return self.values[self.step]


def recoloured(image: np.ndarray, values: dict[int, float]) -> np.ndarray:
    """RGB to RGB."""
    bgr = np.ascontiguousarray(image[..., ::-1])
    colour = distortion(bgr, Scripted(values))  # type: ignore[arg-type]
    return np.asarray(cv2.transform(bgr, colour))[..., ::-1]


@pytest.mark.parametrize("value", [0.6, 1.0, 1.3])
@pytest.mark.parametrize(
    ("step", "enhance"), [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)]
)
def test_colours_change_as_pillow_changes_them(step: int, enhance: type, value: float) -> None:
    image = rng().integers(60, 180, (20, 30, 3), np.uint8)  # so that nothing is clipped
    expected = np.asarray(enhance(Image.fromarray(image)).enhance(value)).astype(int)
    assert np.abs(recoloured(image, {step: value}) - expected).max() <= 2


def test_all_colours_change_in_one_step() -> None:
    image = rng().integers(90, 160, (20, 30, 3), np.uint8)
    expected = Image.fromarray(image)
    for enhance, value in ((ImageEnhance.Brightness, 0.8), (ImageEnhance.Contrast, 1.4), (ImageEnhance.Color, 0.6)):
        expected = enhance(expected).enhance(value)
    assert np.abs(recoloured(image, {0: 0.8, 1: 1.4, 2: 0.6}) - np.asarray(expected).astype(int)).max() <= 3


def test_hue_turns_colours_and_leaves_grey() -> None:
    grey = np.full((4, 4, 3), 117, np.uint8)
    np.testing.assert_array_equal(recoloured(grey, {3: 0.07}), grey)
    red = np.full((1, 1, 3), (190, 70, 70), np.uint8)
    turned = recoloured(red, {3: 18 / 256})
    hue = [float(np.asarray(Image.fromarray(np.ascontiguousarray(c)).convert("HSV"))[0, 0, 0]) for c in (red, turned)]
    assert (hue[1] - hue[0]) % 256 == pytest.approx(18, abs=4)
    assert int(turned.sum()) == pytest.approx(int(red.sum()), abs=2)


def test_distortion_varies_and_leaves_masks_alone() -> None:
    given = original()
    plain, changed = (Augment(distort=p, flip=0).sample(given, SQUARE, rng(5)) for p in (0, 1))
    np.testing.assert_array_equal(all_masks(plain), all_masks(changed))
    maps = [distortion(given.image, rng(i)) for i in range(20)]
    assert len({m.tobytes() for m in maps}) > 15


# ---- pasted


def rectangle(top: int, bottom: int, left: int, right: int) -> Patch:
    return Patch(np.ones((bottom - top, right - left), np.uint8), Window(top, bottom, left, right))


def plain(value: int, *masks: Patch, size: tuple[int, int] = (40, 50)) -> TrainingSample:
    return TrainingSample(np.full((*size, 3), value, np.uint8), np.full(len(masks), value), masks)


def test_what_is_pasted_covers() -> None:
    below = plain(1, rectangle(0, 20, 0, 20), rectangle(30, 40, 30, 50), rectangle(11, 14, 11, 14))
    result = paste(below, plain(2, rectangle(10, 30, 10, 30), rectangle(0, 5, 45, 50)), [0])
    assert result.labels.tolist() == [1, 1, 2]  # the third is gone
    over = np.zeros((40, 50), bool)
    over[10:30, 10:30] = True
    np.testing.assert_array_equal(result.image[..., 0], np.where(over, 2, 1))
    first = full(result.masks[0], (40, 50))
    assert first.sum() == 300
    assert not (first & over).any()
    assert result.masks[1] is below.masks[1]
    np.testing.assert_array_equal(full(result.masks[2], (40, 50)), over)
    assert (below.image == 1).all()


def test_only_the_mask_covers_not_its_box() -> None:
    corner = Patch(np.tril(np.ones((20, 20), np.uint8)), Window(0, 20, 0, 20))
    result = paste(plain(1, rectangle(0, 20, 0, 20)), plain(2, corner), [0])
    under, over = (full(mask, (40, 50)) for mask in result.masks)
    assert not (under & over).any()
    assert (under | over).sum() == 400
    assert (result.image[..., 0] == 2).sum() == over.sum() == 210


def test_what_is_nearly_covered_goes_and_boxes_shrink() -> None:
    below = plain(1, rectangle(0, 20, 0, 20))
    assert paste(below, plain(2, rectangle(0, 19, 0, 20)), [0]).labels.tolist() == [2]  # a twentieth is left
    shrunk = paste(below, plain(2, rectangle(0, 15, 0, 20)), [0])
    assert shrunk.masks[0].window == (15, 20, 0, 20)


def test_objects_of_a_larger_image_are_cut() -> None:
    other = plain(2, rectangle(30, 50, 10, 20), rectangle(45, 50, 0, 5), size=(60, 60))
    result = paste(plain(1), other, [0, 1])
    assert [mask.window for mask in result.masks] == [(30, 40, 10, 20)]
    assert (result.image == 2).all(axis=2).sum() == 100


def test_some_objects_are_pasted() -> None:
    other = plain(2, *(rectangle(4 * i, 4 * i + 3, 0, 5) for i in range(8)))
    counts = {len(pasted(plain(1), other, rng(i)).masks) for i in range(100)}
    assert counts == set(range(1, 9))
    alone = plain(1, rectangle(0, 3, 0, 3))
    assert pasted(alone, plain(2), rng()) is alone


# ---- read


def dataset(folder: Path, size: tuple[int, int] = (30, 40)) -> tuple[Dataset, ImageRecord]:
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(folder / "a.png")
    record = ImageRecord(7, "a.png", 40, 30)
    square = (np.array([[5, 5], [15, 5], [15, 15], [5, 15]], float),)
    outside = (np.array([[50, 50], [60, 50], [60, 60]], float),)
    annotations = (
        Annotation(1, 7, "b", square),
        Annotation(2, 7, "a", square, crowd=True),
        Annotation(3, 7, "a", square, extra={"ignore": 1}),
        Annotation(4, 7, "a", outside),
        Annotation(5, 7, "a", square, extra={"ignore": 0}),
    )
    return Dataset("train", folder, (record,), annotations, (Category("a", "a"), Category("b", "b"))), record


def test_only_objects_with_pixels_are_read(tmp_path: Path) -> None:
    found = read_original(*dataset(tmp_path))
    assert found.labels.tolist() == [1, 0]
    assert [mask.window for mask in found.masks] == [(5, 15, 5, 15)] * 2
    assert found.size == (30, 40)


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    data, record = dataset(tmp_path, (40, 30))
    with pytest.raises(InputError, match="'a.png' is listed as 40 x 30, but the file is 30 x 40"):
        read_original(data, record)
