"""The same and nearly the same images are found, others are not, and work stays bounded."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskline.data.check.near_duplicates import MOST_ALIKE, SIDE, Fingerprint, Pair, find_pairs, fingerprint
from maskline.data.reading import load_splits
from maskline.inputs import read_image

SHARED = Path(__file__).parents[4] / "shared" / "data"
real = pytest.mark.skipif(not SHARED.exists(), reason="needs the real data sets")


def scene(seed: int, size: tuple[int, int] = (240, 320)) -> np.ndarray:
    """Blobs of many sizes on uneven ground, different for each seed: (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    image: np.ndarray = np.full((240, 320, 3), rng.integers(40, 200, 3), np.uint8)
    for _ in range(40):
        centre, axes = rng.integers(0, (320, 240)), rng.integers(5, 50, 2)
        colour = rng.integers(0, 256, 3).tolist()
        cv2.ellipse(image, centre.tolist(), axes.tolist(), int(rng.integers(180)), 0, 360, colour, -1)
    image = cv2.GaussianBlur(image, (0, 0), 1.5)
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def recoded(suffix: str, image: np.ndarray, flag: int, value: int) -> np.ndarray:
    pixels = cv2.imdecode(cv2.imencode(suffix, image, [flag, value])[1], cv2.IMREAD_COLOR)
    assert pixels is not None
    return pixels


def jpeg(image: np.ndarray, quality: int = 30) -> np.ndarray:
    return recoded(".jpg", image, cv2.IMWRITE_JPEG_QUALITY, quality)


def png(image: np.ndarray, level: int) -> np.ndarray:
    return recoded(".png", image, cv2.IMWRITE_PNG_COMPRESSION, level)


ALTERATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "jpeg": jpeg,
    "half": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "double": lambda image: cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR),
    "brighter": lambda image: np.clip(image + 20.0, 0, 255).astype(np.uint8),
    "more contrast": lambda image: np.clip(image * 1.15, 0, 255).astype(np.uint8),
    "less contrast": lambda image: (image * 0.8).astype(np.uint8),
    "grey": grey,
    "cropped": lambda image: image[7:, 9:],
    "cropped on each side": lambda image: image[3:-3, 4:-4],
    "all together": lambda image: jpeg(grey(image[4:, 5:])[::2, ::2]),
}


@pytest.fixture(scope="module")
def scenes() -> list[np.ndarray]:
    return [scene(seed) for seed in range(60)]


@pytest.fixture(scope="module")
def prints(scenes: list[np.ndarray]) -> list[Fingerprint]:
    return [fingerprint(image) for image in scenes]


# ---- what is found


def test_different_images_are_not_alike(prints: list[Fingerprint]) -> None:
    assert find_pairs(prints) == []


@pytest.mark.parametrize("name", ALTERATIONS)
def test_altered_copies_are_found_and_nothing_else(
    name: str, scenes: list[np.ndarray], prints: list[Fingerprint]
) -> None:
    copies = [fingerprint(ALTERATIONS[name](image)) for image in scenes]
    found = find_pairs(prints + copies)
    assert [(pair.first, pair.second) for pair in found] == [(i, i + 60) for i in range(60)]
    assert not any(pair.exact or pair.mirrored for pair in found)
    assert all(0.88 <= pair.similarity <= 1 for pair in found)


def test_mirrored_copies_are_found_and_reported(scenes: list[np.ndarray], prints: list[Fingerprint]) -> None:
    copies = [fingerprint(jpeg(image[:, ::-1])) for image in scenes]
    found = find_pairs(prints + copies)
    assert [(pair.first, pair.second) for pair in found] == [(i, i + 60) for i in range(60)]
    assert all(pair.mirrored and not pair.exact for pair in found)


def test_equal_pixels_are_exact_whatever_the_file(scenes: list[np.ndarray]) -> None:
    image = scenes[0]
    found = find_pairs([fingerprint(png(image, 0)), fingerprint(scenes[1]), fingerprint(png(image, 9))])
    assert found == [Pair(0, 2, exact=True, similarity=1.0)]


