"""Images: right colours, nothing touched outside the instances, labels that can be read."""

from __future__ import annotations

import logging
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskline import render
from maskline.errors import ParameterError
from maskline.instances import Instances, pixel_window
from maskline.render import PALETTE, draw, text_size

NAMES = [f"class {i}" for i in range(90)]
DEJAVU = Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf")


def make(
    boxes: Sequence[tuple[float, float, float, float]],
    labels: list[int] | None = None,
    size: tuple[int, int] = (240, 320),
) -> Instances:
    """Instances whose masks are ellipses, with falling scores."""
    masks = []
    for box in boxes:
        top, bottom, left, right = pixel_window(box, size)
        mask = np.zeros((bottom - top, right - left), np.uint8)
        middle = (right - left) // 2, (bottom - top) // 2
        cv2.ellipse(mask, middle, middle, 0, 0, 360, 1, -1)
        masks.append(mask)
    n = len(boxes)
    return Instances(
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.linspace(0.95, 0.5, n, dtype=np.float32),
        np.asarray(labels if labels is not None else range(n), np.int64),
        tuple(masks),
        np.zeros(n, np.float32),
        size,
    )


def noise(size: tuple[int, int] = (240, 320)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)


def changed(image: np.ndarray, photo: np.ndarray) -> np.ndarray:
    return (photo != image[..., ::-1]).any(axis=2)


@pytest.fixture(autouse=True)
def _fresh_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in render.FONT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(render, "_warned_of_fonts", False)
    caches = (render._has_glyph, render._font)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def no_system_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "SYSTEM_FONTS", ())


def test_red_stays_red() -> None:
    """B02."""
    image = np.zeros((60, 80, 3), np.uint8)
    image[..., 2] = 255  # BGR
    photo = draw(image, make([], size=(60, 80)), NAMES)
    assert photo.dtype == np.uint8 and (photo == (255, 0, 0)).all()


def test_nothing_found_gives_the_image_and_leaves_it_as_it_is() -> None:
    image = noise()
    before = image.copy()
    np.testing.assert_array_equal(draw(image, make([]), NAMES), image[..., ::-1])
    draw(image, make([(10, 10, 100, 90)]), NAMES)
    np.testing.assert_array_equal(image, before)
    image.setflags(write=False)
    draw(image[::-1], make([(10, 10, 100, 90)]), NAMES)


@pytest.mark.parametrize("label", range(0, 45, 4))
@pytest.mark.parametrize("alpha", [0.7, 0.0, 1.0, 0.35])
def test_a_mask_is_blended_exactly(label: int, alpha: float) -> None:
    """B11: no lightening from one to the next."""
    image = noise()
    instances = make([(40, 60, 200, 220)], [label])
    photo = draw(image, instances, NAMES, alpha=alpha, contour=False)
    inner = instances.full_mask(0)
    inner[:62], inner[219:], inner[:, :42], inner[:, 199:] = False, False, False, False  # the frame
    assert inner.sum() > 10_000
    exact = (1 - alpha) * image[..., ::-1][inner] + alpha * np.asarray(PALETTE[label % 20])
    assert np.abs(photo[inner] - exact).max() <= 0.5 + 1e-9


def test_colours_depend_on_the_class_alone() -> None:
    """B11."""
    boxes = [(10, 60, 60, 110), (80, 60, 130, 110), (150, 60, 200, 110), (220, 60, 270, 110)]
    image = np.zeros((240, 320, 3), np.uint8)
    for labels in ([3, 3, 3, 3], [7, 3, 27, 0], [0, 27, 3, 7]):
        photo = draw(image, make(boxes, labels), NAMES)
        for box, label in zip(boxes, labels, strict=True):
            inside = photo[85, int(box[0]) + 25]
            np.testing.assert_array_equal(inside, np.rint(0.7 * np.asarray(PALETTE[label % 20])))


def test_palette_is_that_of_paddlex() -> None:
    assert len(PALETTE) == len(set(PALETTE)) == 20
    assert PALETTE[:3] == ((255, 0, 0), (204, 255, 0), (0, 255, 102)) and PALETTE[19] == (255, 0, 77)
    white = [i for i, colour in enumerate(PALETTE) if render._ink(colour) == render.WHITE]
    assert white == [0, 3, 4, 8, 9, 13, 14, 18, 19]