def test_one_level_in_one_pixel_is_near_but_not_exact(scenes: list[np.ndarray]) -> None:
    other = scenes[0].copy()
    other[5, 5, 0] ^= 1
    (found,) = find_pairs([fingerprint(scenes[0]), fingerprint(other)])
    assert not found.exact and found.similarity > 0.999


def test_of_equal_images_each_is_paired_with_the_last(scenes: list[np.ndarray]) -> None:
    same, other, near = fingerprint(scenes[0]), fingerprint(scenes[1]), fingerprint(jpeg(scenes[0]))
    found = find_pairs([same, other, same, near, same])
    assert [(pair.first, pair.second, pair.exact) for pair in found] == [(0, 4, True), (2, 4, True), (3, 4, False)]


def test_same_shape_and_bytes_but_another_size_is_not_exact() -> None:
    flat = np.zeros((4, 6, 3), np.uint8)
    assert find_pairs([fingerprint(flat), fingerprint(flat.reshape(6, 4, 3))]) == []


def test_another_aspect_ratio_is_another_image(scenes: list[np.ndarray]) -> None:
    stretched: np.ndarray = cv2.resize(scenes[0], (320, 400))
    assert find_pairs([fingerprint(scenes[0]), fingerprint(stretched)]) == []


def test_a_symmetric_image_and_its_copy_are_not_called_mirrored(scenes: list[np.ndarray]) -> None:
    image = np.concatenate([scenes[0], scenes[0][:, ::-1]], axis=1)
    (found,) = find_pairs([fingerprint(image), fingerprint(jpeg(image, 75))])
    assert not found.mirrored


# ---- what must not be found


def test_a_common_background_does_not_make_images_alike() -> None:
    """A fixed camera with a bright lamp and a frame: the parts on the table differ."""
    table = scene(0)
    table[:, :12] = table[:12] = 255
    images = []
    for seed in range(30):
        image, rng = table.copy(), np.random.default_rng(seed)
        for _ in range(12):
            x, y = rng.integers(30, 300), rng.integers(30, 220)
            cv2.circle(image, (int(x), int(y)), 22, rng.integers(0, 256, 3).tolist(), -1)
        images.append(fingerprint(image))
    assert find_pairs(images) == []


def test_clear_skies_and_uneven_light_are_not_alike() -> None:
    y, x = np.mgrid[-1:1:240j, -1:1:320j]
    rng = np.random.default_rng(0)
    slopes = [a * x + b * y + c * (x * x + y * y) for a, b, c in rng.uniform(-20, 20, (30, 3))]
    images = [120 + slope[..., None] + rng.normal(0, 2, (240, 320, 3)) for slope in slopes]
    assert find_pairs([fingerprint(image.astype(np.uint8)) for image in images]) == []


def test_single_cells_on_black_are_not_alike_by_chance() -> None:
    rng = np.random.default_rng(0)
    prints = []
    for _ in range(60):
        image = np.full((256, 256, 3), 6, np.uint8)
        centre, axes = rng.integers(20, 236, 2), rng.integers(8, 16, 2)
        cv2.ellipse(image, centre.tolist(), axes.tolist(), int(rng.integers(180)), 0, 360, (90, 90, 90), -1)
        prints.append(fingerprint(image))
    assert len(find_pairs(prints)) <= 8  # of 1770; some do lie in one place, with one outline


@pytest.mark.parametrize("level", [0, 128, 255])
def test_empty_images_are_the_same_only_by_their_pixels(level: int) -> None:
    rng = np.random.default_rng(0)
    noisy = [np.clip(level + rng.integers(-2, 3, (64, 64, 3)), 0, 255).astype(np.uint8) for _ in range(20)]
    assert find_pairs([fingerprint(image) for image in noisy]) == []
    flat = fingerprint(np.full((64, 64, 3), level, np.uint8))
    assert [(pair.first, pair.second) for pair in find_pairs([flat] * 3)] == [(0, 2), (1, 2)]


# ---- any input, bounded work


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70), st.integers(0, 3), st.integers(0, 9)), max_size=6),
)
def test_any_images_give_sound_pairs(kinds: list[tuple[int, int, int, int]]) -> None:
    images = []
    for height, width, spread, seed in kinds:
        low, high = ((0, 1), (0, 256), (254, 256), (10, 12))[spread]
        images.append(np.random.default_rng(seed).integers(low, high, (height, width, 3), np.uint8))
    found = find_pairs([fingerprint(image) for image in images])
    exact = {(pair.first, pair.second) for pair in found if pair.exact}
    last = {i: max(j for j in range(len(images)) if np.array_equal(images[i], images[j])) for i in range(len(images))}
    assert exact == {(i, j) for i, j in last.items() if i != j}
    assert all(pair.first < pair.second and 0 <= pair.similarity <= 1 for pair in found)
    assert len({(pair.first, pair.second) for pair in found}) == len(found)
    assert found == sorted(found, key=lambda pair: (pair.first, pair.second))


def test_images_thinner_than_the_thumbnail_and_not_contiguous(scenes: list[np.ndarray]) -> None:
    tall = np.ascontiguousarray(scenes[0][:, 100:101])
    assert find_pairs([fingerprint(tall), fingerprint(scenes[0][:, 100:101])])[0].exact
    assert find_pairs([fingerprint(np.zeros((1, 1, 3), np.uint8)), fingerprint(tall)]) == []


def test_threads_get_what_one_gets(scenes: list[np.ndarray], prints: list[Fingerprint]) -> None:
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(fingerprint, scenes)) == prints


def test_it_keeps_little(prints: list[Fingerprint]) -> None:
    assert len(prints[0].thumbnail) + len(prints[0].digest) < 1100


def test_a_film_without_motion_stays_bounded(scenes: list[np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    thumbnail = np.frombuffer(fingerprint(scenes[0]).thumbnail, np.uint8).astype(int)
    frames = [
        Fingerprint(
            rng.bytes(16),
            np.clip(thumbnail + rng.integers(-2, 3, SIDE**2), 0, 255).astype(np.uint8).tobytes(),
            0,
            255,
            1,
        )
        for _ in range(600)
    ]
    found = find_pairs(frames)
    assert len(found) <= 2 * MOST_ALIKE * len(frames)  # of 179,700
    assert {place for pair in found for place in (pair.first, pair.second)} == set(range(600))


def test_many_empty_images_take_no_time() -> None:
    black = fingerprint(np.zeros((8, 8, 3), np.uint8))
    start = time.process_time()
    assert len(find_pairs([black] * 20_000)) == 19_999
    assert time.process_time() - start < 5  # all pairs, 200 million, would take minutes


def test_more_images_than_a_block_are_all_compared(scenes: list[np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    others = [Fingerprint(rng.bytes(16), rng.bytes(SIDE**2), 0.0, 255.0, 4 / 3) for _ in range(2500)]
    ends = [fingerprint(scenes[0]), *others[:1200], fingerprint(scenes[1]), *others[1200:]]
    ends += [fingerprint(jpeg(scenes[1])), fingerprint(jpeg(scenes[0]))]
    assert [(pair.first, pair.second) for pair in find_pairs(ends)] == [(0, 2503), (1201, 2502)]


# ---- real images


@real
def test_between_train_and_val_of_the_real_sets() -> None:
    found = {}
    for name in ("nuclei", "coco_sample"):
        splits = load_splits(SHARED / name)
        images = [(split, dataset, image) for split, dataset in splits.items() for image in dataset.images]
        with ThreadPoolExecutor(2) as threads:
            prints = list(threads.map(lambda row: fingerprint(read_image(row[1].path(row[2]))), images))
        found[name] = [
            (images[p.first][2].file_name, images[p.second][2].file_name, p.exact) for p in find_pairs(prints)
        ]
    assert found["coco_sample"] == []
    assert found["nuclei"] == [("20b20ab04937.png", "cb4df20a83b2.png", False)]  # one embryo, seconds apart


@real
def test_altered_real_images_are_found() -> None:
    dataset = load_splits(SHARED / "nuclei")["val"]
    images = [read_image(dataset.path(image)) for image in dataset.images]
    copies = [jpeg(image[2:, 2:], 50) for image in images]
    found = find_pairs([fingerprint(image) for image in images + copies])
    right = [pair for pair in found if pair.second - pair.first == len(images)]
    assert len(right) >= 0.98 * len(images) and len(found) == len(right)