@pytest.mark.parametrize("size", [(240, 320), (900, 1400)])
def test_nothing_changes_outside_windows_and_labels(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(size)
    boxes = [(40.4, 90.6, 120.2, 170.9), (150, 100, 151, 180), (200, 120, 300, 121), (0, 200, 320, 240)]
    instances = make([(x1, y1, min(x2, size[1]), y2) for x1, y1, x2, y2 in boxes], size=size)
    monkeypatch.setattr(render, "_write_labels", lambda *_: None)
    windows = np.zeros(size, bool)
    for i in range(len(instances)):
        top, bottom, left, right = instances.window(i)
        windows[top:bottom, left:right] = True
    touched = changed(image, draw(image, instances, NAMES))
    assert touched.any() and not (touched & ~windows).any()


def test_the_best_lies_on_top() -> None:
    image = np.zeros((240, 320, 3), np.uint8)
    instances = make([(50, 50, 200, 200), (50, 50, 200, 200)], [0, 8])
    photo = draw(image, instances, NAMES, alpha=1.0, contour=False)
    assert tuple(photo[150, 125]) == PALETTE[0] and tuple(photo[199, 100]) == PALETTE[0]


def test_small_masks_get_no_outline_and_large_ones_do() -> None:
    image = np.zeros((240, 320, 3), np.uint8)
    for box, outlined in (((50, 50, 61, 150), False), ((50, 50, 150, 150), True)):
        with_it, without = (draw(image, make([box], [0]), NAMES, contour=contour) for contour in (True, False))
        assert (with_it != without).any() == outlined


def labels_drawn(instances: Instances, names: list[str] = NAMES) -> np.ndarray:
    """Where labels alone are written."""
    canvas = np.full((*instances.size, 3), 1, np.uint8)  # no label has this colour
    render._write_labels(canvas, instances, names, scores=True)
    return (canvas != 1).any(axis=2)


def test_a_label_stands_on_its_box_or_inside() -> None:
    above = labels_drawn(make([(50, 100, 150, 200)]))
    rows, columns = np.flatnonzero(above.any(axis=1)), np.flatnonzero(above.any(axis=0))
    assert rows[-1] == 99 and rows[0] >= 70 and columns[0] == 50
    inside = labels_drawn(make([(50, 3, 150, 200)]))
    assert np.flatnonzero(inside.any(axis=1))[0] == 3
    right = labels_drawn(make([(310, 100, 320, 200)]))
    assert np.flatnonzero(right.any(axis=0))[-1] == 319


@pytest.mark.parametrize("size", [(1, 1), (2, 400), (400, 2), (9, 9), (15, 60), (90, 120), (3000, 200)])
def test_labels_stay_inside_images_of_any_size(size: tuple[int, int]) -> None:
    height, width = size
    boxes = [(0, 0, width, height), (width - 0.6, height - 0.6, width, height), (0, height / 2, width / 3, height)]
    image = draw(np.zeros((height, width, 3), np.uint8), make(boxes, size=size), ["x" * 300, "short", ""])
    assert image.shape == (height, width, 3)


def test_labels_do_not_cover_each_other() -> None:
    crowd = make([(100 + i, 100 + i, 160 + i, 160 + i) for i in range(30)])
    alone = sum(int(labels_drawn(make([(100, 100, 160, 160)], [i])).sum()) for i in range(2))
    assert labels_drawn(crowd).sum() >= alone
    image = draw(np.zeros((240, 320, 3), np.uint8), crowd, NAMES)
    tile = render._Label.of("class 0", 0, "0.95", text_size(320, 240), 320).tile(PALETTE[0])
    top, left = 100 - tile.shape[0], 100
    np.testing.assert_array_equal(image[top:100, left : left + tile.shape[1]], tile)  # the best one is whole


#: What the embedded model finds in its example, 520x696, best first.
NUCLEI = [
    *((95, 31, 122, 63), (401, 260, 432, 285), (497, 433, 529, 464), (256, 418, 289, 441), (566, 99, 597, 131)),
    *((28, 81, 59, 114), (374, 318, 399, 351), (384, 493, 414, 520), (78, 200, 103, 232), (630, 43, 659, 62)),
    *((533, 285, 566, 313), (195, 362, 222, 394), (533, 347, 562, 378), (465, 383, 486, 415), (496, 147, 522, 167)),
    *((278, 469, 308, 500), (373, 114, 398, 145), (527, 199, 550, 236), (190, 194, 213, 219), (224, 199, 245, 224)),
    *((401, 139, 435, 160), (361, 1, 384, 20)),
]


def covered(instances: Instances, names: list[str]) -> list[float]:
    """Which share of each box labels cover."""
    labels = labels_drawn(instances, names)
    windows = [instances.window(i) for i in range(len(instances))]
    return [float(labels[top:bottom, left:right].mean()) for top, bottom, left, right in windows]


def test_labels_do_not_hide_small_objects() -> None:
    """With 22 nuclei, the one at the upper edge and one next to another's label were hidden by their own."""
    instances = make(NUCLEI, [0] * len(NUCLEI), size=(520, 696))
    assert max(covered(instances, ["nucleus"])) <= render.MOST_HIDDEN
    tile = render._Label.of("nucleus", 0, "0.95", 12, 696)
    assert labels_drawn(instances, ["nucleus"]).sum() == len(NUCLEI) * tile.width * tile.height  # none is left out


@pytest.mark.parametrize("side", ["left", "right", "middle"])
@pytest.mark.parametrize("end", ["top", "bottom", "middle"])
def test_a_label_finds_a_spot_next_to_a_small_object(side: str, end: str) -> None:
    """Wherever in the image, and with another object above it; there only one that hides nothing."""
    x = {"left": 0, "right": 300, "middle": 150}[side]
    y = {"top": 0, "bottom": 220, "middle": 110}[end]
    boxes = [(x, y, x + 20, y + 20), (x, y - 21, x + 20, y - 1)]
    assert covered(make(boxes[: 1 if end == "top" else 2]), NAMES) == [0.0] * (1 if end == "top" else 2)
    flat = make([(x, 0, x + 20, 20)], size=(22, 320))  # no room above, nor below
    assert covered(flat, NAMES) == [0.0]


def test_a_large_object_may_have_its_label_inside() -> None:
    assert 0 < covered(make([(0, 0, 320, 240)]), NAMES)[0] < 0.05


@pytest.mark.parametrize("seed", range(30))
def test_a_label_hides_as_little_as_it_can(seed: int) -> None:
    """The first spot that hides little of all objects, else the one that hides least, none of another label's."""
    rng, size = np.random.default_rng(seed), (240, 320)
    corners = rng.integers(0, (200, 280), (60, 2))
    sides = rng.integers(1, 40, (60, 2))
    windows = np.stack([corners, corners + sides], axis=2).reshape(-1, 4)
    windows, taken = windows[: seed + 1], windows[40 : 40 + seed // 2]
    spots = render._spots(windows[0].tolist(), (16, 60), size)
    free = [spot for spot in spots if not any(overlap(spot, other) for other in taken)]
    hidden = [sum(overlap(spot, w) / ((w[1] - w[0]) * (w[3] - w[2])) for w in windows) for spot in free]
    best = next((s for s, h in zip(free, hidden, strict=True) if h <= render.MOST_HIDDEN), None)
    if best is None and free:
        best = free[int(np.argmin(hidden))]
    found = render._best_spot(spots, windows, taken)
    assert (found is None) == (best is None)
    if best is not None:
        np.testing.assert_array_equal(found, best)


def overlap(one: np.ndarray, other: np.ndarray) -> int:
    both = np.zeros((2, 400, 400), bool)
    for plane, (top, bottom, left, right) in zip(both, (one, other), strict=True):
        plane[top:bottom, left:right] = True
    return int(both.all(axis=0).sum())


def test_small_objects_have_smaller_labels() -> None:
    """Half the size, but not below what can be read; in a large image both are larger."""
    heights = []
    for size, sides in (((480, 640), (40, 60)), ((3000, 4000), (40, 400))):
        for side in sides:
            drawn = labels_drawn(make([(200, 200, 200 + side, 200 + side)], size=size))
            heights.append(int(drawn.any(axis=1).sum()))
    own = [render._Label.of("class 0", 0, "0.95", text, 4000).height for text in (12, 13, 37, 74)]
    assert heights == own


def test_text_keeps_its_proportion_but_can_be_read() -> None:
    assert text_size(120, 90) == 12 and text_size(640, 480) == 13 and text_size(4000, 3000) == 74
    assert text_size(20_000, 600) == 50


def test_a_long_name_is_cut_but_its_score_is_not(no_system_fonts: None) -> None:
    font = render._font(render.BUNDLED, 12)
    assert font is not None
    assert [render._fitted(name, "0.87", font, 500)[0] for name in ("dog", "")] == ["dog 0.87", "0.87"]
    cut, length = render._fitted("a very long name of a class", "0.87", font, 100)
    assert cut.startswith("a very") and cut.endswith("… 0.87") and font.getlength(cut) == length <= 100


@pytest.mark.usefixtures("no_system_fonts")
def test_scores_can_be_left_out(no_system_fonts: None) -> None:
    image, instances = np.zeros((240, 320, 3), np.uint8), make([(50, 100, 250, 200)])
    with_score, without = (draw(image, instances, NAMES, scores=scores) for scores in (True, False))
    assert (with_score[:100, :].any(axis=(0, 2)).sum()) > without[:100, :].any(axis=(0, 2)).sum() > 0
    font = render._usable_font(render.BUNDLED, 20)
    assert render._fitted("dog", "", font, 500)[0] == "dog"
    assert render._fitted("a very long name", "", font, 80)[0].endswith("…")


def test_without_a_font_classes_are_numbered_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    """B10."""
    with caplog.at_level(logging.WARNING, "maskline"):
        assert render._text_and_font("自行车", 3, 20)[0] == "#3"
        assert render._text_and_font("猫", 4, 20)[0] == "#4"
        draw(noise(), make([(40, 60, 200, 220)]), ["人"])
    assert len(caplog.records) == 1 and "MASKLINE_FONT" in caplog.text


@pytest.mark.usefixtures("no_system_fonts")
def test_accents_are_dropped_before_the_name_is() -> None:
    assert render._text_and_font("café crème", 3, 20)[0] == "cafe creme"
    assert render._text_and_font("line\tbreak", 3, 20)[0] == "line\tbreak"


@pytest.mark.skipif(not DEJAVU.exists(), reason="needs DejaVu Sans")
@pytest.mark.parametrize("variable", render.FONT_VARIABLES)
def test_a_font_can_be_named(variable: str, no_system_fonts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert render._text_and_font("кошка", 3, 20)[0] == "#3"
    monkeypatch.setenv(variable, str(DEJAVU))
    text, font = render._text_and_font("кошка", 3, 20)
    assert text == "кошка" and font.getname()[0] == "DejaVu Sans"
    assert render._text_and_font("猫", 3, 20)[0] == "#3"


@pytest.mark.skipif(not DEJAVU.exists(), reason="needs DejaVu Sans")
def test_fonts_of_the_system_are_used_for_what_the_bundled_one_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "SYSTEM_FONTS", ("/nowhere.ttc", str(DEJAVU)))
    assert render._text_and_font("кошка", 3, 20)[1].getname()[0] == "DejaVu Sans"
    assert render._text_and_font("cat", 3, 20)[1].getname()[0] != "DejaVu Sans"


@pytest.mark.usefixtures("no_system_fonts")
def test_a_damaged_font_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "font.ttf").write_bytes(b"no font")
    monkeypatch.setenv("MASKLINE_FONT", str(tmp_path / "font.ttf"))
    assert render._text_and_font("cat", 3, 20)[0] == "cat"
    assert "font.ttf can't be used" in caplog.text


def test_bad_arguments() -> None:
    with pytest.raises(ParameterError, match="expected \\(240, 320, 3\\)"):
        draw(noise((100, 100)), make([]), NAMES)
    with pytest.raises(ParameterError, match="alpha is 1.5"):
        draw(noise(), make([]), NAMES, alpha=1.5)


def test_memory_is_that_of_the_image() -> None:
    image = np.zeros((1500, 2000, 3), np.uint8)
    boxes = [(20.0 * i, 10.0 * i, 20.0 * i + 400, 10.0 * i + 400) for i in range(80)]
    instances = make(boxes, size=(1500, 2000))
    draw(image, instances, NAMES)
    tracemalloc.start()
    draw(image, instances, NAMES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * image.nbytes
